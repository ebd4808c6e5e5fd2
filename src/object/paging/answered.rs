//! Queues with requests answered inside a drop, where no waker may be called.

use core::ptr;

use topomem_percpu::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use super::queue::PagerQueue;
use crate::Machine;

/// A queue's place in the list.
pub(in crate::object) struct Link<P: Machine> {
    is_listed: AtomicBool,
    next: AtomicPtr<PagerQueue<P>>,
}

impl<P: Machine> Link<P> {
    #[cfg(not(loom))]
    pub(crate) const fn new() -> Link<P> {
        Link { is_listed: AtomicBool::new(false), next: AtomicPtr::new(ptr::null_mut()) }
    }
}

/// The queues whose waiters [`MemoryService::run_pending_work`](crate::MemoryService::run_pending_work) has to wake.
pub(crate) struct QueuesDue<P: Machine> {
    first: AtomicPtr<PagerQueue<P>>,
}

impl<P: Machine> QueuesDue<P> {
    #[cfg(not(loom))]
    pub(crate) const fn new() -> QueuesDue<P> {
        QueuesDue { first: AtomicPtr::new(ptr::null_mut()) }
    }

    /// Adds a queue, whose answered requests are noted. Never blocks.
    pub(crate) fn add(&self, queue: &'static PagerQueue<P>) {
        let link = queue.link();
        // Release pairs with the Acquire in `wake`: the taker of the queue sees the notes. Acquire:
        // the last use of `next` happened before.
        if link.is_listed.swap(true, Ordering::AcqRel) {
            return;
        }
        let mut first = self.first.load(Ordering::Relaxed);
        loop {
            link.next.store(first, Ordering::Relaxed);
            // Release pairs with the Acquire in `wake`: the link is visible. All queues are taken
            // at once, which rules out ABA.
            let new = ptr::from_ref(queue).cast_mut();
            match self.first.compare_exchange_weak(first, new, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => first = now,
            }
        }
    }

    /// Wakes the waiters of the answered requests.
    pub(crate) fn wake(&self) {
        // Relaxed: a hint.
        if self.first.load(Ordering::Relaxed).is_null() {
            return;
        }
        let mut next = self.first.swap(ptr::null_mut(), Ordering::Acquire);
        // SAFETY: null, or from `add`: a `&'static PagerQueue`.
        while let Some(queue) = unsafe { next.as_ref() } {
            next = queue.link().next.load(Ordering::Relaxed);
            // Before the look: later notes put the queue on the list again.
            queue.link().is_listed.swap(false, Ordering::AcqRel);
            queue.wake_answered();
        }
    }
}
