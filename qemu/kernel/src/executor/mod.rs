//! A small executor: one run queue per CPU, tasks bound to the CPU that they were spawned on.
//!
//! Tasks never migrate, so a task that does not await between two steps takes both on one CPU.
//! A wake from another CPU interrupts the target only where that halts or is about to.

mod queue;
mod sleep;
mod yielding;

use core::fmt;
use core::sync::atomic::{Ordering, fence};

use async_task::Task;
use topomem::CpuId;
use x86_64::instructions::interrupts;

use crate::arch::vector;
use crate::memory::service;
use crate::per_cpu;
use crate::per_cpu::PerCpu;
use crate::smp::ipi;
use queue::Counted;
pub use sleep::sleep;
pub use yielding::yield_now;

/// No memory for one more task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpawnError(pub CpuId);

impl fmt::Display for SpawnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no memory for another task on {}", self.0)
    }
}

/// Runs `future` on `cpu`, from its next turn on. Dropping the task cancels it, unless it is
/// detached.
///
/// # Errors
///
/// [`SpawnError`] where the run queue cannot grow; the future is dropped.
pub fn spawn_on<F>(cpu: CpuId, future: F) -> Result<Task<F::Output>, SpawnError>
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    // Queue room is reserved here, so that waking never allocates.
    let place = queue::of(cpu).reserve().map_err(|_| SpawnError(cpu))?;
    let (runnable, task) = async_task::spawn(Counted::new(future, place), move |runnable| {
        queue::of(cpu).push(runnable);
        nudge(cpu);
    });
    runnable.schedule();
    Ok(task)
}

/// Makes `cpu` look at its queue, which something was just put into.
fn nudge(cpu: CpuId) {
    if cpu == per_cpu::current().cpu {
        return;
    }
    // Pairs with the fence in `idle`: either it sees what was queued, or we see that it halts.
    fence(Ordering::SeqCst);
    if per_cpu::of(cpu).is_some_and(|area| area.halted.load(Ordering::Relaxed)) {
        ipi::send_one(vector::RESCHEDULE, cpu);
    }
}

/// The executing CPU's loop, for good: run what is runnable, serve memory, halt.
pub fn run() -> ! {
    let area = per_cpu::current();
    let queue = queue::of(area.cpu);
    loop {
        while let Some(runnable) = queue.pop() {
            runnable.run();
            turn();
        }
        turn();
        if queue.is_empty() {
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
    // Pairs with the fence in `nudge`: who queues something here after we have looked finds the
    // flag, and interrupts.
    fence(Ordering::SeqCst);
    service::enter_idle();
    if queue::of(area.cpu).is_empty() {
        // One instruction's shadow: no interrupt fits between `sti` and `hlt`.
        interrupts::enable_and_hlt();
    } else {
        interrupts::enable();
    }
    service::leave_idle();
    area.halted.store(false, Ordering::Relaxed);
}
