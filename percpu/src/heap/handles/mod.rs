//! Handles of the heap beside [`Heap::try_alloc`](super::Heap::try_alloc): for containers, for a chosen
//! node, boxes, pools and arenas.

mod allocator;
mod arena;
mod boxes;
mod by_address;
mod global;
mod on_node;
mod owned;
mod pool;
mod reserve;

pub use arena::{Arena, Checkpoint, StaleCheckpoint};
pub use boxes::{InHeap, NoRoom};
pub use on_node::{AllocOnError, OnNode, UnknownNode};
pub use owned::{HeapBox, Owner};
pub use pool::{Pool, PoolBox};
