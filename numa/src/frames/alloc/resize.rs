//! Runs of less than 2 MiB made longer or shorter in place.

use core::fmt;

use topomem_percpu::{CpuPin, PhysFrame, Platform};

use crate::frames::Frames;
use crate::frames::magazine::Magazine;
use crate::frames::ready::Ready;
use crate::frames::region::Region;
use crate::frames::region::bitmap::ClaimError;
use crate::frames::region::marks::AllocKind;
use crate::frames::region::word::Word;
use crate::frames::types::{BLOCK, FrameNumber, FrameRequest, FreeError};

/// An error of a change of length. The run is unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResizeError {
    /// The run is longer than 511 frames, would be, or would cross a boundary of 2 MiB; or the new
    /// length is zero, or not on the right side of the old length.
    Length,
    /// Not all frames behind the run are free, or some are free in another CPU's magazine, or the
    /// zone is down to its reserve, or frames are about to be retired.
    NotFree,
    /// The free of the run's end was refused.
    Refused(FreeError),
}

impl fmt::Display for ResizeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ResizeError::Length => f.write_str("a run of such a length is not changed in place"),
            ResizeError::NotFree => f.write_str("the frames behind the run are not free"),
            ResizeError::Refused(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for ResizeError {}

impl<P: Platform> Frames<P> {
    /// Makes the run of `count` frames from `first` on a run of `longer` frames, by the free frames
    /// directly behind it. From here on it is a run like those of [`Frames::alloc_run`], to be
    /// freed by [`Frames::free_run`]. Frames behind it in the pinned CPU's magazine are flushed for
    /// this.
    ///
    /// Bound: two compare-and-swaps per 64 frames.
    ///
    /// # Errors
    ///
    /// Returns [`ResizeError::Length`] if the run cannot have the new length, and
    /// [`ResizeError::NotFree`] if the frames behind it cannot be taken now. Nothing has changed.
    ///
    /// # Safety
    ///
    /// The caller owns the run of `count` frames, from [`Frames::alloc_run`] or [`Frames::alloc`].
    pub unsafe fn extend_run(
        &self,
        pin: &CpuPin,
        first: PhysFrame,
        count: u64,
        longer: u64,
    ) -> Result<(), ResizeError> {
        let (ready, region, start) = self.resizable(first, count, longer).ok_or(ResizeError::Length)?;
        if longer <= count {
            return Err(ResizeError::Length);
        }
        let more = longer - count;
        let request = FrameRequest::frame();
        // A frame retired since this check was allocated first.
        let retiring = region.retired.any_pending();
        if retiring || !ready.state.may_take(region.node, region.zone, &request, more) {
            return Err(ResizeError::NotFree);
        }
        let block = region.block_of(start);
        // The run's own frames keep a block in the bitmap state.
        if !region.entry(block).load().has_bitmap() {
            return Err(ResizeError::NotFree);
        }
        let end = start + count;
        ready.flush_words_of(pin, region, end, more);
        region
            .tentative(block, |line| line.claim_run(end.bit_in_block(), more as usize))
            .map_err(|_: ClaimError| ResizeError::NotFree)?;
        ready.state.account_shared(region, -(more as i64));
        ready.state.record_alloc(start, AllocKind::Run(longer));
        Ok(())
    }

    /// Frees the end of the run of `count` frames from `first` on. From here on it is a run of
    /// `shorter` frames, like those of [`Frames::alloc_run`], to be freed by [`Frames::free_run`].
    ///
    /// Bound: one compare-and-swap per 64 frames.
    ///
    /// # Errors
    ///
    /// Returns [`ResizeError::Length`] if the run cannot have the new length, and
    /// [`ResizeError::Refused`] if the free of its end was refused. Nothing has changed.
    ///
    /// # Safety
    ///
    /// As for [`Frames::free`], for the freed frames; the caller owns the run of `count` frames,
    /// from [`Frames::alloc_run`] or [`Frames::alloc`].
    ///
    /// ```
    /// # mod machine { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/machine.rs")); }
    /// # machine::run(|frames, pin| {
    /// use topomem_numa::frames::FrameRequest;
    ///
    /// let first = frames.alloc_run(pin, &FrameRequest::frame(), 8, 1)?;
    /// // SAFETY: the run is ours, and its end is not used.
    /// unsafe {
    ///     frames.shrink_run(pin, first, 8, 3)?;
    ///     frames.free_run(pin, first, 3)?;
    /// }
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub unsafe fn shrink_run(
        &self,
        pin: &CpuPin,
        first: PhysFrame,
        count: u64,
        shorter: u64,
    ) -> Result<(), ResizeError> {
        let (ready, region, start) = self.resizable(first, count, count).ok_or(ResizeError::Length)?;
        if shorter == 0 || shorter >= count {
            return Err(ResizeError::Length);
        }
        ready.free_tail(pin, region, start + shorter, count - shorter).map_err(ResizeError::Refused)?;
        ready.state.record_alloc(start, AllocKind::Run(shorter));
        Ok(())
    }

    /// Returns the region of a run of `count` frames to be resized to `most`, and its first frame.
    /// Returns `None` unless all of that lies in one block that may hold a shorter run.
    fn resizable(
        &self,
        first: PhysFrame,
        count: u64,
        most: u64,
    ) -> Option<(Ready<'_, P>, &'static Region, FrameNumber)> {
        let ready = self.ready()?;
        let start = FrameNumber::of(first);
        let region = ready.state.region_of(start)?;
        let end = start.checked_add(most)?;
        let is_in_block = start.bit_in_block() as u64 + most <= BLOCK;
        let inside = count > 0 && most < BLOCK && is_in_block && end <= region.span.end;
        inside.then_some((ready, region, start))
    }
}

impl<P: Platform> Ready<'_, P> {
    /// Flushes the words in the CPU's magazine of `more` frames from the frame numbered `from` on,
    /// if all of these frames are free there or in the bitmap. Does nothing if an interrupted
    /// context of the CPU uses the magazine.
    fn flush_words_of(self, pin: &CpuPin, region: &Region, from: FrameNumber, more: u64) {
        let Some(guard) = self.frames.magazines.get(pin.cpu()).and_then(Magazine::enter) else { return };
        let line = region.line(region.block_of(from));
        let end = from + more;
        let last = end.get() - 1;
        let words = from
            .word()
            .up_to(FrameNumber::new(last).word() + 1)
            .map(|key| Word { key, mask: key.mask_below(end) & !key.mask_below(from) });
        if words
            .clone()
            .all(|word| word.mask & !(line.load(word.key.index_in_block()) | guard.held_of(word.key)) == 0)
        {
            for word in words {
                self.flush_key(&guard, word.key);
            }
        }
    }
}
