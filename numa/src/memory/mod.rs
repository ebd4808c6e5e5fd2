//! Which physical memory there is, what of it is taken, and the allocator that serves until the
//! frame allocator does.

mod bits;
mod boot;
mod map;
mod pieces;
mod range;

pub use bits::{AddressBits, BeyondAddressBits};
pub use boot::{BootAllocError, BootAllocator};
pub use map::{LOW_MEMORY, MapFull, MemoryMap, ReservedRegion};
pub use pieces::{Piece, Pieces};
pub(crate) use range::{ADDRESS_END, align_up};
pub use range::{FRAME_SIZE, MemoryRange};
