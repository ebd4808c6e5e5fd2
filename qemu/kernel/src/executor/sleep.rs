//! Waiting for a time. An idle CPU sets its timer to the next sleeper's.

extern crate alloc;

use alloc::collections::TryReserveError;
use alloc::vec::Vec;
use core::pin::Pin;
use core::sync::atomic::{AtomicU64, Ordering};
use core::task::{Context, Poll, Waker};
use core::time::Duration;

use spin::mutex::SpinMutex;
use topomem::CpuId;

use crate::arch::clock::{self, Ticks};
use crate::per_cpu::{self, MAX_CPUS, Polling};

/// Sleepers that a CPU has room for from the start.
const USUAL: usize = 16;

struct Sleeper {
    number: u64,
    start: Ticks,
    time: Duration,
    waker: Waker,
}

/// Each CPU's sleepers; used by its tasks and its loop alone, never by handlers.
static SLEEPERS: [SpinMutex<Vec<Sleeper>, Polling>; MAX_CPUS] =
    [const { SpinMutex::new(Vec::new()) }; MAX_CPUS];

/// Ready after `time`, or at once where there is no memory to note the sleeper.
pub(crate) fn sleep(time: Duration) -> Sleep {
    Sleep { start: clock::now(), time, noted: None }
}

/// [`sleep`]'s future. Dropped early, it leaves no sleeper: a waker keeps its task's memory.
#[derive(Debug)]
pub(crate) struct Sleep {
    start: Ticks,
    time: Duration,
    noted: Option<Noted>,
}

/// Where a sleeper is.
#[derive(Debug, Clone, Copy)]
struct Noted {
    cpu: CpuId,
    number: u64,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        static NEXT: AtomicU64 = AtomicU64::new(0);

        if clock::elapsed(self.start) >= self.time {
            return Poll::Ready(());
        }
        self.forget();
        let cpu = per_cpu::current().cpu;
        let mut sleepers = SLEEPERS[cpu.index()].lock();
        if sleepers.try_reserve(1).is_err() {
            return Poll::Ready(());
        }
        // Relaxed: only that each is another number matters.
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let (start, time) = (self.start, self.time);
        sleepers.push(Sleeper { number, start, time, waker: context.waker().clone() });
        self.noted = Some(Noted { cpu, number });
        Poll::Pending
    }
}

impl Sleep {
    fn forget(&mut self) {
        let Some(Noted { cpu, number }) = self.noted.take() else { return };
        let mut sleepers = SLEEPERS[cpu.index()].lock();
        let place = sleepers.iter().position(|sleeper| sleeper.number == number);
        let sleeper = place.map(|place| sleepers.swap_remove(place));
        // Without the lock: the last waker of a task drops the task.
        drop(sleepers);
        drop(sleeper);
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.forget();
    }
}

/// Makes room for the sleepers of the executing CPU, so that sleeping seldom allocates.
///
/// # Errors
///
/// Out of memory.
pub(super) fn prepare() -> Result<(), TryReserveError> {
    SLEEPERS[per_cpu::current().cpu.index()].lock().try_reserve(USUAL)
}

/// How long until the executing CPU's next sleeper is due; `None` where nobody sleeps.
pub(super) fn next_due() -> Option<Duration> {
    let sleepers = SLEEPERS[per_cpu::current().cpu.index()].lock();
    sleepers.iter().map(|sleeper| sleeper.time.saturating_sub(clock::elapsed(sleeper.start))).min()
}

/// Wakes the executing CPU's sleepers whose time has come.
pub(super) fn wake_due() {
    let sleepers = &SLEEPERS[per_cpu::current().cpu.index()];
    loop {
        let due = {
            let mut sleepers = sleepers.lock();
            let due = sleepers.iter().position(|sleeper| clock::elapsed(sleeper.start) >= sleeper.time);
            due.map(|index| sleepers.swap_remove(index))
        };
        match due {
            Some(sleeper) => sleeper.waker.wake(),
            None => return,
        }
    }
}
