//! The blocks with words in a magazine, in one word.

use topomem_percpu::sync::atomic::{AtomicU64, Ordering};

use crate::frames::types::FrameNumber;

/// The number of bits above which a new block has the filter built anew.
const CROWDED: u32 = 16;

/// A bit for each block with near words or whole words in the magazine, by the low bits of the
/// block's number; and for blocks with words there before.
///
/// Written and read by the magazine's CPU alone, in one context at a time: Relaxed.
#[derive(Debug)]
pub(super) struct BlockFilter(AtomicU64);

/// One reading of a [`BlockFilter`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Blocks(u64);

impl Blocks {
    /// Every block.
    pub(super) const ALL: Blocks = Blocks(u64::MAX);

    /// Returns false if the magazine had no words of the block of the frame numbered `number`.
    #[inline(always)]
    pub(super) fn may_have(self, number: FrameNumber) -> bool {
        self.0 >> (number.block().get() % 64) & 1 != 0
    }
}

impl BlockFilter {
    #[cfg(not(loom))]
    pub(super) const fn new() -> BlockFilter {
        BlockFilter(AtomicU64::new(0))
    }

    /// Creates an empty filter (loom's atomics have no `const` constructor).
    #[cfg(loom)]
    pub(super) fn new() -> BlockFilter {
        BlockFilter(AtomicU64::new(0))
    }

    /// Reads the filter.
    #[inline(always)]
    pub(super) fn read(&self) -> Blocks {
        Blocks(self.0.load(Ordering::Relaxed))
    }

    /// Returns false if the magazine has no words of the block of the frame numbered `number`.
    #[inline(always)]
    pub(super) fn may_have(&self, number: FrameNumber) -> bool {
        self.read().may_have(number)
    }

    /// Adds the block of the frame numbered `number`. Forgets blocks of which the magazine has no
    /// words any more if there are many: `held` names a frame of each block of which it has some.
    pub(super) fn add<I: Iterator<Item = FrameNumber>>(&self, number: FrameNumber, held: impl FnOnce() -> I) {
        if self.may_have(number) {
            return;
        }
        let bit = |number: FrameNumber| 1 << (number.block().get() % 64);
        let mut blocks = self.0.load(Ordering::Relaxed);
        if blocks.count_ones() >= CROWDED {
            blocks = held().fold(0, |blocks, number| blocks | bit(number));
        }
        self.0.store(blocks | bit(number), Ordering::Relaxed);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::frames::types::BLOCK;

    #[test]
    fn a_block_that_is_held_is_never_forgotten() {
        let filter = BlockFilter::new();
        for block in 0..1000_u64 {
            let first = |block: u64| FrameNumber::new(block * BLOCK);
            let held = || (block.saturating_sub(5)..block).map(first);
            filter.add(first(block), held);
            assert!(filter.may_have(first(block)));
            assert!(held().all(|number| filter.may_have(number + 511)), "{block}");
            assert!(filter.0.load(Ordering::Relaxed).count_ones() <= CROWDED);
        }
        assert!((0..64).any(|block| !filter.may_have(FrameNumber::new(block * BLOCK))));
    }
}
