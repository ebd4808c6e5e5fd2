//! Runs across the border of two blocks.
//!
//! A block has room for a single run of more than half a block: the rest of the block has no room for a
//! second run. The end of a block and the beginning of the next block have room: runs of 257 to 511
//! frames then leave next to nothing unused.

use super::bitmap::{BITS, ClaimError, masks};
use super::block::{BlockState, Ownership};
use super::{BlockIndex, Region};
use crate::frames::types::FrameNumber;

/// The number of blocks checked for the first part of a run.
const CANDIDATES: usize = 16;

/// The result of an attempt with a block.
enum Tried {
    /// The block's end cannot be part of a run across a border.
    Unfit,
    /// The run's first frame.
    Claimed(FrameNumber),
}

impl Region {
    /// Claims `count` contiguous frames (257 to 511) at a multiple of `align`: the free end of a
    /// block in use, and the beginning of the block behind it, in use or whole. Returns the first
    /// frame.
    ///
    /// An opportunity: if a few blocks have no room, a whole block serves.
    pub(super) fn claim_across(&self, count: usize, align: usize) -> Option<FrameNumber> {
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
        let next = block + 1;
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
            Err(ClaimError::Untouched) => {
                transit.cancel();
                return Tried::Unfit;
            }
            Err(ClaimError::RolledBack) => {
                self.update_hints(block);
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
            let returned = self.free_word(block, word, mask);
            debug_assert!(returned.is_ok(), "{returned:?}");
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
                    if missed == ClaimError::RolledBack {
                        self.update_hints(block);
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
