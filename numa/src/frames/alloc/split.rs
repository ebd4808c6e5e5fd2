//! Division of allocated runs, so that a part of a run can be freed.

use topomem_percpu::{Order, PhysFrame, Platform};

use super::resize::ResizeError;
use crate::frames::Frames;
use crate::frames::region::free::FreeRejection;
use crate::frames::region::marks::AllocKind;
use crate::frames::types::{BLOCK, FrameNumber};

impl<P: Platform> Frames<P> {
    /// Divides the run of `count` frames from `first` on, from [`Frames::alloc_run`]: from here on it is a run of `at`
    /// frames, and behind it one of the other frames, each to be freed by [`Frames::free_run`]. So any part of a run can be
    /// freed: two divisions cut it out. The frames stay as they are, and mapped.
    ///
    /// Cost: a few loads; a compare-and-swap if `at` is within a 2 MiB block that the run has whole.
    ///
    /// # Errors
    ///
    /// Returns [`ResizeError::Length`] unless both parts have frames, of one node's and zone's memory, and
    /// [`ResizeError::Refused`] if no such run is allocated. Nothing has changed.
    ///
    /// # Safety
    ///
    /// The caller owns the run.
    ///
    /// # Examples
    ///
    /// ```
    /// # mod machine { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/machine.rs")); }
    /// # machine::run(|frames, pin| {
    /// use topomem_numa::frames::FrameRequest;
    ///
    /// let first = frames.alloc_run(pin, &FrameRequest::frame(), 300, 1)?;
    /// // SAFETY: the run is ours, and its frames 100 to 199 are not used.
    /// unsafe {
    ///     frames.split_run(first, 300, 100)?;
    ///     frames.split_run(first + 100, 200, 100)?;
    ///     frames.free_run(pin, first + 100, 100)?;
    /// }
    /// // The first and the last 100 frames are runs of their own.
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub unsafe fn split_run(&self, first: PhysFrame, count: u64, at: u64) -> Result<(), ResizeError> {
        let start = FrameNumber::of(first);
        let state = self.state().ok_or(ResizeError::Length)?;
        let region = state.region_of(start).ok_or(ResizeError::Length)?;
        let is_inside = start.checked_add(count).is_some_and(|end| end <= region.span.end);
        if !is_inside || at == 0 || at >= count {
            return Err(ResizeError::Length);
        }
        let refused = |why: FreeRejection| ResizeError::Refused(why.error(Order::FRAME));
        region.verify_free(start, AllocKind::Run(count)).map_err(refused)?;
        let cut = start + at;
        if !cut.is_multiple_of(BLOCK)
            && let Err(why) = region.open_allocated(region.block_of(cut))
        {
            state.record_alloc(start, AllocKind::Run(count));
            return Err(refused(why));
        }
        state.record_alloc(start, AllocKind::Run(at));
        state.record_alloc(cut, AllocKind::Run(count - at));
        Ok(())
    }
}
