//! Memory objects: pages shared by several address spaces.
//!
//! A [`MemoryObject`] is the memory of a file, or memory shared by programs. Address spaces map it
//! with [`mmap_object`](crate::AddressSpace::mmap_object), shared or private. Pages with a place
//! outside memory are read in and written back by a [`Pager`], in tasks of the kernel serving
//! requests of a [`PagerQueue`].

mod claim;
mod core;
mod error;
mod mappings;
mod pages;
mod paging;
mod resize;

pub(crate) use self::claim::{Claim, Conflict};
pub(crate) use self::core::share_of;
pub use self::core::{MemoryObject, ObjectId};
pub use crate::region::{MappedObject, ObjectMapping, ObjectPart};
pub use error::ObjectError;
pub use mappings::SharedWrites;
pub(crate) use mappings::{Mapped, MappingNode};
pub(crate) use pages::present::{Missing, PageFrame, Use, Writable};
#[cfg(all(loom, test))]
pub(crate) use pages::word::{PageWord, State, Word, WriteBack};
pub(crate) use paging::answered::QueuesDue;
pub use paging::pager::{Pager, PagerError};
pub use paging::queue::PagerQueue;
pub use paging::wait::PageWait;
pub use paging::writeback::Residency;
