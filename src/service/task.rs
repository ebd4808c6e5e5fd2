//! Background work of the service.

use core::fmt;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll};

use topomem_percpu::{CpuId, CpuPin};

use super::MemoryService;
use crate::Machine;
use crate::budget::Budget;
use crate::object::PagerQueue;
use crate::retire::Callbacks;

/// The work left after [`MemoryService::run_pending_work`].
///
/// ```
/// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
/// # booted::run(|service, pin| {
/// let left = service.run_pending_work(pin); // in every round of an idle loop
/// println!("{left:?}");
/// # Ok(())
/// # }).unwrap();
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PendingWork {
    /// None: the next call may wait for an event.
    Done,
    /// Retired frames wait for answers of CPUs.
    Waiting,
}

/// Greatest number of frames zeroed by a call of [`MemoryService::run_pending_work`]: 32 KiB.
const ZEROED_AT_ONCE: usize = 8;

impl<P: Machine> MemoryService<P> {
    /// Does the service's pending work on the pinned CPU once.
    ///
    /// The call:
    ///
    /// - drains magazines of frames and of objects, if remote CPUs asked for them or the CPU rarely
    ///   uses them;
    /// - collects objects freed by CPUs of other nodes;
    /// - frees retired frames, and dismantles abandoned spaces;
    /// - if a future waits for frames, also frees the heap's reserves and empty page tables; if a
    ///   node has fewer frames than [`Watermarks::low`], frees them until each of the node's zones
    ///   has [`Watermarks::high`], or nothing more can be freed;
    /// - calls the callbacks of complete changes, and wakes the waiters of pagers with a dropped
    ///   task;
    /// - zeroes a few frames ahead, and calls due wakers ([`MemoryService::wake_due`]).
    ///
    /// For service tasks and idle loops, not for interrupt handlers. Cost without work: a few
    /// loads, a look at each address space, and a look at each slot of the node's pool of zeroed
    /// frames. The call zeroes at most 8 frames. An idle loop can fill the pool by calling
    /// [`Frames::refill_zeroed`](topomem_numa::frames::Frames::refill_zeroed) until it returns 0.
    ///
    /// [`Watermarks::low`]: topomem_numa::frames::Watermarks::low
    /// [`Watermarks::high`]: topomem_numa::frames::Watermarks::high
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// use topomem::PendingWork;
    ///
    /// // In the idle loop:
    /// while service.run_pending_work(pin) == PendingWork::Waiting {
    ///     core::hint::spin_loop();
    /// }
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub fn run_pending_work(&self, pin: &CpuPin) -> PendingWork {
        // Before the work: later notes are for the next call.
        self.task_wakers.take(pin.cpu());
        self.frames.service(pin);
        self.frames.trim(pin);
        if let Some(heap) = self.heap() {
            heap.heap().run_pending_work(pin);
        }
        if let Some(ranges) = self.kernel_ranges() {
            ranges.flush_if_many(pin);
        }
        let mut budget = Budget::unlimited();
        let mut collected = self.collect(pin, &mut budget).and(self.reap(pin, &mut budget));
        collected = collected.and(self.balance(pin, &mut budget));
        if self.frames.is_awaited() {
            // Reserves are needed now.
            collected = collected.and(self.reclaim(pin, &mut budget));
        }
        self.callbacks_due.call();
        self.pagers_due.wake();
        self.frames.refill_zeroed(pin, ZEROED_AT_ONCE);
        self.wake_due(pin);
        if collected.waiting | collected.more { PendingWork::Waiting } else { PendingWork::Done }
    }

    /// Lets the next [`MemoryService::run_pending_work`] call `callbacks`. The caller may hold locks, or be in
    /// the middle of an allocation.
    pub(crate) fn call_soon(&self, callbacks: Callbacks) {
        self.callbacks_due.add(callbacks);
    }

    /// Lets the next [`MemoryService::run_pending_work`] wake the waiters for requests of `queue` answered
    /// inside a drop.
    pub(crate) fn wake_pager_queue(&self, queue: &'static PagerQueue<P>) {
        self.pagers_due.add(queue);
        self.note_work_anywhere();
    }

    /// Returns `cpu`'s service task, which calls [`MemoryService::run_pending_work`] whenever work is due. A
    /// kernel spawns the task on each CPU's executor. The task never ends; dropping it is safe.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// let task = service.task(pin.cpu());
    /// // ... executor.spawn(task) ...
    /// # drop(task);
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub fn task(&'static self, cpu: CpuId) -> ServiceTask<P> {
        ServiceTask { service: self, cpu }
    }
}

/// The future of [`MemoryService::task`].
#[must_use = "futures do nothing unless polled"]
pub struct ServiceTask<P: Machine> {
    service: &'static MemoryService<P>,
    cpu: CpuId,
}

impl<P: Machine> Future for ServiceTask<P> {
    type Output = core::convert::Infallible;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let service = self.service;
        let pin = service.platform.pin();
        // Before the work: later retirements wake the task.
        service.task_wakers.register(self.cpu, context.waker());
        if service.run_pending_work(&pin) == PendingWork::Waiting {
            // No interrupt announces the last CPU's answer: look again after the other tasks.
            context.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

impl<P: Machine> fmt::Debug for ServiceTask<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceTask").field("cpu", &self.cpu).finish_non_exhaustive()
    }
}
