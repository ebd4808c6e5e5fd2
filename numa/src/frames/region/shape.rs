//! The shape of a request's memory in a region.

use topomem_percpu::{CpuId, Order};

use super::{Region, SearchError};
use crate::frames::types::{BLOCK, FrameNumber};

/// The size of a run of contiguous frames.
#[derive(Debug, Clone, Copy)]
pub(in crate::frames) struct RunSize {
    /// The number of frames.
    pub(in crate::frames) frames: u64,
    /// The first frame is at a multiple of so many frames.
    pub(in crate::frames) align: u64,
}

impl RunSize {
    /// Returns the size of a naturally aligned run.
    pub(super) fn of(order: Order) -> RunSize {
        RunSize { frames: order.frames(), align: order.frames() }
    }

    /// Returns the number of blocks that have the run, if it begins with a block.
    pub(super) fn blocks(self) -> usize {
        self.frames.div_ceil(BLOCK) as usize
    }

    /// Returns the alignment in blocks, if the run begins with a block.
    pub(super) fn align_in_blocks(self) -> usize {
        self.align.div_ceil(BLOCK) as usize
    }
}

/// The shape of a request's memory in a region.
#[derive(Debug, Clone, Copy)]
pub(in crate::frames) enum Shape {
    /// A naturally aligned run.
    Aligned(Order),
    /// A block, kept by this CPU for later requests.
    Block(CpuId),
    /// Contiguous frames of one block.
    Short(RunSize),
    /// Contiguous blocks; the unused frames of the last block are freed.
    Long(RunSize),
}

impl Shape {
    pub(in crate::frames) fn frames(self) -> u64 {
        match self {
            Shape::Aligned(order) => order.frames(),
            Shape::Block(_) => BLOCK,
            Shape::Short(run) | Shape::Long(run) => run.frames,
        }
    }

    /// Takes a run of `region` below the frame `limit`. Returns the run's first frame.
    pub(in crate::frames) fn alloc_from(
        self,
        region: &Region,
        limit: FrameNumber,
    ) -> Result<FrameNumber, SearchError> {
        if limit < region.span.end {
            let fits = region.span.start + self.frames() <= limit;
            return if fits { region.alloc_below(self, limit) } else { Err(SearchError::Nothing) };
        }
        match self {
            Shape::Aligned(order) => region.alloc(order),
            Shape::Block(cpu) => region.alloc_block(cpu),
            Shape::Short(run) => region.alloc_short_run(run),
            Shape::Long(run) => region.alloc_long_run(run),
        }
    }
}
