//! Frees of single frames that miss the current word.

use core::ptr;

use topomem_percpu::{CpuPin, PhysFrame, Platform};

use crate::frames::Frames;
use crate::frames::magazine::direct::{Elsewhere, Freed};
use crate::frames::magazine::entry::{Entry, Insertion, barred, closed};
use crate::frames::magazine::guard::MagazineGuard;
use crate::frames::magazine::{Checked, Magazine};
use crate::frames::region::Region;
use crate::frames::state::AllocatorState;
use crate::frames::types::{FrameNumber, FreeError};

impl<P: Platform> Frames<P> {
    /// Frees one frame that is not of the CPU's current word.
    // Apart from the functions that it ends with, so that no use of a magazine saves registers for
    // another.
    #[inline(never)]
    pub(in crate::frames) fn free_frame(&self, pin: &CpuPin, frame: PhysFrame) -> Result<(), FreeError> {
        match self.magazines.near(pin.cpu()) {
            Some(magazine) => self.free_frame_elsewhere(pin, frame, magazine),
            None => self.free_frame_far(pin, frame),
        }
    }

    /// Frees one frame on a far CPU: into the current word, or elsewhere.
    #[inline(never)]
    fn free_frame_far(&self, pin: &CpuPin, frame: PhysFrame) -> Result<(), FreeError> {
        if self.magazines.with_far(pin, |entry, _| entry.add(frame)) == Some(Insertion::Taken) {
            return Ok(());
        }
        match self.magazines.far(pin.cpu()) {
            Some(magazine) => self.free_frame_elsewhere(pin, frame, magazine),
            None => self.free_frame_slow_path(pin, frame),
        }
    }

    /// Frees one frame that is not of the current word of `magazine`, the CPU's.
    #[inline(always)]
    fn free_frame_elsewhere(
        &self,
        pin: &CpuPin,
        frame: PhysFrame,
        magazine: &'static Magazine,
    ) -> Result<(), FreeError> {
        let resting = magazine.resting();
        if ptr::eq(resting, barred()) {
            return self.free_frame_checked(pin, frame, magazine);
        }
        if ptr::eq(resting, closed()) {
            return self.free_frame_slow_path(pin, frame);
        }
        self.free_frame_quickly(pin, frame, magazine, resting)
    }

    /// Frees one frame in paranoid mode. `magazine` is the CPU's.
    #[inline(never)]
    fn free_frame_checked(
        &self,
        pin: &CpuPin,
        frame: PhysFrame,
        magazine: &'static Magazine,
    ) -> Result<(), FreeError> {
        if magazine.insert_checked(frame) { Ok(()) } else { self.free_frame_slow_path(pin, frame) }
    }

    /// Frees one frame, mostly directly into its bitmap. `magazine` is the CPU's, and rests at
    /// `resting`, an entry of its own.
    #[inline(never)]
    fn free_frame_quickly(
        &self,
        pin: &CpuPin,
        frame: PhysFrame,
        magazine: &'static Magazine,
        resting: &'static Entry,
    ) -> Result<(), FreeError> {
        magazine.begin();
        match magazine.free_directly(FrameNumber::of(frame), Elsewhere::Never, || self.waiters.any()) {
            Freed::MoreIsDue(region) => self.finish_free(magazine, resting, region, frame),
            Freed::Yes => {
                magazine.leave(resting);
                Ok(())
            }
            Freed::No => {
                magazine.leave(resting);
                self.free_frame_slow_path(pin, frame)
            }
        }
    }

    /// Frees one frame directly, if the remembered region has the frame, and the frame is neither in the pool of zeroed
    /// frames nor retired.
    fn free_frame_looking(&self, pin: &CpuPin, frame: PhysFrame) -> Option<Result<(), FreeError>> {
        let magazine = self.magazines.slot(pin.cpu());
        let resting = magazine.resting();
        if ptr::eq(resting, barred()) || ptr::eq(resting, closed()) {
            return None;
        }
        magazine.begin();
        match magazine.free_directly(FrameNumber::of(frame), Elsewhere::Perhaps, || self.waiters.any()) {
            Freed::MoreIsDue(region) => Some(self.finish_free(magazine, resting, region, frame)),
            freed => {
                magazine.leave(resting);
                matches!(freed, Freed::Yes).then_some(Ok(()))
            }
        }
    }

    /// Does the work that is rarely due after a direct free, and ends the caller's transit and its use of
    /// the magazine.
    #[cold]
    #[inline(never)]
    fn finish_free(
        &self,
        magazine: &'static Magazine,
        resting: &'static Entry,
        region: &'static Region,
        freed: PhysFrame,
    ) -> Result<(), FreeError> {
        let transit = magazine.go_on(region.zone);
        region.update_hints(region.block_of(FrameNumber::of(freed)));
        let state = self.state();
        if let Some(sum) = magazine.account(region.zone, 0)
            && let Some(state) = state
        {
            state.zone_of(region).add(sum);
        }
        drop(transit);
        magazine.leave(resting);
        if let Some(state) = state {
            state.sweep(region);
        }
        self.waiters.note();
        Ok(())
    }

    /// Frees one frame that [`Frames::free_frame_quickly`] left.
    #[inline(never)]
    fn free_frame_slow_path(&self, pin: &CpuPin, given: PhysFrame) -> Result<(), FreeError> {
        let ready = self.ready().ok_or(FreeError::OutOfRange(given))?;
        if let Some(freed) = self.free_frame_looking(pin, given) {
            return freed;
        }
        let region = ready.state.region_of(FrameNumber::of(given)).ok_or(FreeError::OutOfRange(given))?;
        let guard = self.magazines.get(pin.cpu()).and_then(Magazine::enter);
        let is_other = guard.is_some_and(|guard| remember(ready.state, &guard, region));
        if is_other && let Some(freed) = self.free_frame_looking(pin, given) {
            return freed;
        }
        ready.free_frame_general(pin, FrameNumber::of(given))
    }
}

/// Remembers the region for the CPU's further frees. Returns false if that changes nothing.
pub(super) fn remember(state: &AllocatorState, guard: &MagazineGuard, region: &'static Region) -> bool {
    // Without marks to check, freed frames are not cleared either.
    state.checked == Checked::No
        && guard.is_near(region)
        && state.node(region.node).is_some_and(|node| guard.remember_region(region, &node.zeroed))
}
