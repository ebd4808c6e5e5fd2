//! Frees into a region.

use topomem_percpu::Order;
use topomem_percpu::sync::atomic::{AtomicU64, Ordering};

use super::bitmap::{AtomicBitmap512, Change, WORDS, masks, release};
use super::block::{Block, BlockEntry, BlockState, HugeBlock, Ownership};
use super::marks::AllocKind;
use super::word::Word;
use super::{BlockIndex, Region};
use crate::frames::types::{BLOCK, FrameNumber, FreeError, WordNumber};

/// The refusal of a free, with the first frame in error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FreeRejection {
    DoubleFree(FrameNumber),
    NotAllocated(FrameNumber),
    WrongOrder { frame: FrameNumber, actual: Order },
    Reserved(FrameNumber),
}

impl FreeRejection {
    pub(in crate::frames) fn error(self, given: Order) -> FreeError {
        match self {
            FreeRejection::DoubleFree(at) => FreeError::DoubleFree(at.frame()),
            FreeRejection::NotAllocated(at) => FreeError::NotAllocated(at.frame()),
            FreeRejection::WrongOrder { frame, actual } => {
                FreeError::WrongOrder { frame: frame.frame(), given, actual }
            }
            FreeRejection::Reserved(at) => FreeError::Reserved(at.frame()),
        }
    }
}

/// The words of a region's bitmaps, and the states of the blocks.
#[derive(Debug, Clone, Copy)]
pub(in crate::frames) struct RegionWords {
    /// The first word.
    first_key: WordNumber,
    entries: &'static [BlockEntry],
    lines: &'static [AtomicBitmap512],
}

impl RegionWords {
    /// Frees frames of one word of a block with a bitmap and without frames that are not managed: all or none. Returns
    /// `None` if the block is another one, if a frame is free, or if the word is not of the region.
    ///
    /// Bound: as for [`Region::release_frame`].
    #[inline(always)]
    pub(in crate::frames) fn release(self, frames: Word) -> Option<Change> {
        release(self.home(frames.key)?, frames.mask).ok()
    }

    /// Returns the frames of a word that are free, or `None` as [`RegionWords::release`] does.
    #[inline]
    pub(in crate::frames) fn free_of(self, key: WordNumber) -> Option<u64> {
        // Relaxed, as in `release`.
        Some(self.home(key)?.load(Ordering::Relaxed))
    }

    #[inline(always)]
    fn home(self, key: WordNumber) -> Option<&'static AtomicU64> {
        let word = key.get().wrapping_sub(self.first_key.get()) as usize;
        // A single comparison for both: each entry has a line.
        let entry = self.entries.get(word / WORDS)?;
        if !entry.load().is_inner_bitmap() {
            return None;
        }
        // SAFETY: the region has as many lines as entries.
        Some(unsafe { AtomicBitmap512::word_of(self.lines, word) })
    }
}

impl Region {
    /// Records the free in paranoid mode, and refuses frames not allocated as `kind`. Otherwise accepts everything.
    #[inline]
    pub(crate) fn verify_free(&self, first: FrameNumber, kind: AllocKind) -> Result<(), FreeRejection> {
        if self.marks.0.is_empty() { Ok(()) } else { self.verify_mark(first, kind) }
    }

    /// Checks as [`Region::verify_free`] does, for a run of whole blocks: the errors found by
    /// the states of the blocks take precedence.
    pub(crate) fn verify_free_of_blocks(
        &self,
        first: FrameNumber,
        order: Order,
    ) -> Result<(), FreeRejection> {
        if self.marks.0.is_empty() {
            return Ok(());
        }
        self.check_head(first, order)?;
        self.verify_mark(first, AllocKind::Aligned(order)).map_err(|refused| match refused {
            // The frame is allocated: part of a run of any length.
            FreeRejection::DoubleFree(frame) => FreeRejection::NotAllocated(frame),
            other => other,
        })
    }

    fn verify_mark(&self, first: FrameNumber, kind: AllocKind) -> Result<(), FreeRejection> {
        let start = self.span.start;
        self.marks.verify_free(start, first - start, kind).map_err(|refused| match refused {
            FreeRejection::DoubleFree(frame) if !self.manages(frame, 1) => FreeRejection::Reserved(frame),
            other => other,
        })
    }

    /// Frees a naturally aligned run.
    ///
    /// Bound: one word for orders 0 to 6, 8 words up to 8, 512 blocks up to 18; lock-free.
    pub(crate) fn free(&self, frame: FrameNumber, order: Order) -> Result<(), FreeRejection> {
        if order >= Order::HUGE {
            return self.free_blocks(frame, order);
        }
        self.free_short_run(frame, order.frames())
    }

