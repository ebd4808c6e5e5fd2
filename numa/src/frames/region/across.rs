//! Runs across the border of two blocks.
//!
//! A block has room for one run of more than half its frames, and the rest of it has no room for a
//! second one. The end of one block and the beginning of the next block do: runs of 257 to 511
//! frames then leave next to nothing unused.

use super::bitmap::{BITS, Missed, masks};
use super::block::{BlockState, Ownership};
use super::{BlockIndex, Region};

/// The number of blocks checked for the first part of a run.
const CANDIDATES: usize = 16;

/// The result of an attempt with one block.
enum Tried {
    /// The block's end cannot be part of such a run.
    Unfit,
    /// The run's first frame.
    Claimed(u64),
}

impl Region {
    /// Claims `count` contiguous frames (257 to 511) at a multiple of `align`: the free end of a
    /// block in use, and the beginning of the block behind it, in use or whole. Returns the first
    /// frame.
    ///
    /// An opportunity: if there is none among a few blocks, a whole block serves.
    pub(super) fn claim_across(&self, count: usize, align: usize) -> Option<u64> {
        if count <= BITS / 2 || count >= BITS {
            return None;
        }
        let mut looked_at = 0;
        self.find_partial(|block| {
            looked_at += 1;
            match self.claim_from(block, count, align) {
                Tried::Claimed(first) => Some(Some(first)),
                Tried::Unfit => (looked_at == CANDIDATES).then_some(None),
            }
        })
        .flatten()
    }

    fn is_shared_bitmap(&self, block: BlockIndex) -> bool {
        let entry = self.entry(block).load();
        entry.state() == BlockState::Bitmap && !entry.is_owned()
    }

    /// Claims the end of `block` and the beginning of the next block, as far as a run of `count`
    /// frames needs them.
    fn claim_from(&self, block: BlockIndex, count: usize, align: usize) -> Tried {
        let next = BlockIndex(block.0 + 1);
        if next.0 >= self.blocks() || !self.is_shared_bitmap(block) {
            return Tried::Unfit;
        }
        let start = (BITS - free_end(&self.line(block).snapshot())).next_multiple_of(align);
        let own = BITS.saturating_sub(start);
        let Some(rest) = count.checked_sub(own).filter(|&rest| rest > 0 && own > 0) else {
            return Tried::Unfit;
        };
        if !self.has_beginning(next, rest) {
            return Tried::Unfit;
        }
        let transit = self.transit();
        match self.line(block).claim_run(start, own) {
            Ok(()) => {}
            Err(Missed::Untouched) => {
                transit.cancel();
                return Tried::Unfit;
            }
            Err(Missed::RolledBack) => {
                self.settle(block);
                return Tried::Unfit;
            }
        }
        // As in `claim_partial`: bits in a block without a bitmap represent no frames, and are gone
        // now.
        if !self.entry(block).load().has_bitmap() {
            return Tried::Unfit;
        }
        if self.claim_beginning(next, rest) {
            return Tried::Claimed(self.first_frame(block) + start as u64);
        }
        for (word, mask) in masks(start, own) {
            let given_back = self.free_word(block, word, mask);
            debug_assert!(given_back.is_ok(), "{given_back:?}");
        }
        Tried::Unfit
    }

    /// Returns true if the first `count` frames of a block in use or whole are free now.
    fn has_beginning(&self, block: BlockIndex, count: usize) -> bool {
        let (chunk, bit) = self.chunk_of(block);
        if !self.is_shared_bitmap(block) {
            return chunk.whole.test(bit);
        }
        let line = self.line(block);
        masks(0, count).all(|(word, mask)| line.load(word) & mask == mask)
    }

    /// Claims the first `count` frames of a block in use or whole. The caller is in transit.
    fn claim_beginning(&self, block: BlockIndex, count: usize) -> bool {
        if self.is_shared_bitmap(block) {
            return match self.line(block).claim_run(0, count) {
                Ok(()) => self.entry(block).load().has_bitmap(),
                Err(missed) => {
                    if missed == Missed::RolledBack {
                        self.settle(block);
                    }
                    false
                }
            };
        }
        let (chunk, bit) = self.chunk_of(block);
        if !chunk.whole.take(bit) {
            return false;
        }
        self.open(block, count, Ownership::Shared);
        true
    }
}

/// Returns the number of the last bits set without a gap.
fn free_end(words: &[u64; super::bitmap::WORDS]) -> usize {
    let mut free = 0;
    for word in words.iter().rev() {
        let ones = word.leading_ones();
        free += ones as usize;
        if ones < 64 {
            break;
        }
    }
    free
}
