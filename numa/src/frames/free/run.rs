//! Frees of contiguous frames of any number.

use topomem_percpu::{CpuPin, Order, PhysFrame, Platform};

use super::returning;
use super::single::remember;
use crate::frames::Frames;
use crate::frames::ready::Ready;
use crate::frames::region::Region;
use crate::frames::region::bitmap::ones;
use crate::frames::region::free::{FreeRejection, by_block};
use crate::frames::region::marks::AllocKind;
use crate::frames::region::word::Word;
use crate::frames::types::{BLOCK, FrameNumber, FreeError};

/// A run, cut where blocks end that it has in part.
struct Parts {
    /// Up to two parts of blocks.
    small: [(FrameNumber, u64); 2],
    /// The first frame of the whole blocks.
    blocks_start: FrameNumber,
    /// The number of whole blocks.
    blocks: u64,
}

impl Parts {
    fn of(first: FrameNumber, count: u64) -> Parts {
        if count < BLOCK {
            let mut small = by_block(first, count);
            let small = [small.next().unwrap_or((first, 0)), small.next().unwrap_or((first, 0))];
            return Parts { small, blocks_start: first, blocks: 0 };
        }
        let end = first + count;
        let blocks_start = (first + (BLOCK - 1)).block().first_frame();
        let blocks = (end - blocks_start) / BLOCK;
        let blocks_end = blocks_start + blocks * BLOCK;
        let small = [(first, blocks_start - first), (blocks_end, end - blocks_end)];
        Parts { small, blocks_start, blocks }
    }

    /// Returns the parts of blocks, each with its first frame and its number of frames.
    fn small(&self) -> impl Iterator<Item = (FrameNumber, u64)> + use<> {
        self.small.into_iter().filter(|&(_, count)| count > 0)
    }

    fn is_of_one_block(&self) -> bool {
        self.blocks == 0 && self.small().count() == 1
    }
}

impl<P: Platform> Frames<P> {
    /// Frees `count` contiguous frames from [`Frames::alloc_run`], all of a run. [`Frames::split_run`] makes a part of one a
    /// run of its own.
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
        if count > 0 && count < BLOCK {
            if self.insert_frames(pin, first, count as u32) {
                return Ok(());
            }
            match self.free_run_directly(pin, first, count as u32) as u64 {
                0 => {}
                freed if freed == count => return Ok(()),
                // The rest was freed at the same time by another context: it is refused.
                freed => return self.free_run_home(pin, first + freed, count - freed),
            }
        }
        self.free_run_home(pin, first, count)
    }

    /// Frees a run that the quick path did not take.
    #[inline(never)]
    fn free_run_home(&self, pin: &CpuPin, first: PhysFrame, count: u64) -> Result<(), FreeError> {
        let number = FrameNumber::of(first);
        let outside = FreeError::OutOfRange(first);
        let ready = self.ready().ok_or(outside)?;
        let region = ready.state.region_of(number).ok_or(outside)?;
        number.checked_add(count).filter(|&end| end <= region.span.end).ok_or(outside)?;
        let refuse = |why: FreeRejection| why.error(Order::FRAME);
        if count == 0 {
            return Err(FreeError::NotAllocated(first));
        }
        let parts = Parts::of(number, count);
        // An error in any part is found before anything changes.
        if !parts.is_of_one_block() {
            parts.small().try_for_each(|(first, count)| region.check_run(first, count)).map_err(refuse)?;
        }
        let head = region.block_of(parts.blocks_start);
        for offset in 0..parts.blocks {
            region.check_whole(head + offset as usize).map_err(refuse)?;
        }
        for (first, count) in parts.small() {
            self.check_not_cached(pin, first, count)?;
            ready.state.check_not_pooled(region, first, count).map_err(refuse)?;
        }
        region.verify_free(number, AllocKind::Run(count)).map_err(refuse)?;
        parts.small().for_each(|(first, count)| ready.clear_freed_part(region, first, count));
        let guard = ready.enter_magazine(pin);
        if let Some(guard) = &guard {
            remember(ready.state, guard, region);
        }
        if let Some(guard) = &guard
            && number.bit_in_word() + count <= 64
        {
            let word = Word { key: number.word(), mask: ones(count as u32) << number.bit_in_word() };
            if ready.keep_bits(guard, region, word).map_err(refuse)? {
                return Ok(());
            }
        }
        let transit = returning(guard.as_ref(), region);
        if let Err(why) = parts.small().try_for_each(|(first, count)| region.free_short_run(first, count)) {
            ready.state.record_alloc(number, AllocKind::Run(count));
            return Err(refuse(why));
        }
        for offset in 0..parts.blocks {
            let block = parts.blocks_start + offset * BLOCK;
            ready.clear_freed(region, block, Order::HUGE);
            region.free(block, Order::HUGE).map_err(refuse)?;
        }
        ready.account_returned(guard.as_ref(), region, count);
        drop(transit);
        ready.state.sweep(region);
        self.waiters.note();
        Ok(())
    }
}

impl<P: Platform> Ready<'_, P> {
    /// Frees `count` frames from `number` on, of one block: the end of a run owned by the caller.
    pub(in crate::frames) fn free_tail(
        self,
        pin: &CpuPin,
        region: &'static Region,
        number: FrameNumber,
        count: u64,
    ) -> Result<(), FreeError> {
        let refuse = |why: FreeRejection| why.error(Order::FRAME);
        self.frames.check_not_cached(pin, number, count)?;
        self.state.check_not_pooled(region, number, count).map_err(refuse)?;
        self.clear_freed_part(region, number, count);
        let guard = self.enter_magazine(pin);
        let transit = returning(guard.as_ref(), region);
        region.free_short_run(number, count).map_err(refuse)?;
        self.account_returned(guard.as_ref(), region, count);
        drop(transit);
        self.state.sweep(region);
        self.frames.waiters.note();
        Ok(())
    }
}
