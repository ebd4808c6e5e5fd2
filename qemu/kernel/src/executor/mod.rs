//! A small executor: one run queue per CPU, tasks bound to the CPU that they were spawned on.
//!
//! Tasks never migrate, so a task that does not await between two steps takes both on one CPU.
//! A wake from another CPU interrupts the target only where that halts or is about to.

mod preemption;
mod queue;
mod sleep;
mod yielding;

use core::fmt;
use core::sync::atomic::{Ordering, fence};
use core::time::Duration;

use async_task::Task;
use topomem::CpuId;
use x86_64::instructions::interrupts;

use crate::arch::interrupt::{apic, vector};
use crate::log;
use crate::memory::service;
use crate::per_cpu;
use crate::per_cpu::PerCpu;
use crate::smp::ipi;
pub(crate) use preemption::Slice;
use queue::{Counted, Place};
pub(crate) use sleep::sleep;
pub(crate) use yielding::yield_now;

/// No memory for one more task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SpawnError(pub CpuId);

impl fmt::Display for SpawnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no memory for another task on {}", self.0)
    }
}

/// Runs the future that `make` makes on `cpu`, where it is made too: it need not be `Send`.
/// Dropping the task cancels it, unless it is detached.
///
/// # Errors
///
/// [`SpawnError`] where the run queue cannot grow; `make` is dropped.
pub(crate) fn spawn_on<M, F>(cpu: CpuId, make: M) -> Result<Task<F::Output>, SpawnError>
where
    M: FnOnce() -> F + Send + 'static,
    F: Future<Output: Send + 'static> + 'static,
{
    Ok(reserve(cpu)?.spawn(make))
}

/// Room for one more task on a CPU.
#[derive(Debug)]
pub(crate) struct Reserved {
    cpu: CpuId,
    place: Place,
}

/// Makes room for one more task on `cpu`, so that waking it never allocates.
///
/// # Errors
///
/// [`SpawnError`] where the run queue cannot grow.
pub(crate) fn reserve(cpu: CpuId) -> Result<Reserved, SpawnError> {
    let place = queue::of(cpu).reserve().map_err(|_| SpawnError(cpu))?;
    Ok(Reserved { cpu, place })
}

impl Reserved {
    /// As [`spawn_on`], without an error.
    pub(crate) fn spawn<M, F>(self, make: M) -> Task<F::Output>
    where
        M: FnOnce() -> F + Send + 'static,
        F: Future<Output: Send + 'static> + 'static,
    {
        let Reserved { cpu, place } = self;
        let future = Counted::new(async move { make().await }, place);
        let schedule = move |runnable| {
            queue::of(cpu).push(runnable);
            wake_cpu(cpu);
        };
        // SAFETY: until its first poll the task holds nothing but `make`, which is `Send`. Its
        // runnable is run, and its future so polled and dropped, by the loop of `cpu` alone: nothing
        // else pops from its queue, nobody drops a runnable unrun, and a cancelled task is
        // scheduled once more for that. `schedule` is `Send`, `Sync` and 'static, the output `Send`.
        let (runnable, task) = unsafe { async_task::spawn_unchecked(future, schedule) };
        runnable.schedule();
        task
    }
}

/// How many more tasks `cpu` can have before its queue grows.
pub(crate) fn room(cpu: CpuId) -> usize {
    queue::of(cpu).room()
}

/// Makes `cpu` look at its queue, which something was just put into, if it halts or is in user mode.
fn wake_cpu(cpu: CpuId) {
    if cpu == per_cpu::current().cpu {
        return;
    }
    // Pairs with the fence in `idle`: either it sees what was queued, or we see that it halts (`Slice::enter` likewise).
    fence(Ordering::SeqCst);
    if per_cpu::of(cpu).is_some_and(|area| area.halted.load(Ordering::Relaxed)) {
        ipi::send_one(vector::RESCHEDULE, cpu);
    }
}

/// The executing CPU's loop, for good: run what is runnable, serve memory, zero some, halt.
pub(crate) fn run() -> ! {
    let area = per_cpu::current();
    if sleep::prepare().is_err() {
        log!("no memory for sleepers");
    }
    let queue = queue::of(area.cpu);
    loop {
        while let Some(runnable) = queue.pop() {
            runnable.run();
            turn();
        }
        turn();
        if queue.is_empty() && !service::while_idle() {
            idle(area);
        }
    }
}

/// What happens between tasks: due sleepers and completed shootdowns wake theirs.
fn turn() {
    sleep::wake_due();
    service::between_tasks();
}

/// Halts until an interrupt, unless something came in meanwhile.
fn idle(area: &PerCpu) {
    interrupts::disable();
    area.halted.store(true, Ordering::Relaxed);
    // Pairs with the fence in `wake_cpu`: who queues something here after we have looked finds the
    // flag, and interrupts.
    fence(Ordering::SeqCst);
    service::enter_idle();
    if queue::of(area.cpu).is_empty() {
        apic::tick_within(sleep::next_due().unwrap_or(Duration::MAX));
        // One instruction's shadow: no interrupt fits between `sti` and `hlt`.
        interrupts::enable_and_hlt();
    } else {
        interrupts::enable();
    }
    service::leave_idle();
    area.halted.store(false, Ordering::Relaxed);
}
