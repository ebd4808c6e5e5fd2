//! What waits for its invalidation with nobody waiting for it.

use topomem_numa::frames::Frames;
use topomem_percpu::Platform;
use topomem_shootdown::Request;

use super::{Callbacks, Retired};

/// How many batches are kept apart; further ones join the newest.
const BATCHES: usize = 16;

/// What waits for one invalidation.
pub(crate) struct Parked {
    /// `None`: nothing to wait for but software walks.
    pub request: Option<Request>,
    pub retired: Retired,
    /// Who is told when all of it is free.
    pub callbacks: Callbacks,
}

impl Parked {
    fn is_empty(&self) -> bool {
        self.retired.is_empty() && self.callbacks.is_empty()
    }
}

/// One address space's retired batches, oldest first. Bounded: a batch that finds no room joins
/// the newest one, and both wait for the newer invalidation.
pub(crate) struct RetireList {
    batches: [Option<Parked>; BATCHES],
}

impl RetireList {
    pub const fn new() -> RetireList {
        RetireList { batches: [const { None }; BATCHES] }
    }

    pub fn is_empty(&self) -> bool {
        self.batches.iter().all(Option::is_none)
    }

    /// How many 4 KiB frames wait.
    pub fn frame_count(&self) -> u64 {
        self.batches.iter().flatten().map(|parked| parked.retired.frame_count()).sum()
    }

    /// Keeps `parked` until its request is done.
    pub fn park<P: Platform>(&mut self, frames: &Frames<P>, parked: Parked) {
        if parked.is_empty() {
            return;
        }
        if let Some(free) = self.batches.iter_mut().find(|batch| batch.is_none()) {
            *free = Some(parked);
            return;
        }
        // Any batch would do: merged requests wait for both. The last is likely a recent one.
        if let [.., Some(last)] = &mut self.batches {
            last.request = match (last.request, parked.request) {
                (Some(own), Some(other)) => Some(own.merge(other)),
                (own, other) => own.or(other),
            };
            last.retired.append(frames, parked.retired);
            last.callbacks.append(parked.callbacks);
        }
    }

    /// Takes out one batch whose request is done.
    pub fn take_done(&mut self, is_done: impl Fn(Request) -> bool) -> Option<Parked> {
        let ready = self.batches.iter_mut().find(|batch| match batch {
            Some(parked) => parked.request.is_none_or(&is_done),
            None => false,
        })?;
        ready.take()
    }
}
