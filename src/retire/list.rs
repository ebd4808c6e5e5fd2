//! Retired frames with a pending invalidation and no waiting context.

use topomem_numa::frames::Frames;
use topomem_percpu::Platform;
use topomem_shootdown::Request;

use super::{Callbacks, Retired};

/// Number of batches kept separately.
const BATCHES: usize = 16;

/// Frames and callbacks waiting for a common invalidation.
pub(crate) struct Parked {
    /// The invalidation. `None` if only software walks have to end.
    pub request: Option<Request>,
    pub retired: Retired,
    /// Callbacks to call after everything is freed.
    pub callbacks: Callbacks,
    /// Number of groups of unlinked empty tables in the batch.
    pub unlinked: u32,
}

impl Parked {
    pub(crate) const NOTHING: Parked =
        Parked { request: None, retired: Retired::NOTHING, callbacks: Callbacks::NONE, unlinked: 0 };

    pub(crate) fn is_empty(&self) -> bool {
        self.retired.is_empty() && self.callbacks.is_empty() && self.unlinked == 0
    }

    /// Takes over `other`, parked later; both then wait for both requests.
    pub(crate) fn join<P: Platform>(&mut self, frames: &Frames<P>, other: Parked) {
        self.request = match (self.request, other.request) {
            (Some(own), Some(other)) => Some(own.merge(other)),
            (own, other) => own.or(other),
        };
        self.retired.append(frames, other.retired);
        self.callbacks.append(other.callbacks);
        self.unlinked += other.unlinked;
    }
}

/// An address space's retired batches, oldest first, of a bounded number.
///
/// If a new batch finds no room, the second and the third oldest are merged. No batch joins the
/// oldest: its request stays unchanged and therefore completes, and the next batch becomes the
/// oldest. A batch joined by all later batches would wait for ever newer requests, and for ever if
/// some CPU always has one left to answer.
pub(crate) struct RetireList {
    /// The first `len` are present.
    batches: [Option<Parked>; BATCHES],
    len: usize,
}

impl RetireList {
    pub(crate) const fn new() -> RetireList {
        RetireList { batches: [const { None }; BATCHES], len: 0 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the number of waiting 4 KiB frames.
    pub(crate) fn frame_count<P: Platform>(&self, frames: &Frames<P>) -> u64 {
        self.batches.iter().flatten().map(|parked| parked.retired.frame_count(frames)).sum()
    }

    /// Keeps `parked` until its request is done.
    pub(crate) fn park<P: Platform>(&mut self, frames: &Frames<P>, parked: Parked) {
        if parked.is_empty() {
            return;
        }
        if self.len == BATCHES
            && let Some(third) = self.remove(2)
            && let Some(second) = &mut self.batches[1]
        {
            second.join(frames, third);
        }
        self.batches[self.len] = Some(parked);
        self.len += 1;
    }

    /// Keeps the rest of a batch whose request is done, as the next batch to take out.
    pub(crate) fn put_back<P: Platform>(&mut self, frames: &Frames<P>, rest: Parked) {
        if self.len == BATCHES {
            // Its place was taken meanwhile.
            return self.park(frames, rest);
        }
        self.batches[self.len] = Some(rest);
        self.len += 1;
        self.batches[..self.len].rotate_right(1);
    }

    /// Takes out a batch whose request is done.
    pub(crate) fn take_done(&mut self, is_done: impl Fn(Request) -> bool) -> Option<Parked> {
        let ready = self.batches.iter().flatten().position(|parked| parked.request.is_none_or(&is_done))?;
        self.remove(ready)
    }

    fn remove(&mut self, index: usize) -> Option<Parked> {
        let parked = self.batches[index].take()?;
        self.batches[index..self.len].rotate_left(1);
        self.len -= 1;
        Some(parked)
    }
}
