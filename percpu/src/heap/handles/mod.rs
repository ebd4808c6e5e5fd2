//! Ways into the heap beside [`Heap::alloc`](super::Heap::alloc): for containers, for a chosen node, and
//! boxes.

mod allocator;
mod boxes;
mod on_node;
mod owned;

pub use boxes::{InHeap, NoRoom};
pub use on_node::{AllocOnError, OnNode, UnknownNode};
pub use owned::{HeapBox, Owner};
