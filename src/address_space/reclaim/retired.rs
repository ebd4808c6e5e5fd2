//! The retired memory of a space: frames and tables that wait until no CPU can reach them.

use topomem_percpu::CpuPin;
use topomem_percpu::sync::atomic::Ordering;

use crate::Machine;
use crate::address_space::core::SpaceCore;
use crate::budget::Budget;
use crate::retire::Parked;

impl<P: Machine> SpaceCore<P> {
    /// Keeps `parked` until its request is done, without a waiting context.
    pub(crate) fn park(&self, parked: Parked) {
        let frames = self.service.frames();
        self.retired.lock(frames.platform()).park(frames, parked);
    }

    /// Returns the number of retired frames without a waiting context.
    pub(crate) fn retired_frames(&self) -> u64 {
        self.retired.lock(self.service.platform()).frame_count(self.service.frames())
    }

    /// Frees batches with complete requests, as far as `budget` allows.
    ///
    /// Also for contexts in the middle of an interrupted use of the space on the same CPU: a list
    /// in use is skipped.
    pub(crate) fn collect(&self, pin: &CpuPin, budget: &mut Budget) -> Collected {
        let frames = self.service.frames();
        let is_done = |request| self.service.shootdown().is_done(self.domain(), request);
        let mut collected = Collected::NOTHING;
        let mut rest = Parked::NOTHING;
        loop {
            let Some(mut list) = self.retired.try_lock() else {
                collected.waiting = true;
                break;
            };
            if budget.is_spent() {
                collected.more |= !list.is_empty();
                break;
            }
            let Some(mut done) = list.take_done(is_done) else {
                collected.waiting |= !list.is_empty();
                break;
            };
            // The lock is not held while frames are freed.
            drop(list);
            // SAFETY: the request naming the frames is done.
            collected.freed += unsafe { done.retired.free_within(frames, self.service.walks(), pin, budget) };
            if done.retired.is_empty() {
                // Release pairs with the Acquire in `has_unlinked`.
                self.unlinked.fetch_sub(done.unlinked, Ordering::Release);
                self.service.call_soon(done.callbacks);
            } else {
                // The budget is spent, or a software walk may still read the tables.
                done.request = None;
                rest.join(frames, done);
            }
        }
        collected.waiting |= self.sweep_records(pin, budget);
        if !rest.is_empty() {
            collected.more |= budget.is_spent();
            collected.waiting |= !budget.is_spent();
            // The lock was free above: no context interrupted by this one holds it.
            self.retired.lock(frames.platform()).put_back(frames, rest);
        }
        collected
    }
}

/// The frames freed, and the work left.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Collected {
    /// Number of 4 KiB frames freed.
    pub freed: u64,
    /// True if some work waits for remote CPUs, or was in use.
    pub waiting: bool,
    /// True if the budget did not suffice.
    pub more: bool,
}

impl Collected {
    pub(crate) const NOTHING: Collected = Collected { freed: 0, waiting: false, more: false };

    pub(crate) fn and(self, other: Collected) -> Collected {
        Collected {
            freed: self.freed + other.freed,
            waiting: self.waiting | other.waiting,
            more: self.more | other.more,
        }
    }
}
