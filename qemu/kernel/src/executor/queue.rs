//! One CPU's runnable tasks.

extern crate alloc;

use alloc::collections::{TryReserveError, VecDeque};
use core::pin::Pin;
use core::sync::atomic::{AtomicUsize, Ordering};
use core::task::{Context, Poll};

use async_task::Runnable;
use spin::mutex::{SpinMutex, SpinMutexGuard};
use topomem::CpuId;
use x86_64::instructions::interrupts;

use crate::per_cpu::{MAX_CPUS, Polling};

/// Tasks that a queue has room for from the first.
const USUAL: usize = 16;

/// A run queue. Handlers may wake tasks, so it is locked with interrupts off; whoever waits for
/// it answers shootdowns meanwhile.
#[derive(Debug)]
pub(super) struct RunQueue {
    inner: SpinMutex<Inner, Polling>,
    /// How many tasks are queued: written with the lock held.
    queued: AtomicUsize,
}

#[derive(Debug)]
struct Inner {
    runnable: VecDeque<Runnable>,
    /// Tasks that exist. Each is queued at most once, so the queue never needs more room.
    tasks: usize,
}

static QUEUES: [RunQueue; MAX_CPUS] = [const { RunQueue::new() }; MAX_CPUS];

/// The queue of `cpu`.
pub(super) fn of(cpu: CpuId) -> &'static RunQueue {
    &QUEUES[cpu.index()]
}

impl RunQueue {
    const fn new() -> RunQueue {
        let inner = Inner { runnable: VecDeque::new(), tasks: 0 };
        RunQueue { inner: SpinMutex::new(inner), queued: AtomicUsize::new(0) }
    }

    fn with<R>(&self, f: impl FnOnce(SpinMutexGuard<'_, Inner, Polling>) -> R) -> R {
        interrupts::without_interrupts(|| f(self.inner.lock()))
    }

    /// Makes room for one more task.
    ///
    /// # Errors
    ///
    /// Out of memory; nothing has changed.
    pub(super) fn reserve(&'static self) -> Result<Place, TryReserveError> {
        self.with(|mut inner| {
            let spare = (inner.tasks + 1).max(USUAL) - inner.runnable.len();
            inner.runnable.try_reserve(spare)?;
            inner.tasks += 1;
            Ok(Place(self))
        })
    }

    /// For how many more tasks there is room without growing.
    pub(super) fn room(&self) -> usize {
        self.with(|inner| inner.runnable.capacity().saturating_sub(inner.tasks))
    }

    /// Adds a task to the end.
    pub(super) fn push(&self, runnable: Runnable) {
        self.with(|mut inner| {
            inner.runnable.push_back(runnable);
            self.queued.store(inner.runnable.len(), Ordering::Relaxed);
        });
    }

    /// Takes the first task.
    pub(super) fn pop(&self) -> Option<Runnable> {
        self.with(|mut inner| {
            let first = inner.runnable.pop_front();
            self.queued.store(inner.runnable.len(), Ordering::Relaxed);
            first
        })
    }

    /// Is nothing runnable? Takes no lock: a CPU asks on each way to user mode.
    pub(super) fn is_empty(&self) -> bool {
        // Relaxed: a CPU that must not miss a task has a full barrier before, which pairs with the one in
        // `wake_cpu`, after the task was queued.
        self.queued.load(Ordering::Relaxed) == 0
    }
}

/// Room in a queue, given back on drop.
#[derive(Debug)]
pub(super) struct Place(&'static RunQueue);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.with(|mut inner| inner.tasks -= 1);
    }
}

/// A future that holds its place in the queue for as long as it can be queued.
#[derive(Debug)]
pub(super) struct Counted<F> {
    future: F,
    _place: Place,
}

impl<F> Counted<F> {
    /// `future` in `place`.
    pub(super) fn new(future: F, place: Place) -> Counted<F> {
        Counted { future, _place: place }
    }
}

impl<F: Future> Future for Counted<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        // SAFETY: `future` is pinned with the whole: it is never moved out, and there is no
        // Drop for `Counted` that could.
        unsafe { self.map_unchecked_mut(|counted| &mut counted.future) }.poll(context)
    }
}
