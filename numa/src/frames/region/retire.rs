//! Removal of retired frames from a region's bitmaps and buddy.
//!
//! **Visibility.** A frame is put on the list first; then the retirer enters transit and does a
//! read-modify-write on the words of bitmap and buddy with the frame. A context claiming or
//! setting the bits later, or ending a transit later, sees the list. Claimers check the claimed frames
//! against the list and withhold listed frames ([`Region::withhold`]). A context that freed frames
//! or moved a block takes listed frames out again ([`Region::sweep`]). The retirer finds
//! everything done earlier. Because claimers check too, a frame may be in the bitmap for a moment
//! between a release and the sweep.

use super::bitmap::{WORDS, masks};
use super::block::{BlockState, Ownership};
use super::{BlockIndex, Region};
use crate::frames::types::{BLOCK, FrameNumber};

impl Region {
    /// Takes out a pending frame if the frame is free in the bitmap or buddy. Returns true if the frame was free.
    ///
    /// Bound: constant; lock-free.
    pub(crate) fn take_out(&self, frame: FrameNumber) -> bool {
        let taken = self.claim_frame(frame);
        if taken {
            self.retired.complete(frame);
        }
        taken
    }

    /// Claims a frame if the frame is free in the bitmap or buddy. Returns true if the frame was free.
    ///
    /// Bound: constant; lock-free.
    pub(in crate::frames) fn claim_frame(&self, frame: FrameNumber) -> bool {
        let block = self.block_of(frame);
        let (chunk, bit) = self.chunk_of(block);
        // Before the bits are checked: a context in transit with a frame to be retired finds the frame listed
        // at the end of the transit.
        let transit = self.transit();
        if chunk.whole.take(bit) {
            self.open(block, 0, Ownership::Shared);
        }
        drop(transit);
        // As in `claim_partial`: bits in a block without a bitmap represent no frames.
        self.line(block).take(frame.bit_in_block()) && self.entry(block).load().has_bitmap()
    }

    /// Takes out every pending frame free in the bitmap or buddy. Returns the number of frames taken out.
    ///
    /// Bound: lock-free; an attempt fails only if another CPU claims the frame or the frame's block at the
    /// same time.
    pub(crate) fn sweep(&self) -> u64 {
        let mut taken = 0;
        // Only the bits tell: a state may be ahead of the bits, stored by an interrupted context.
        let home = |&frame: &FrameNumber| {
            let block = self.block_of(frame);
            let (chunk, bit) = self.chunk_of(block);
            let listed = self.line(block).test(frame.bit_in_block());
            chunk.whole.test(bit) || (listed && self.entry(block).load().has_bitmap())
        };
        while let Some(frame) = self.retired.pending().find(home) {
            taken += u64::from(self.take_out(frame));
        }
        taken
    }

    /// Withholds the pending frames of a claimed run, and frees the rest of the run. Returns the
    /// number of frames withheld. If the number is 0, the run stays claimed.
    pub(crate) fn withhold(&self, first: FrameNumber, count: u64) -> u64 {
        let run = first..first + count;
        if !self.retired.any_pending() || !self.retired.pending().any(|frame| run.contains(&frame)) {
            return 0;
        }
        let _transit = self.transit();
        let mut kept = 0;
        let mut at = first;
        while at < run.end {
            let block = self.block_of(at);
            let end = run.end.min(self.first_frame(block) + BLOCK);
            kept += if self.entry(block).load().has_bitmap() {
                masks(at.bit_in_block(), (end - at) as usize)
                    .map(|(word, bits)| self.return_word(block, word, bits))
                    .sum::<u64>()
            } else {
                self.return_block(block)
            };
            at = end;
        }
        kept
    }

    /// Frees the claimed frames of one word, except pending frames. Returns the number of pending frames.
    pub(crate) fn return_word(&self, block: BlockIndex, word: usize, bits: u64) -> u64 {
        let kept = self.retired.complete_held(self.number_of(block).first_word() + word as u64, bits);
        if let Ok(change) = self.line(block).release(word, bits & !kept) {
            self.update_hints_after(block, change);
        }
        kept.count_ones().into()
    }

    /// Frees a claimed whole block, except pending frames. Returns the number of pending frames.
    fn return_block(&self, block: BlockIndex) -> u64 {
        let key = self.number_of(block).first_word();
        let words = core::array::from_fn(|word| !self.retired.complete_held(key + word as u64, u64::MAX));
        if words == [u64::MAX; WORDS] {
            let (chunk, bit) = self.chunk_of(block);
            self.entry(block).set(BlockState::Whole, Ownership::Shared);
            chunk.whole.set(bit);
            return 0;
        }
        self.entry(block).set(BlockState::Bitmap, Ownership::Shared);
        self.line(block).fill(words);
        self.update_hints(block);
        words.iter().map(|word| u64::from(word.count_zeros())).sum()
    }
}