    /// Frees frames of one block.
    pub(crate) fn free_short_run(&self, frame: FrameNumber, count: u64) -> Result<(), FreeRejection> {
        let block = self.block_of(frame);
        let start = frame.bit_in_block();
        self.check_small(frame, count)?;
        let line = self.line(block);
        if start % 64 + count as usize > 64 {
            // Refuses before anything is changed.
            for (word, mask) in masks(start, count as usize) {
                self.double(block, word, line.load(word) & mask)?;
            }
        }
        for (word, mask) in masks(start, count as usize) {
            self.free_word(block, word, mask)?;
        }
        Ok(())
    }

    /// Refuses frames of one block or of two, unless all are allocated; changes nothing.
    pub(crate) fn check_run(&self, frame: FrameNumber, count: u64) -> Result<(), FreeRejection> {
        for (frame, count) in by_block(frame, count) {
            let block = self.block_of(frame);
            self.check_small(frame, count)?;
            for (word, mask) in masks(frame.bit_in_block(), count as usize) {
                self.double(block, word, self.line(block).load(word) & mask)?;
            }
        }
        Ok(())
    }

    /// Frees one frame of a block with a bitmap. Returns false, with nothing changed, if the block
    /// has none, or if the frame is free; [`Region::free_short_run`] returns the reason.
    ///
    /// Bound: as for [`Region::release_frame`]; now and then the cost of [`Region::free_word`].
    #[inline]
    pub(in crate::frames) fn free_frame(&self, frame: FrameNumber) -> bool {
        let Some(change) = self.release_frame(frame) else { return false };
        self.update_hints_after(self.block_of(frame), change);
        true
    }

    /// Frees one frame as [`Region::free_frame`] does, and leaves to the caller the update of the
    /// change of the returned word.
    ///
    /// Bound: one compare-and-swap, retried only if another CPU changed the word.
    #[inline(always)]
    pub(in crate::frames) fn release_frame(&self, frame: FrameNumber) -> Option<Change> {
        self.words().release(Word { key: frame.word(), mask: frame.mask_in_word() })
    }

    /// Returns the bitmaps alone, for frees that look at nothing else of the region.
    #[inline(always)]
    pub(in crate::frames) fn words(&self) -> RegionWords {
        RegionWords { first_key: self.first_block.first_word(), entries: self.entries, lines: self.lines }
    }

    /// Sets the bits of one word of a bitmap block.
    ///
    /// The caller has checked the block for a bitmap (`check_small`), and owns the frames: the block still has
    /// the bitmap. A double free racing with the first free may set bits of a block without a bitmap by then. The
    /// bits have no meaning in the block's state, and a context that claims the bits detects the mistake
    /// (`claim_partial`).
    ///
    /// Bound: lock-free; one compare-and-swap. If the word was all zeros or becomes all ones, hint
    /// and buddy are updated.
    pub(crate) fn free_word(&self, block: BlockIndex, word: usize, bits: u64) -> Result<(), FreeRejection> {
        let change = match self.line(block).release(word, bits) {
            Ok(change) => change,
            Err(overlap) => return self.double(block, word, overlap.bits),
        };
        self.update_hints_after(block, change);
        Ok(())
    }

    /// Checks that `count` frames of one block may be freed singly, as far as the block's state
    /// tells.
    pub(crate) fn check_small(&self, frame: FrameNumber, count: u64) -> Result<Block, FreeRejection> {
        let index = self.block_of(frame);
        let block = self.entry(index).load();
        if block.is_edge() && !self.manages(frame, count) {
            return Err(FreeRejection::Reserved(frame));
        }
        if let Some(gone) = self.retired.complete_among(frame, count) {
            return Err(FreeRejection::DoubleFree(gone));
        }
        match block.state() {
            BlockState::Bitmap | BlockState::Promoting => Ok(block),
            BlockState::Whole | BlockState::Freeing | BlockState::Cached => {
                Err(FreeRejection::DoubleFree(frame))
            }
            BlockState::Head(actual) => Err(FreeRejection::WrongOrder { frame, actual }),
            BlockState::Tail => match self.head_of(index) {
                Some(actual) => Err(FreeRejection::WrongOrder { frame, actual }),
                None => Err(FreeRejection::NotAllocated(frame)),
            },
        }
    }

