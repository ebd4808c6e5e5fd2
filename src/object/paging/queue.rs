//! Requests to a pager, from contexts in need of pages to the pager's tasks.
//!
//! Each page being read in, or written back, has a single request, joined by further contexts in
//! need of the page. A request keeps its slot until it is answered and its last waiter has gone.
//! The slots are the queue, and a word of bits tells which of them wait for the pager. Adding a
//! request, taking a request, and giving up therefore never allocate or wait.

use core::future::poll_fn;
use core::task::{Poll, Waker};

use topomem_percpu::PhysFrame;
use topomem_percpu::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::answered::Link;
use super::pager::PagerError;
use super::wait::{Answers, PageWait};
use crate::Machine;
use crate::object::core::MemoryObject;
use crate::spin_lock::{SpinGuard, SpinLock};

/// Number of concurrent requests.
pub(super) const SLOTS: usize = 64;

/// Number of wakers kept by a request. Further waiters wake themselves, and look again.
const WAKERS: usize = 4;

/// Number of serving tasks woken.
const SERVERS: usize = 4;

/// The subject of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::object) enum Wanted {
    /// Read the page into the frame, which belongs to the request.
    Read { page: u64, frame: PhysFrame },
    /// Write the page back.
    Write { page: u64 },
    /// Discard these pages of the file, the first to the last.
    Discard { first: u64, last: u64 },
}

/// The progress of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Free,
    /// The pager has not been asked yet.
    Reserved,
    /// The request waits for the pager, or is being served.
    Asked,
    Answered(Result<(), PagerError>),
}

struct RequestSlot<P: Machine> {
    phase: Phase,
    wanted: Option<(MemoryObject<P>, Wanted)>,
    /// Number of waiters.
    waiting: u32,
    wakers: [Option<Waker>; WAKERS],
}

impl<P: Machine> RequestSlot<P> {
    const FREE: RequestSlot<P> =
        RequestSlot { phase: Phase::Free, wanted: None, waiting: 0, wakers: [const { None }; WAKERS] };

    fn is_for(&self, object: &MemoryObject<P>, is_same: impl Fn(Wanted) -> bool) -> bool {
        self.phase == Phase::Asked
            && self.wanted.as_ref().is_some_and(|(of, wanted)| of == object && is_same(*wanted))
    }
}

/// Requests to a pager: made for a `static`, one for each pager.
///
/// Objects add requests ([`MemoryObject::paged`]); tasks of the kernel run [`PagerQueue::serve`].
pub struct PagerQueue<P: Machine> {
    platform: P,
    slots: [SpinLock<RequestSlot<P>>; SLOTS],
    /// The slots with requests not yet taken.
    asked: AtomicU64,
    /// The start of the next search for a free slot, or for a request.
    next: AtomicU32,
    servers: SpinLock<[Option<Waker>; SERVERS]>,
    /// The slots with requests answered inside a drop: their wakers are still to be called.
    answered: AtomicU64,
    /// The queue's place among the queues with such slots.
    link: Link<P>,
}

/// A request taken by a task. A drop answers it with the end of the task.
pub(in crate::object) struct Job<P: Machine> {
    queue: &'static PagerQueue<P>,
    slot: usize,
    pub object: MemoryObject<P>,
    pub wanted: Wanted,
    /// Whether the request is answered.
    is_done: bool,
}

impl<P: Machine> PagerQueue<P> {
    /// Returns a queue without requests.
    #[cfg(not(loom))]
    #[must_use]
    pub const fn new(platform: P) -> PagerQueue<P> {
        PagerQueue {
            platform,
            slots: [const { SpinLock::new(RequestSlot::FREE) }; SLOTS],
            asked: AtomicU64::new(0),
            next: AtomicU32::new(0),
            servers: SpinLock::new([const { None }; SERVERS]),
            answered: AtomicU64::new(0),
            link: Link::new(),
        }
    }

