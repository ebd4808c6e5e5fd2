//! The work that nobody waits for.

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

/// What [`MemoryService::tend`] left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tended {
    /// Nothing: the next call may wait until something happens.
    Done,
    /// Retired frames wait for CPUs that have not answered yet.
    Waiting,
}

/// Frames that one call of [`MemoryService::tend`] zeroes at most: 32 KiB.
const ZEROED_AT_ONCE: usize = 8;

impl<P: Machine> MemoryService<P> {
    /// Does the service's work on the pinned CPU once: drains magazines, of frames and of objects,
    /// where other CPUs asked for it or the CPU has little use for them, collects objects that other
    /// nodes' CPUs freed, frees what has retired, takes apart abandoned spaces, calls the callbacks of
    /// what is complete, wakes whoever waits for a pager whose task was dropped, zeroes a few frames ahead, and calls the wakers that are due
    /// ([`MemoryService::wake_due`]). Where a future waits for frames, it also frees what the heap holds
    /// in reserve, and empty page tables.
    ///
    /// For service tasks and idle loops, not for interrupt handlers. Costs a few loads where
    /// there is nothing to do, plus a look at each address space and at each slot of the node's
    /// pool of zeroed frames; zeroes at most 8 frames. An idle loop that wants the pool full calls
    /// [`Frames::refill_zeroed`](topomem_numa::frames::Frames::refill_zeroed) until it returns 0.
    pub fn tend(&self, pin: &CpuPin) -> Tended {
        // Before the work: what is noted from here on is for the next time.
        self.task_wakers.take(pin.cpu());
        self.frames.service(pin);
        self.frames.trim(pin);
        if let Some(heap) = self.heap() {
            heap.heap().tend(pin);
        }
        if let Some(ranges) = self.kernel_ranges() {
            ranges.flush_if_many(pin);
        }
        let mut budget = Budget::unlimited();
        let mut collected = self.collect(pin, &mut budget).and(self.reap(pin, &mut budget));
        if self.frames.is_awaited() {
            // What is kept for later use is wanted now.
            collected = collected.and(self.reclaim(pin, &mut budget));
        }
        self.callbacks_due.call();
        self.pagers_due.wake();
        self.frames.refill_zeroed(pin, ZEROED_AT_ONCE);
        self.wake_due(pin);
        if collected.waiting | collected.more { Tended::Waiting } else { Tended::Done }
    }

    /// Has `callbacks` called by the next [`MemoryService::tend`]: whoever finds them due may hold
    /// locks, or be in the middle of an allocation.
    pub(crate) fn call_soon(&self, callbacks: Callbacks) {
        self.callbacks_due.add(callbacks);
    }

    /// Has the next [`MemoryService::tend`] wake whoever waits for requests of `queue` that were answered
    /// inside a drop.
    pub(crate) fn wake_pager_queue(&self, queue: &'static PagerQueue<P>) {
        self.pagers_due.add(queue);
        self.note_work_anywhere();
    }

    /// `cpu`'s service task: [`MemoryService::tend`] whenever there is something to do. Spawn it
    /// on each CPU's executor. It never ends; dropping it is safe.
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
        // Before the work: what retires from here on wakes us.
        service.task_wakers.register(self.cpu, context.waker());
        if service.tend(&pin) == Tended::Waiting {
            // No interrupt tells when the last CPU has answered: look again after the others.
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
