//! Slabs: runs of pages divided into objects of one size class (Bonwick, "The Slab Allocator",
//! USENIX 1994), on the shelf of their node and class.

mod chain;
mod class;
#[cfg(feature = "encoded-free-lists")]
mod encoding;
pub(crate) mod header;
mod links;
mod list;
mod lists;
mod live;
mod partial;
mod shape;
mod shelf;
mod tag;

pub(crate) use chain::Chain;
pub(crate) use class::is_aligned_to_words;
pub use class::{CLASS_COUNT, MAX_CLASS_SIZE, SizeClass};
#[cfg(feature = "encoded-free-lists")]
pub(crate) use encoding::take_broken;
pub(crate) use header::{Arrival, Slab, WasFirst};
pub(crate) use links::{link, next, prefetch};
pub(crate) use lists::ShelfCounts;
pub(crate) use live::{CHECKED, WasLive};
pub(crate) use shape::SlabShape;
#[cfg(feature = "leak-tracking")]
pub(crate) use shelf::LockedShelf;
pub(crate) use shelf::{Emptied, Shelf};
pub(crate) use tag::SlabTag;
