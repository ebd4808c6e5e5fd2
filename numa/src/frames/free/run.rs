//! Frees of contiguous frames of any number.

use topomem_percpu::{CpuPin, Order, PhysFrame, Platform};

use super::returning;
use crate::frames::Frames;
use crate::frames::region::bitmap::ones;
use crate::frames::region::free::{FreeRejection, by_block};
use crate::frames::region::marks::AllocKind;
use crate::frames::region::word::Word;
use crate::frames::region::{BLOCK, BlockIndex, Region};
use crate::frames::state::AllocatorState;
use crate::frames::types::{FreeError, number};

impl<P: Platform> Frames<P> {
    /// Frees `count` contiguous frames from [`Frames::alloc_run`].
    ///
    /// Frames of words in the CPU's magazine go there, without an atomic read-modify-write.
    ///
    /// Bound: otherwise, one compare-and-swap per 64 frames or per 2 MiB block.
    ///
    /// # Errors
    ///
    /// As for [`Frames::free`], including the double frees detected later.
    ///
    /// # Safety
    ///
    /// As for [`Frames::free`].
    ///
    /// ```
    /// # mod machine { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/machine.rs")); }
    /// # machine::run(|frames, pin| {
    /// use topomem_numa::frames::FrameRequest;
    ///
    /// let first = frames.alloc_run(pin, &FrameRequest::frame(), 3, 1)?;
    /// // SAFETY: the run was just allocated, and is not used.
    /// unsafe { frames.free_run(pin, first, 3)? };
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub unsafe fn free_run(&self, pin: &CpuPin, first: PhysFrame, count: u64) -> Result<(), FreeError> {
        if count > 0 && count < BLOCK && self.insert_frames(pin, first, count as u32) {
            return Ok(());
        }
        self.free_run_home(pin, first, count)
    }

    /// Frees a run that the quick path did not take.
    #[inline(never)]
    fn free_run_home(&self, pin: &CpuPin, first: PhysFrame, count: u64) -> Result<(), FreeError> {
        let number = number(first);
        let outside = FreeError::OutOfRange(first);
        let state = self.state().ok_or(outside)?;
        let region = state.region_of(number).ok_or(outside)?;
        let end = number.checked_add(count).filter(|&end| end <= region.span.end).ok_or(outside)?;
        let refuse = |why: FreeRejection| why.error(Order::FRAME);
        if count == 0 {
            return Err(FreeError::NotAllocated(first));
        }
        let long = count >= BLOCK;
        if long && !number.is_multiple_of(BLOCK) {
            return Err(FreeError::Misaligned { frame: first, order: Order::HUGE });
        }
        if !long && number / BLOCK != (end - 1) / BLOCK {
            // In two blocks: an error in either is found before anything changes.
            region.check_run(number, count).map_err(refuse)?;
        }
        let blocks = if long { count / BLOCK } else { 0 };
        let rest = (number + blocks * BLOCK, count - blocks * BLOCK);
        let head = region.block_of(number);
        for offset in 0..blocks {
            region.check_whole(BlockIndex(head.0 + offset as usize)).map_err(refuse)?;
        }
        if rest.1 > 0 {
            self.check_not_cached(pin, rest.0, rest.1)?;
            by_block(rest.0, rest.1)
                .try_for_each(|(first, count)| state.check_not_pooled(region, first, count))
                .map_err(refuse)?;
        }
        region.verify_free(number, AllocKind::Run(count)).map_err(refuse)?;
        by_block(rest.0, rest.1)
            .for_each(|(first, count)| self.clear_freed_part(state, region, first, count));
        let guard = self.enter_magazine(state, pin);
        if let Some(guard) = &guard
            && number % 64 + count <= 64
        {
            let word = Word { key: number / 64, mask: ones(count as u32) << (number % 64) };
            if self.keep_bits(state, guard, region, word).map_err(refuse)? {
                return Ok(());
            }
        }
        let transit = returning(guard.as_ref(), region);
        if let Err(why) =
            by_block(rest.0, rest.1).try_for_each(|(first, count)| region.free_short_run(first, count))
        {
            state.record_alloc(number, AllocKind::Run(count));
            return Err(refuse(why));
        }
        for offset in 0..blocks {
            self.clear_freed(state, region, number + offset * BLOCK, Order::HUGE);
            region.free(number + offset * BLOCK, Order::HUGE).map_err(refuse)?;
        }
        self.account_returned(state, guard.as_ref(), region, count);
        drop(transit);
        state.sweep(region);
        self.waiters.note();
        Ok(())
    }

    /// Frees `count` frames from `number` on, of one block: the end of a run owned by the caller.
    pub(in crate::frames) fn free_tail(
        &self,
        state: &AllocatorState,
        pin: &CpuPin,
        region: &'static Region,
        number: u64,
        count: u64,
    ) -> Result<(), FreeError> {
        let refuse = |why: FreeRejection| why.error(Order::FRAME);
        self.check_not_cached(pin, number, count)?;
        state.check_not_pooled(region, number, count).map_err(refuse)?;
        self.clear_freed_part(state, region, number, count);
        let guard = self.enter_magazine(state, pin);
        let transit = returning(guard.as_ref(), region);
        region.free_short_run(number, count).map_err(refuse)?;
        self.account_returned(state, guard.as_ref(), region, count);
        drop(transit);
        state.sweep(region);
        self.waiters.note();
        Ok(())
    }
}
