//! Slabs.
mod class;
pub(crate) mod header;

pub use class::{CLASS_COUNT, MAX_CLASS_SIZE, SizeClass};
