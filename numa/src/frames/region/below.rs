//! Allocation from a region below a limit inside the region: for devices with access to part of a zone.
//!
//! The search takes the lowest fitting run of each block or GiB: if the lowest run ends above the limit, all
//! runs of the block or GiB do.

use topomem_percpu::Order;

use super::alloc::Among;
use super::bitmap::{ClaimError, find_run};
use super::block::Ownership;
use super::shape::{RunSize, Shape};
use super::{BlockIndex, Region, SearchError};
use crate::frames::types::FrameNumber;

impl Region {
    /// Allocates the run of `shape`, with every frame below `limit`. Returns the first frame.
    ///
    /// Bound: 64 searches, each linear in the partial blocks and chunks of the region.
    pub(in crate::frames) fn alloc_below(
        &self,
        shape: Shape,
        limit: FrameNumber,
    ) -> Result<FrameNumber, SearchError> {
        match shape {
            Shape::Block(_) => self.alloc_below(Shape::Aligned(Order::HUGE), limit),
            Shape::Aligned(order) if order < Order::HUGE => self.alloc_short_below(RunSize::of(order), limit),
            Shape::Aligned(order) => self.conclusive(|| {
                let mark = |first| self.mark_run(first, order);
                let first = self.claim_whole_below(RunSize::of(order), limit, mark)?;
                Some(self.first_frame(first))
            }),
            Shape::Short(run) => self.alloc_short_below(run, limit),
            Shape::Long(run) => {
                let mark = |first| self.mark_long_run(first, run.frames);
                let first = self.conclusive(|| self.claim_whole_below(run, limit, mark))?;
                Ok(self.first_frame(first))
            }
        }
    }

    fn alloc_short_below(&self, run: RunSize, limit: FrameNumber) -> Result<FrameNumber, SearchError> {
        let claim_partial = |among: Among| {
            self.find_partial(|block| {
                let entry = self.entry(block).load();
                let wanted = entry.has_bitmap() && (among == Among::All || !entry.is_owned());
                wanted.then(|| self.claim_line_below(block, run, limit)).flatten()
            })
        };
        let open = |block| self.open(block, run.frames as usize, Ownership::Shared);
        self.conclusive(|| {
            claim_partial(Among::Shared)
                .or_else(|| Some(self.first_frame(self.claim_whole_below(run, limit, open)?)))
                .or_else(|| claim_partial(Among::All))
        })
    }

    /// Claims a run of a partial block's line.
    fn claim_line_below(&self, block: BlockIndex, run: RunSize, limit: FrameNumber) -> Option<FrameNumber> {
        let RunSize { frames: count, align } = run;
        let (line, base) = (self.line(block), self.first_frame(block));
        loop {
            if base + count > limit || u64::from(line.count()) < count {
                return None;
            }
            let start = find_run(&line.snapshot(), count as usize, align as usize)?;
            let first = base + start as u64;
            if first + count > limit {
                return None;
            }
            // If another CPU was faster, the line may have a further run.
            if self.tentative(block, |line| line.claim_run(start, count as usize)).is_ok() {
                // As in `claim_partial`: bits in a block without a bitmap represent no frames.
                return self.entry(block).load().has_bitmap().then_some(first);
            }
        }
    }

    /// Claims the whole blocks of a run with every frame below the limit. `mark` stores the blocks'
    /// states, in transit.
    pub(super) fn claim_whole_below(
        &self,
        run: RunSize,
        limit: FrameNumber,
        mark: impl Fn(BlockIndex),
    ) -> Option<BlockIndex> {
        let blocks = run.blocks();
        self.chunks.iter().enumerate().find_map(|(index, chunk)| {
            loop {
                let start = find_run(&chunk.whole.snapshot(), blocks, run.align_in_blocks())?;
                let first = self.block_at(index, start);
                if self.first_frame(first) + run.frames > limit {
                    return None;
                }
                let transit = self.transit();
                match chunk.whole.claim_run(start, blocks) {
                    Ok(()) => {
                        mark(first);
                        return Some(first);
                    }
                    Err(ClaimError::RolledBack) => {}
                    Err(ClaimError::Untouched) => transit.cancel(),
                }
            }
        })
    }
}
