//! Memory objects: pages shared by several address spaces.
//!
//! A [`MemoryObject`] is the memory of a file, or memory shared by programs. Address spaces map it
//! with [`mmap_object`](crate::AddressSpace::mmap_object), shared or private. Pages with a place
//! outside memory are read in and written back by a [`Pager`], in tasks of the kernel serving
//! requests of a [`PagerQueue`].

mod answered;
mod bytes;
mod claim;
mod core;
mod error;
mod index;
mod mappings;
mod pager;
mod present;
mod queue;
mod resize;
mod serve;
mod wait;
mod word;
mod writeback;

pub(crate) use self::answered::QueuesDue;
pub(crate) use self::claim::{Claim, Conflict};
pub(crate) use self::core::share_of;
pub use self::core::{MemoryObject, ObjectId};
pub use crate::region::{MappedObject, ObjectMapping, ObjectPart};
pub use error::ObjectError;
pub use mappings::SharedWrites;
pub(crate) use mappings::{Mapped, MappingNode};
pub use pager::{Pager, PagerError};
pub(crate) use present::{Missing, PageFrame, Use, Writable};
pub use queue::PagerQueue;
pub use wait::PageWait;
#[cfg(all(loom, test))]
pub(crate) use word::{PageWord, State, Word, WriteBack};
pub use writeback::Residency;
