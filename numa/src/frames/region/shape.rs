//! The shape of a request's memory in a region.

use topomem_percpu::{CpuId, Order};

use super::{BLOCK, Region, SearchError};

/// The shape of a request's memory in a region.
#[derive(Debug, Clone, Copy)]
pub(in crate::frames) enum Shape {
    /// A naturally aligned run.
    Aligned(Order),
    /// A block, kept by this CPU for later requests.
    Block(CpuId),
    /// Contiguous frames of one block.
    Short { count: u64, align: u64 },
    /// Contiguous blocks; the unused frames of the last block are freed.
    Long { count: u64, align: u64 },
}

impl Shape {
    pub(in crate::frames) fn frames(self) -> u64 {
        match self {
            Shape::Aligned(order) => order.frames(),
            Shape::Block(_) => BLOCK,
            Shape::Short { count, .. } | Shape::Long { count, .. } => count,
        }
    }

    /// Takes a run of `region` below the frame `limit`. Returns the run's first frame.
    pub(in crate::frames) fn alloc_from(self, region: &Region, limit: u64) -> Result<u64, SearchError> {
        if limit < region.span.end {
            let fits = region.span.start + self.frames() <= limit;
            return if fits { region.alloc_below(self, limit) } else { Err(SearchError::Nothing) };
        }
        match self {
            Shape::Aligned(order) => region.alloc(order),
            Shape::Block(cpu) => region.alloc_block(cpu),
            Shape::Short { count, align } => region.alloc_short_run(count as usize, align as usize),
            Shape::Long { count, align } => region.alloc_long_run(count, align),
        }
    }
}
