//! Regions: the intended state of a program's memory, and the way to it.
//!
//! A region is a range of pages with the same [`Region`]: the permitted access, the kind, and the
//! treatment by fork. Regions are kept with the page tables, in entries not present yet, and beside
//! present entries. No separate list of regions could disagree. Neighbours with the same [`Region`]
//! are a single region.
//!
//! The operations are methods of [`AddressSpace`](crate::AddressSpace):
//! [`mmap`](crate::AddressSpace::mmap), [`munmap`](crate::AddressSpace::munmap),
//! [`mprotect`](crate::AddressSpace::mprotect), [`mremap`](crate::AddressSpace::mremap),
//! [`madvise`](crate::AddressSpace::madvise), [`brk`](crate::AddressSpace::brk), and
//! [`on_page_fault`](crate::AddressSpace::on_page_fault).

mod advise;
mod around;
mod attributes;
mod collapse;
mod copy;
mod error;
mod fault;
mod first_touch;
mod fork;
mod gap;
mod heap;
mod large;
mod layout;
mod list;
mod mmap;
mod mremap;
mod numa;
mod object;
mod object_touch;
mod protect;
mod protect_object;
mod record;
mod request;
mod stack;
mod usage;

pub use advise::Advice;
pub use attributes::{Inheritance, Kind, Region, Sharing, Transparent};
pub use collapse::CollapseError;
pub use copy::CopyRangeError;
pub use error::{MadviseError, MmapError, MprotectError, MremapError, MunmapError};
pub use fault::{FaultAccess, FaultError, PageFault, Resolved};
pub use fork::ForkError;
pub(crate) use heap::ProgramBreak;
pub(crate) use large::FaultPolicy;
pub use large::HugePages;
pub use layout::SpaceLayout;
pub use list::RegionRange;
pub use mremap::Relocation;
pub(crate) use numa::SpacePolicy;
pub use numa::{MoveError, MovedPages, PageMove};
pub use object::{MappedObject, ObjectMapping, ObjectPart};
pub(crate) use record::Records;
pub use record::{AssignError, FaultCounting, FaultCounts, NameError, RegionName};
pub use request::{MapRequest, Placement, Populate};
pub(crate) use stack::{DEFAULT_STACK_LIMIT, GrownStack};
pub use usage::{Maps, NumaMaps, Smaps, Usage};
