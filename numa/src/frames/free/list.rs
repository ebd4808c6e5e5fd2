//! Frees of many frames by one call, directly into their bitmap.

use core::ptr;

use topomem_percpu::{CpuPin, Order, PhysFrame, Platform};

use crate::frames::Frames;
use crate::frames::magazine::Magazine;
use crate::frames::magazine::direct::FreedList;
use crate::frames::magazine::entry::{Entry, barred, closed};
use crate::frames::state::AllocatorState;
use crate::frames::types::{BLOCK, FrameNumber, FreeError, WordNumber};

/// The maximum number of frames that are in transit together: a search on another CPU waits for their count.
const TOGETHER: usize = 64;

impl<P: Platform> Frames<P> {
    /// Frees single frames, skipping refused frames.
    ///
    /// Frames in any order cost less than by [`Frames::free`]: the region, the pool of zeroed frames, the counters and the
    /// waiters are looked at once for up to 64 frames. Neighbours in the list that are of one word of 64 frames are freed
    /// by one compare-and-swap.
    ///
    /// # Errors
    ///
    /// Returns the first [`FreeError`], after all other frames were freed.
    ///
    /// # Safety
    ///
    /// As for [`Frames::free`], for each frame.
    ///
    /// ```
    /// # mod machine { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/machine.rs")); }
    /// # machine::run(|frames, pin| {
    /// use topomem_numa::frames::{FrameRequest, FreeError};
    ///
    /// let one = frames.alloc(pin, &FrameRequest::frame())?;
    /// let other = frames.alloc(pin, &FrameRequest::frame())?;
    /// // SAFETY: the frames were just allocated, and are not used; the second free of `one` is refused.
    /// let freed = unsafe { frames.free_bulk(pin, &[one, one, other]) };
    /// assert_eq!(freed, Err(FreeError::DoubleFree(one)));
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub unsafe fn free_bulk(&self, pin: &CpuPin, frames: &[PhysFrame]) -> Result<(), FreeError> {
        if ptr::eq(self.magazines.slot(pin.cpu()).resting(), barred()) {
            return self.free_each(pin, frames);
        }
        let mut result = Ok(());
        for frames in frames.chunks(TOGETHER) {
            let mut rest = frames;
            loop {
                rest = rest.get(self.free_first_of(pin, rest)..).unwrap_or_default();
                let Some(&stopped) = rest.first() else { break };
                // Frames of one word mostly fare alike: a magazine has the word, say.
                let alike = |&&frame: &&PhysFrame| WordNumber::of(frame) == WordNumber::of(stopped);
                let (word, after) = rest.split_at(rest.iter().take_while(alike).count());
                result = result.and(self.free_each(pin, word));
                rest = after;
            }
        }
        result
    }

    /// Frees frames one by one. Returns the first error.
    fn free_each(&self, pin: &CpuPin, frames: &[PhysFrame]) -> Result<(), FreeError> {
        let mut result = Ok(());
        for &frame in frames {
            // SAFETY: as the caller of `free_bulk` promises.
            let freed = unsafe { self.free(pin, frame, Order::FRAME) };
            result = result.and(freed);
        }
        result
    }

    /// Frees frames from the first of `frames` on directly into their bitmap, until one that must be freed in another
    /// way. Returns the number of frames freed.
    fn free_first_of(&self, pin: &CpuPin, frames: &[PhysFrame]) -> usize {
        let Some(state) = self.state() else { return 0 };
        let magazine = self.magazines.slot(pin.cpu());
        let resting = magazine.resting();
        if frames.is_empty() || ptr::eq(resting, barred()) || ptr::eq(resting, closed()) {
            return 0;
        }
        magazine.begin();
        let freed = magazine.free_list_directly(frames);
        self.end_direct_free(state, magazine, resting, freed)
    }

    /// Frees a run of less than a block directly into its bitmap. Returns the number of frames freed: all or none, unless
    /// another context frees the same frames at the same time.
    #[inline(never)]
    pub(super) fn free_run_directly(&self, pin: &CpuPin, first: PhysFrame, count: u32) -> usize {
        let Some(state) = self.state() else { return 0 };
        let magazine = self.magazines.slot(pin.cpu());
        let resting = magazine.resting();
        let number = FrameNumber::of(first);
        let is_of_one_block = number.bit_in_block() as u64 + u64::from(count) <= BLOCK;
        if !is_of_one_block || ptr::eq(resting, barred()) || ptr::eq(resting, closed()) {
            return 0;
        }
        magazine.begin();
        let freed = magazine.free_run_directly(first, count);
        self.end_direct_free(state, magazine, resting, freed)
    }

    /// Counts the frames freed directly, and ends the use of the magazine and the transit. Returns the number of frames
    /// freed.
    #[inline(always)]
    fn end_direct_free(
        &self,
        state: &AllocatorState,
        magazine: &'static Magazine,
        resting: &'static Entry,
        freed: Option<FreedList<'_>>,
    ) -> usize {
        let Some(freed) = freed else {
            magazine.leave(resting);
            return 0;
        };
        if let Some(sum) = magazine.account(freed.region.zone, freed.frames as i64) {
            state.zone_of(freed.region).add(sum);
        }
        drop(freed.transit);
        magazine.leave(resting);
        state.sweep(freed.region);
        self.waiters.note();
        freed.frames
    }
}
