//! Ways into the heap beside [`Heap::alloc`](super::Heap::alloc): for containers, and for a chosen node.

mod allocator;
mod on_node;

pub use on_node::{AllocOnError, OnNode, UnknownNode};