    fn lock(&self, slot: usize) -> SpinGuard<'_, RequestSlot<P>> {
        self.slots[slot].lock(&self.platform)
    }

    /// Returns the slots, starting at another slot each time.
    fn order(&self) -> impl Iterator<Item = usize> + use<P> {
        // Relaxed: any order does.
        let first = self.next.fetch_add(1, Ordering::Relaxed) as usize;
        (first..first + SLOTS).map(|slot| slot % SLOTS)
    }

    /// Takes a free slot, and counts the caller as a waiter. The pager is asked by
    /// [`PagerQueue::ask`].
    pub(in crate::object) fn reserve(&'static self) -> Option<(usize, PageWait)> {
        let slot = self.order().find(|&slot| {
            let mut slot = self.lock(slot);
            let free = slot.phase == Phase::Free;
            if free {
                (slot.phase, slot.waiting) = (Phase::Reserved, 1);
            }
            free
        })?;
        Some((slot, PageWait::new(self, slot)))
    }

    /// Waits for any request if no slot is free. Returns `None` if a slot is free by now.
    pub(in crate::object) fn join_any(&'static self) -> Option<PageWait> {
        let slot = self.order().find(|&slot| self.try_join(slot, |slot| slot.phase == Phase::Asked))?;
        Some(PageWait::new(self, slot))
    }

    /// Waits for the request in `slot`, if it is for `object` and accepted by `is_same`.
    pub(in crate::object) fn join(
        &'static self,
        slot: usize,
        object: &MemoryObject<P>,
        is_same: impl Fn(Wanted) -> bool,
    ) -> Option<PageWait> {
        self.try_join(slot, |slot| slot.is_for(object, is_same)).then(|| PageWait::new(self, slot))
    }

    /// Waits for any request in `slot`, unless it was answered, or is not asked yet.
    pub(in crate::object) fn join_slot(&'static self, slot: usize) -> Option<PageWait> {
        self.try_join(slot, |slot| slot.phase == Phase::Asked).then(|| PageWait::new(self, slot))
    }

    /// Waits for the request for `object` accepted by `is_same`, in any slot.
    pub(in crate::object) fn find(
        &'static self,
        object: &MemoryObject<P>,
        is_same: impl Fn(Wanted) -> bool + Copy,
    ) -> Option<PageWait> {
        (0..SLOTS).find_map(|slot| self.join(slot, object, is_same))
    }

    fn try_join(&self, slot: usize, accepts: impl FnOnce(&RequestSlot<P>) -> bool) -> bool {
        let mut slot = self.lock(slot);
        let joins = accepts(&slot);
        if joins {
            slot.waiting += 1;
        }
        joins
    }

    /// Asks the pager for `wanted` in the slot from [`PagerQueue::reserve`], and wakes the pager's
    /// tasks.
    pub(in crate::object) fn ask(&self, slot: usize, object: MemoryObject<P>, wanted: Wanted) {
        {
            let mut slot = self.lock(slot);
            (slot.phase, slot.wanted) = (Phase::Asked, Some((object, wanted)));
        }
        // Release pairs with the Acquire in `take`.
        self.asked.fetch_or(1 << slot, Ordering::Release);
        let wakers = core::mem::replace(&mut *self.servers.lock(&self.platform), [const { None }; SERVERS]);
        wakers.into_iter().flatten().for_each(Waker::wake);
    }

    /// Takes a request out.
    fn take(&'static self) -> Option<Job<P>> {
        let slot = self.order().find(|&slot| {
            let bit = 1 << slot;
            // Relaxed: a hint. Acquire pairs with the Release in `ask`.
            self.asked.load(Ordering::Relaxed) & bit != 0
                && self.asked.fetch_and(!bit, Ordering::Acquire) & bit != 0
        })?;
        let (object, wanted) = self.lock(slot).wanted.clone()?;
        Some(Job { queue: self, slot, object, wanted, is_done: false })
    }

    /// Waits for a request.
    pub(in crate::object) async fn next(&'static self) -> Job<P> {
        poll_fn(|context| {
            if let Some(job) = self.take() {
                return Poll::Ready(job);
            }
            let mut servers = self.servers.lock(&self.platform);
            match servers.iter_mut().find(|waker| waker.is_none()) {
                Some(place) => *place = Some(context.waker().clone()),
                None => context.waker().wake_by_ref(),
            }
            drop(servers);
            // A request may have come between the look and the registration.
            self.take().map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }

    /// Answers the request in `slot`. [`PagerQueue::wake_waiting`] wakes its waiters.
    fn answer(&self, slot: usize, outcome: Result<(), PagerError>) {
        let mut slot = self.lock(slot);
        slot.phase = Phase::Answered(outcome);
        let ended = self.end_if_left(slot);
        drop(ended);
    }

    /// Wakes the present and former waiters of the request in `slot`.
    fn wake_waiting(&self, slot: usize) {
        let wakers = core::mem::replace(&mut self.lock(slot).wakers, [const { None }; WAKERS]);
        wakers.into_iter().flatten().for_each(Waker::wake);
    }

    /// Wakes the waiters of requests answered inside a drop.
    pub(super) fn wake_answered(&self) {
        // Acquire pairs with the Release in the drop of a job.
        let mut slots = self.answered.swap(0, Ordering::Acquire);
        while slots != 0 {
            self.wake_waiting(slots.trailing_zeros() as usize);
            slots &= slots - 1;
        }
    }

    pub(in crate::object) fn link(&self) -> &Link<P> {
        &self.link
    }

    /// Returns the number of waiters of the request in `slot`.
    pub(in crate::object) fn waiting(&self, slot: usize) -> u32 {
        self.lock(slot).waiting
    }

    /// Frees the slot if its request was answered and has no waiter. The caller drops the result
    /// without the lock.
    fn end_if_left(&self, mut slot: SpinGuard<'_, RequestSlot<P>>) -> Option<(MemoryObject<P>, Wanted)> {
        let ends = slot.waiting == 0 && matches!(slot.phase, Phase::Answered(_));
        if !ends {
            return None;
        }
        slot.wanted.take().inspect(|(object, wanted)| {
            if let Wanted::Read { page, .. } = wanted {
                object.core().unpin(*page);
            }
            slot.phase = Phase::Free;
        })
    }
}

impl<P: Machine> Answers for PagerQueue<P> {
    fn poll(&self, slot: usize, waker: Option<&Waker>) -> Poll<Result<(), PagerError>> {
        let mut slot = self.lock(slot);
        if let Phase::Answered(answer) = slot.phase {
            return Poll::Ready(answer);
        }
        if let Some(waker) = waker
            && !slot.wakers.iter().flatten().any(|known| known.will_wake(waker))
        {
            match slot.wakers.iter_mut().find(|place| place.is_none()) {
                Some(place) => *place = Some(waker.clone()),
                None => waker.wake_by_ref(),
            }
        }
        Poll::Pending
    }

    fn leave(&self, slot: usize) {
        let mut slot = self.lock(slot);
        slot.waiting -= 1;
        if slot.phase == Phase::Reserved {
            slot.phase = Phase::Free;
            return;
        }
        let ended = self.end_if_left(slot);
        drop(ended);
    }
}

impl<P: Machine> Drop for Job<P> {
    fn drop(&mut self) {
        if self.is_done {
            return;
        }
        self.end(Err(PagerError::Stopped));
        // Release pairs with the Acquire in `wake_answered`. No waker is called in a drop.
        self.queue.answered.fetch_or(1 << self.slot, Ordering::Release);
        self.object.core().service.wake_pager_queue(self.queue);
    }
}

impl<P: Machine> Job<P> {
    /// Answers the request, and wakes its waiters.
    pub(crate) fn answer(mut self, outcome: Result<(), PagerError>) {
        self.end(outcome);
        let (queue, slot) = (self.queue, self.slot);
        drop(self);
        queue.wake_waiting(slot);
    }

    fn end(&mut self, outcome: Result<(), PagerError>) {
        self.is_done = true;
        self.object.core().note_answer(self, outcome);
        self.queue.answer(self.slot, outcome);
    }

    /// Returns whether the request has waiters.
    pub(crate) fn is_awaited(&self) -> bool {
        self.queue.waiting(self.slot) > 0
    }

    /// Returns the number of the request's slot.
    pub(crate) fn slot(&self) -> usize {
        self.slot
    }
}

impl<P: Machine> core::fmt::Debug for PagerQueue<P> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("PagerQueue").field("asked", &self.asked).finish_non_exhaustive()
    }
}
