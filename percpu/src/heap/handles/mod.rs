//! Ways into the heap beside [`Heap::alloc`](super::Heap::alloc): for containers, for a chosen node, boxes
//! and pools.

mod allocator;
mod boxes;
mod on_node;
mod owned;
mod pool;
mod reserve;

pub use boxes::{InHeap, NoRoom};
pub use on_node::{AllocOnError, OnNode, UnknownNode};
pub use owned::{HeapBox, Owner};
pub use pool::{Pool, PoolBox};
