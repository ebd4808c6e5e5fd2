//! The physical memory, its reserved parts, and the allocator used before the frame allocator.

mod bits;
mod boot;
mod early;
mod growth;
mod map;
mod page_tables;
mod pieces;
mod range;

pub use bits::{AddressBits, BeyondAddressBits};
pub use boot::{BootAllocError, BootAllocator};
pub use early::{Early, EarlyGuard, EarlyMemory};
pub use map::{LOW_MEMORY, MapFull, MemoryMap, ReservedRegion};
pub use page_tables::TableLevels;
pub use pieces::{Piece, Pieces};
pub(crate) use range::{ADDRESS_END, align_up};
pub use range::{FRAME_SIZE, MemoryRange};
