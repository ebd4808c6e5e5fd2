//! Threads that play CPUs, started together.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Keeps the calling thread on the `cpu`th of the processors that the process may use, so that
/// no sample pays for a migration. Where the system refuses, it goes without.
fn stay_on(cpu: usize) {
    let Ok(allowed) = sched_getaffinity(None) else { return };
    let mut processors = (0..CpuSet::MAX_CPU).filter(|&processor| allowed.is_set(processor));
    if let Some(processor) = processors.nth(cpu) {
        let mut alone = CpuSet::new();
        alone.set(processor);
        let _ = sched_setaffinity(None, &alone);
    }
}

/// A meeting of all threads; who comes early yields, since sleepers would start late.
struct Meeting {
    expected: usize,
    came: AtomicUsize,
}

impl Meeting {
    fn of(expected: usize) -> Meeting {
        Meeting { expected, came: AtomicUsize::new(0) }
    }

    fn meet(&self) {
        // AcqRel and Acquire: what each did before is seen by all after.
        self.came.fetch_add(1, Ordering::AcqRel);
        while self.came.load(Ordering::Acquire) < self.expected {
            std::thread::yield_now();
        }
    }
}

/// Runs `body` on `cpus` threads that start together; the longest time of any of them.
///
/// `prepare(cpu)` runs on each thread before the start, and its result is `body`'s state;
/// `finish` takes the state when all have ended.
pub fn timed<T>(
    cpus: usize,
    prepare: impl Fn(usize) -> T + Sync,
    body: impl Fn(&mut T) + Sync,
    finish: impl Fn(T) + Sync,
) -> Duration {
    let (start, end) = (Meeting::of(cpus), Meeting::of(cpus));
    let run = |cpu| {
        stay_on(cpu);
        let mut state = prepare(cpu);
        start.meet();
        let began = Instant::now();
        body(&mut state);
        let elapsed = began.elapsed();
        end.meet();
        finish(state);
        elapsed
    };
    let run = &run;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..cpus).map(|cpu| scope.spawn(move || run(cpu))).collect();
        let longest = threads.into_iter().map(|thread| match thread.join() {
            Ok(elapsed) => elapsed,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        longest.max().unwrap_or_default()
    })
}
