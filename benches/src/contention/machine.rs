//! CPUs that take turns: coroutines on one thread, switched before every access.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;

use corosensei::{Coroutine, CoroutineResult, Yielder};
use topomem_percpu::sync::observed::{Access, observe};

use super::counts::Counts;
use super::lines::{LINE, Lines, Served, Use};
use crate::random::Random;

/// The machine that the thread is running.
#[derive(Default)]
struct Machine {
    /// The CPU whose step it is; none while CPUs are set up.
    running: Cell<Option<usize>>,
    cpus: RefCell<Vec<Cpu>>,
    lines: RefCell<Lines>,
    /// The lines used by the operation that is being looked at, if any.
    looked_at: RefCell<Option<HashSet<usize>>>,
}

#[derive(Default)]
struct Cpu {
    counts: Counts,
    /// How it hands over to the scheduler, once it has begun.
    hand_over: Option<*const Yielder<(), ()>>,
}

thread_local! {
    static MACHINE: Machine = Machine::default();
}

/// Counts something on the CPU whose step it is.
pub(super) fn count(change: impl FnOnce(&mut Counts)) {
    MACHINE.with(|machine| {
        if let Some(cpu) = machine.running.get() {
            change(&mut machine.cpus.borrow_mut()[cpu].counts);
        }
    });
}

/// The CPU whose step it is; none while CPUs are set up.
pub(super) fn running() -> Option<usize> {
    MACHINE.with(|machine| machine.running.get())
}

/// What the CPU whose step it is has counted.
pub(super) fn counts() -> Counts {
    MACHINE.with(|machine| {
        machine.running.get().map_or(Counts::default(), |cpu| machine.cpus.borrow()[cpu].counts)
    })
}

/// A step of the CPU that does this access.
pub(super) fn step(access: Access) {
    let (address, access_use) = match access {
        Access::Failed(_) => return count(|counts| counts.retries += 1),
        Access::Load(address) => (address, Use::Read),
        Access::Store(address) => (address, Use::Write),
        Access::ReadModifyWrite(address) => {
            count(|counts| counts.modifications += 1);
            (address, Use::Write)
        }
    };
    MACHINE.with(|machine| {
        let Some(cpu) = machine.running.get() else { return };
        let hand_over = machine.cpus.borrow()[cpu].hand_over;
        if let Some(yielder) = hand_over {
            // SAFETY: the running CPU's own yielder, which lives as long as its coroutine runs.
            unsafe { (*yielder).suspend(()) };
        }
        if let Some(lines) = &mut *machine.looked_at.borrow_mut() {
            lines.insert(address / LINE);
        }
        if machine.lines.borrow_mut().access(cpu, address, access_use) == Served::ByOthers {
            machine.cpus.borrow_mut()[cpu].counts.transfers += 1;
        }
    });
}

/// Runs `programs`, one on each CPU, to their ends; what they counted. Lines stay where they are
/// for the next call.
pub(super) fn run(programs: Vec<Box<dyn FnOnce()>>, seed: u64) -> Counts {
    observe(step);
    MACHINE.with(|machine| {
        *machine.cpus.borrow_mut() = programs.iter().map(|_| Cpu::default()).collect();
        let mut live: Vec<_> = programs.into_iter().enumerate().map(begin).collect();
        let mut random = Random::new(seed);
        while !live.is_empty() {
            let drawn = random.below(live.len());
            let (cpu, coroutine) = &mut live[drawn];
            machine.running.set(Some(*cpu));
            if let CoroutineResult::Return(()) = coroutine.resume(()) {
                live.swap_remove(drawn);
            }
        }
        machine.running.set(None);
        let mut total = Counts::default();
        machine.cpus.borrow().iter().for_each(|cpu| total += cpu.counts);
        total
    })
}

/// Counts the cache lines that `operation` uses, on a machine of one CPU.
pub(super) fn distinct_lines(operation: impl FnOnce()) -> usize {
    MACHINE.with(|machine| machine.looked_at.replace(Some(HashSet::new())));
    operation();
    MACHINE.with(|machine| machine.looked_at.take()).map_or(0, |lines| lines.len())
}

/// Forgets which lines are where: for another allocator.
pub(super) fn reset() {
    MACHINE.with(|machine| *machine.lines.borrow_mut() = Lines::default());
}

fn begin((cpu, program): (usize, Box<dyn FnOnce()>)) -> (usize, Coroutine<(), (), ()>) {
    let coroutine = Coroutine::new(move |yielder, ()| {
        MACHINE.with(|machine| machine.cpus.borrow_mut()[cpu].hand_over = Some(yielder));
        program();
    });
    (cpu, coroutine)
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use topomem_percpu::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    /// The increments of CPUs that load and store without a lock get lost: they do interleave.
    #[test]
    fn cpus_interleave_at_every_access() {
        let shared = Rc::new(AtomicU64::new(0));
        let program = |shared: Rc<AtomicU64>| -> Box<dyn FnOnce()> {
            Box::new(move || {
                for _ in 0..1000 {
                    shared.store(shared.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
                }
            })
        };
        reset();
        let counts = run(vec![program(shared.clone()), program(shared.clone())], 1);
        assert!(shared.load(Ordering::Relaxed) < 2000);
        assert!(counts.transfers > 1000, "{counts:?}");
        assert_eq!(counts.modifications, 0);
    }

    #[test]
    fn a_line_used_twice_by_an_operation_counts_once() {
        #[repr(align(64))]
        struct Line([AtomicU64; 8]);
        let lines = Rc::new([const { Line([const { AtomicU64::new(0) }; 8]) }; 2]);
        let counted = Rc::new(Cell::new((0, 0)));
        let (used, result) = (lines.clone(), counted.clone());
        let program = move || {
            used[1].0[0].store(1, Ordering::Relaxed);
            let first = distinct_lines(|| {
                used[0].0[0].store(1, Ordering::Relaxed);
                used[0].0[7].fetch_add(1, Ordering::Relaxed);
            });
            let second =
                distinct_lines(|| used.iter().for_each(|line| _ = line.0[3].load(Ordering::Relaxed)));
            result.set((first, second));
        };
        reset();
        run(vec![Box::new(program)], 1);
        assert_eq!(counted.get(), (1, 2));
    }

    #[test]
    fn a_cpu_alone_moves_no_line() {
        let own = Rc::new(AtomicU64::new(0));
        let used = own.clone();
        reset();
        let counts = run(
            vec![Box::new(move || {
                for _ in 0..100 {
                    used.fetch_add(1, Ordering::Relaxed);
                }
            })],
            1,
        );
        assert_eq!(counts, Counts { modifications: 100, ..Counts::default() });
        assert_eq!(own.load(Ordering::Relaxed), 100);
    }
}
