//! Allocation from a region: bitmap below 512 frames, buddy from 512 frames on.

use topomem_percpu::sync::atomic::Ordering;
use topomem_percpu::{CpuId, Order};

use super::bitmap::{AtomicBitmap512, ClaimError, WORDS, find_run, masks};
use super::block::{BlockState, Ownership};
use super::shape::RunSize;
use super::transit::Transit;
use super::{BlockIndex, CHUNK, Region, SearchError};
use crate::frames::types::{BLOCK, FrameNumber};

/// The number of partial blocks compared for the fullest, and of blocks tried for a run before a
/// whole block is broken up.
const CANDIDATES: usize = 16;

/// The blocks covered by a search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Among {
    /// Blocks without an owning CPU.
    Shared,
    All,
}

impl Region {
    /// Allocates a run of `order`. Returns the first frame. Partial blocks serve first, then whole
    /// blocks, then blocks owned by CPUs.
    ///
    /// Bound: 64 searches, each linear in the partial blocks and chunks of the region.
    pub(crate) fn alloc(&self, order: Order) -> Result<FrameNumber, SearchError> {
        if order >= Order::HUGE {
            return self.conclusive(|| self.claim_blocks(order));
        }
        let bits = u32::from(order.get());
        self.conclusive(|| {
            let claim = |block: BlockIndex| match bits {
                0..=6 => self.line(block).claim_order(bits),
                _ => self.tentative(block, |line| line.claim_order(bits)),
            };
            self.claim_partial(Among::Shared, CANDIDATES, claim)
                .or_else(|| {
                    self.break_whole(1 << bits, Ownership::Shared).map(|block| self.first_frame(block))
                })
                .or_else(|| self.claim_partial(Among::All, usize::MAX, claim))
        })
    }

    /// Runs a claim that may take bits of a block and release the bits again.
    pub(in crate::frames) fn tentative<T>(
        &self,
        block: BlockIndex,
        claim: impl FnOnce(&AtomicBitmap512) -> Result<T, ClaimError>,
    ) -> Result<T, ClaimError> {
        let transit = self.transit();
        let claimed = claim(self.line(block));
        match claimed {
            Err(ClaimError::Untouched) => transit.cancel(),
            // Bits away for a moment are back: no search may miss the bits.
            Err(ClaimError::RolledBack) => self.update_hints(block),
            Ok(_) => {}
        }
        claimed
    }

    /// Runs a claim of whole blocks that may take bits and release the bits again.
    fn tentative_whole<T>(&self, claim: impl FnOnce() -> Result<T, ClaimError>) -> Result<T, ClaimError> {
        let transit = self.transit();
        let claimed = claim();
        if let Err(ClaimError::Untouched) = claimed {
            transit.cancel();
        }
        claimed
    }

    /// Allocates a run of at most 512 frames within one block. If no block in use has room, runs of more than half a block may lie across the border of two
    /// blocks ([`Region::claim_across`]).
    ///
    /// Bound: as for [`Region::alloc`].
    pub(in crate::frames) fn alloc_short_run(&self, run: RunSize) -> Result<FrameNumber, SearchError> {
        let (count, align) = (run.frames as usize, run.align as usize);
        self.conclusive(|| {
            // A claim lost to another CPU says nothing about further runs of the block.
            let claim = |block: BlockIndex| loop {
                let start =
                    find_run(&self.line(block).snapshot(), count, align).ok_or(ClaimError::Untouched)?;
                if self.tentative(block, |line| line.claim_run(start, count)).is_ok() {
                    return Ok(start);
                }
            };
            self.claim_partial(Among::Shared, CANDIDATES, claim)
                .or_else(|| self.claim_across(count, align))
                .or_else(|| self.break_whole(count, Ownership::Shared).map(|block| self.first_frame(block)))
                .or_else(|| self.claim_partial(Among::All, usize::MAX, claim))
        })
    }

