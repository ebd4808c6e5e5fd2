//! The retired batches of one address space, which several CPUs may add to at a time.

use crossbeam_utils::CachePadded;
use topomem_numa::frames::Frames;
use topomem_percpu::{CpuPin, Platform};
use topomem_shootdown::Request;

use super::list::{Parked, RetireList};
use crate::spin_lock::{SpinGuard, SpinLock};

/// How many lists a space has: with as many CPUs, or contexts that interrupt each other, none finds its list in
/// use.
const LISTS: usize = 4;

/// All retired batches of one address space.
///
/// A batch may be in any list. A CPU begins with a list of its own number, and passes those that are in use, so
/// that the drop of an unmapping does not wait for a CPU that is in the middle of another drop. It would only
/// wait while all lists are in use.
pub(crate) struct RetireLists {
    lists: [CachePadded<SpinLock<RetireList>>; LISTS],
}

/// What [`RetireLists::take_done`] has found.
pub(crate) enum Taken {
    /// A batch whose request is done.
    Done(Parked),
    /// No such batch.
    None {
        /// Are there other batches, or lists in use, which may have some?
        waiting: bool,
    },
}

impl RetireLists {
    pub fn new() -> RetireLists {
        RetireLists { lists: core::array::from_fn(|_| CachePadded::new(SpinLock::new(RetireList::new()))) }
    }

    /// Locks a list that is not in use, the pinned CPU's if possible.
    fn lock_any(&self, platform: &impl Platform, pin: &CpuPin) -> SpinGuard<'_, RetireList> {
        let own = pin.cpu().index();
        loop {
            let mut lists = (own..own + LISTS).map(|index| &self.lists[index % LISTS]);
            if let Some(list) = lists.find_map(|list| list.try_lock()) {
                return list;
            }
            platform.relax();
        }
    }

    /// Keeps `parked` until its request is done.
    pub fn park<P: Platform>(&self, frames: &Frames<P>, pin: &CpuPin, parked: Parked) {
        self.lock_any(frames.platform(), pin).park(frames, parked);
    }

    /// Keeps the rest of a batch whose request is done: the next of its list to be taken out.
    pub fn put_back<P: Platform>(&self, frames: &Frames<P>, pin: &CpuPin, rest: Parked) {
        self.lock_any(frames.platform(), pin).put_back(frames, rest);
    }

    /// Takes out one batch whose request is done, of a list that is not in use.
    pub fn take_done(&self, is_done: impl Fn(Request) -> bool) -> Taken {
        let mut waiting = false;
        for list in &self.lists {
            let Some(mut list) = list.try_lock() else {
                waiting = true;
                continue;
            };
            if let Some(done) = list.take_done(&is_done) {
                return Taken::Done(done);
            }
            waiting |= !list.is_empty();
        }
        Taken::None { waiting }
    }

    /// Returns whether there is no batch. A list that is in use counts as not empty.
    pub fn is_empty(&self) -> bool {
        self.lists.iter().all(|list| list.try_lock().is_some_and(|list| list.is_empty()))
    }

    /// Returns whether a list is not in use: a context that may have interrupted another of its CPU does not
    /// wait for one in vain.
    pub fn may_park(&self) -> bool {
        self.lists.iter().any(|list| list.try_lock().is_some())
    }

    /// Returns how many 4 KiB frames wait.
    pub fn frame_count<P: Platform>(&self, frames: &Frames<P>) -> u64 {
        self.lists.iter().map(|list| list.lock(frames.platform()).frame_count(frames)).sum()
    }
}