    /// Returns the order of the allocated run around a tail.
    fn head_of(&self, tail: BlockIndex) -> Option<Order> {
        Order::all().skip(10).find(|order| {
            let blocks = 1_u64 << (order.get() - 9);
            let head = self.number_of(tail).get() & !(blocks - 1);
            head.checked_sub(self.first_block.get()).is_some_and(|head| {
                self.entry(BlockIndex(head as usize)).load().state() == BlockState::Head(*order)
            })
        })
    }

    /// Refuses if `bits` of a word are set.
    fn double(&self, block: BlockIndex, word: usize, bits: u64) -> Result<(), FreeRejection> {
        if bits == 0 {
            return Ok(());
        }
        let twice = (self.number_of(block).first_word() + word as u64).lowest_of(bits);
        Err(FreeRejection::DoubleFree(twice))
    }

    /// Refuses the block unless the block is allocated as a separate run.
    pub(crate) fn check_whole(&self, block: BlockIndex) -> Result<(), FreeRejection> {
        let frame = self.first_frame(block);
        match self.entry(block).load().state() {
            BlockState::Head(Order::HUGE) => Ok(()),
            BlockState::Head(actual) => Err(FreeRejection::WrongOrder { frame, actual }),
            BlockState::Whole | BlockState::Freeing | BlockState::Cached => {
                Err(FreeRejection::DoubleFree(frame))
            }
            _ => Err(FreeRejection::NotAllocated(frame)),
        }
    }

    /// Gives a block that is all of one allocated run a bitmap, with all frames taken. Does nothing to a block with a
    /// bitmap. The caller owns frames of the block.
    pub(in crate::frames) fn open_allocated(&self, block: BlockIndex) -> Result<(), FreeRejection> {
        let entry = self.entry(block);
        if entry.load().has_bitmap() {
            return Ok(());
        }
        self.check_whole(block)?;
        // No bits represent frames in this state. A wrong free may have left some.
        self.line(block).fill([0; WORDS]);
        if entry.open_head() { Ok(()) } else { Err(FreeRejection::DoubleFree(self.first_frame(block))) }
    }

    /// Frees an aligned run of whole blocks.
    fn free_blocks(&self, frame: FrameNumber, order: Order) -> Result<(), FreeRejection> {
        let first = self.block_of(frame);
        self.check_head(frame, order)?;
        if !self.entry(first).begin_free(order) {
            return Err(FreeRejection::DoubleFree(frame));
        }
        self.release_blocks(first, 1 << (order.get() - 9));
        Ok(())
    }

    /// Refuses the block at `frame` unless the block is the first of an allocated run of `order`.
    pub(in crate::frames) fn check_head(
        &self,
        frame: FrameNumber,
        order: Order,
    ) -> Result<(), FreeRejection> {
        let block = self.entry(self.block_of(frame)).load();
        match block.state() {
            BlockState::Head(actual) if actual == order => Ok(()),
            BlockState::Head(actual) => Err(FreeRejection::WrongOrder { frame, actual }),
            BlockState::Whole | BlockState::Freeing | BlockState::Cached => {
                Err(FreeRejection::DoubleFree(frame))
            }
            _ if block.is_edge() && !self.manages(frame, BLOCK) => Err(FreeRejection::Reserved(frame)),
            _ => Err(FreeRejection::NotAllocated(frame)),
        }
    }

    /// Frees a run of order 9 into the cache of the freeing CPU. Returns `None` if the block is no
    /// allocated run of order 9; [`Region::free`] returns the reason.
    ///
    /// Bound: one compare-and-swap.
    #[inline]
    pub(crate) fn cache_block(&self, frame: FrameNumber) -> Option<HugeBlock> {
        let entry = self.entry(self.block_of(frame));
        entry.cache().then_some(HugeBlock { first: frame, entry })
    }

    /// Returns blocks under the caller's exclusive control to the buddy.
    pub(crate) fn release_blocks(&self, first: BlockIndex, blocks: usize) {
        for offset in (0..blocks).rev() {
            self.entry(first + offset).set(BlockState::Whole, Ownership::Shared);
        }
        let (chunk, bit) = self.chunk_of(first);
        for (word, mask) in masks(bit, blocks) {
            let released = chunk.whole.release(word, mask);
            debug_assert!(released.is_ok(), "block in the buddy twice: {released:?}");
        }
    }
}

/// Returns the parts of a run of fewer than 512 frames by block.
pub(in crate::frames) fn by_block(
    first: FrameNumber,
    count: u64,
) -> impl Iterator<Item = (FrameNumber, u64)> {
    let own = count.min(BLOCK - first.bit_in_block() as u64);
    [(first, own), (first + own, count - own)].into_iter().filter(|&(_, count)| count > 0)
}