    /// Allocates a run that begins with a block; the remainder of the last block stays free. Returns
    /// the first frame.
    ///
    /// Bound: as for [`Region::alloc`].
    pub(in crate::frames) fn alloc_long_run(&self, run: RunSize) -> Result<FrameNumber, SearchError> {
        let mark = |first| self.mark_long_run(first, run.frames);
        let first = self.conclusive(|| self.claim_whole_below(run, FrameNumber::MAX, mark))?;
        Ok(self.first_frame(first))
    }

    /// Makes claimed blocks a run of `count` frames, each block allocated as a separate run. The
    /// caller is in transit.
    pub(super) fn mark_long_run(&self, first: BlockIndex, count: u64) {
        for offset in 0..count.div_ceil(BLOCK) as usize {
            self.mark_run(first + offset, Order::HUGE);
        }
        self.trim_long_run(first, count);
    }

    /// Returns a shared block with an aligned free run of `order` (0 to 5) for a CPU to own: the
    /// fullest of a few partial blocks, or else a whole block, broken up.
    ///
    /// The caller is in transit, by `begin`, before the block leaves the buddy or the hints.
    ///
    /// Bound: one search of the chunks, and the lines of 16 blocks.
    pub(in crate::frames) fn own_block<'t>(
        &self,
        order: Order,
        begin: impl Fn() -> Transit<'t>,
    ) -> Option<(BlockIndex, Transit<'t>)> {
        loop {
            let mut fullest: Option<(u32, BlockIndex)> = None;
            let mut seen = 0;
            self.find_partial(|block| {
                let entry = self.entry(block).load();
                if entry.state() != BlockState::Bitmap || entry.is_owned() || entry.is_edge() {
                    return None;
                }
                if self.retired.touch_block_of(self.first_frame(block)) {
                    return None;
                }
                let free = self.line(block).count();
                if free == 0 {
                    self.clear_hint_if_empty(block);
                    return None;
                }
                let has_run = order == Order::FRAME || self.line(block).has_run(order.get().into());
                if has_run && fullest.is_none_or(|(least, _)| free < least) {
                    fullest = Some((free, block));
                }
                seen += 1;
                (seen == CANDIDATES).then_some(())
            });
            let transit = begin();
            let owned = match fullest {
                Some((_, block)) => self.entry(block).own().then_some(block),
                None => self.break_whole(0, Ownership::Owned),
            };
            match owned {
                Some(block) => return Some((block, transit)),
                None => transit.cancel(),
            }
            // Another CPU was faster with a partial block, and has made progress.
            fullest?;
        }
    }

    /// Ends ownership of a block.
    pub(crate) fn disown(&self, block: BlockIndex) {
        self.entry(block).disown();
        self.update_hints(block);
    }

    /// Claims every free frame of one word of an owned block with an aligned run of `order` (0 to
    /// 5). Returns the word's index and the claimed bits.
    pub(crate) fn claim_word(&self, block: BlockIndex, order: Order) -> Option<(usize, u64)> {
        let line = self.line(block);
        let claimed = line.claim_word(order.get().into());
        if claimed.is_none() && line.is_empty() {
            self.clear_hint_if_empty(block);
        }
        claimed
    }

    /// Frees the frames of a run of blocks beyond `count`; the caller owns the run, and is in
    /// transit.
    fn trim_long_run(&self, first: BlockIndex, count: u64) {
        let kept = (count % BLOCK) as usize;
        if kept == 0 {
            return;
        }
        let last = first + (count / BLOCK) as usize;
        let mut words = [u64::MAX; WORDS];
        for (word, mask) in masks(0, kept) {
            words[word] &= !mask;
        }
        self.entry(last).set(BlockState::Bitmap, Ownership::Shared);
        self.line(last).fill(words);
        self.update_hints(last);
    }

    /// Calls `visit` with each block marked by the hints, until `visit` returns a value.
    pub(super) fn find_partial<T>(&self, mut visit: impl FnMut(BlockIndex) -> Option<T>) -> Option<T> {
        let count = self.chunks.len();
        // Relaxed: a hint: any value is valid.
        let start = self.hot.partial_hint.load(Ordering::Relaxed) as usize;
        for index in (start..start + count).map(|index| index % count) {
            for word in 0..WORDS {
                let mut hints = self.chunks[index].partial.load(word);
                while hints != 0 {
                    let bit = word * 64 + hints.trailing_zeros() as usize;
                    hints &= hints - 1;
                    if let Some(found) = visit(self.block_at(index, bit)) {
                        if index != start {
                            self.hot.partial_hint.store(index as u32, Ordering::Relaxed);
                        }
                        return Some(found);
                    }
                }
            }
        }
        None
    }

    /// Returns the first frame of the result of `claim` for one of at most `tries` partial blocks.
    fn claim_partial(
        &self,
        among: Among,
        tries: usize,
        claim: impl Fn(BlockIndex) -> Result<usize, ClaimError>,
    ) -> Option<FrameNumber> {
        let mut tried = 0;
        self.find_partial(|block| {
            let entry = self.entry(block).load();
            if !entry.has_bitmap() || (among == Among::Shared && entry.is_owned()) {
                return None;
            }
            if tried == tries {
                return Some(None);
            }
            tried += 1;
            match claim(block) {
                // Held frames keep a block from being promoted, unless the held bits are no frames: bits
                // left by a racing double free in a whole block. The bits are gone now.
                Ok(start) if self.entry(block).load().has_bitmap() => {
                    return Some(Some(self.first_frame(block) + start as u64));
                }
                Ok(_) => {}
                Err(_) => {
                    if self.line(block).is_empty() {
                        self.clear_hint_if_empty(block);
                    }
                }
            }
            None
        })
        .flatten()
    }

    /// Takes a whole block from the buddy and makes it a bitmap block with the first `taken` frames
    /// allocated.
    fn break_whole(&self, taken: usize, ownership: Ownership) -> Option<BlockIndex> {
        self.chunks.iter().enumerate().find_map(|(index, chunk)| {
            if chunk.whole.is_empty() {
                return None;
            }
            let transit = self.transit();
            let Ok(bit) = chunk.whole.claim_order(0) else {
                transit.cancel();
                return None;
            };
            let block = self.block_at(index, bit);
            self.open(block, taken, ownership);
            drop(transit);
            Some(block)
        })
    }

    /// Makes a whole block, taken from the buddy, a bitmap block with the first `taken` frames
    /// allocated. The caller is in transit.
    pub(in crate::frames) fn open(&self, block: BlockIndex, taken: usize, ownership: Ownership) {
        let mut words = [u64::MAX; WORDS];
        for (word, mask) in masks(0, taken) {
            words[word] &= !mask;
        }
        self.entry(block).set(BlockState::Bitmap, ownership);
        self.line(block).fill(words);
        let (chunk, bit) = self.chunk_of(block);
        chunk.partial.set(bit);
    }

    /// Allocates a whole block for a CPU, away from other CPUs' blocks if there is room: the states
    /// of adjacent blocks share a cache line, written by each alloc and free.
    ///
    /// Bound: as for [`Region::alloc`].
    pub(crate) fn alloc_block(&self, cpu: CpuId) -> Result<FrameNumber, SearchError> {
        self.conclusive(|| {
            self.chunks.iter().enumerate().find_map(|(index, chunk)| {
                let near = chunk.whole.claim_in_word(cpu.index(), 0);
                let bit = near.or_else(|| chunk.whole.claim_order(0).ok())?;
                let first = self.block_at(index, bit);
                self.mark_run(first, Order::HUGE);
                Some(self.first_frame(first))
            })
        })
    }

    /// Claims an aligned run of whole blocks. Returns the first frame.
    fn claim_blocks(&self, order: Order) -> Option<FrameNumber> {
        let bits = u32::from(order.get()) - 9;
        self.chunks.iter().enumerate().find_map(|(index, chunk)| {
            let bit = match bits {
                0..=6 => chunk.whole.claim_order(bits),
                _ => self.tentative_whole(|| chunk.whole.claim_order(bits)),
            };
            let bit = bit.ok()?;
            let first = self.block_at(index, bit);
            self.mark_run(first, order);
            Some(self.first_frame(first))
        })
    }
}

const _: () = assert!(CHUNK as u64 * BLOCK == 1 << 18);
