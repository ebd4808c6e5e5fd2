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

mod attributes;
mod calls;
mod encoding;
mod faults;
mod gap;
mod layout;
mod list;
mod numa;
mod object;
mod record;
mod usage;

pub use attributes::{Inheritance, Kind, Region, Sharing, Transparent};
pub use calls::advise::Advice;
pub use calls::collapse::CollapseError;
pub use calls::copy::CopyRangeError;
pub use calls::error::{MadviseError, MmapError, MprotectError, MremapError, MunmapError};
pub use calls::fork::ForkError;
pub(crate) use calls::heap::ProgramBreak;
pub use calls::mremap::Relocation;
pub use calls::request::{MapRequest, Placement, Populate};
pub use faults::fault::{FaultAccess, FaultError, PageFault, Resolved};
pub(crate) use faults::large::FaultPolicy;
pub use faults::large::HugePages;
pub(crate) use faults::stack::{DEFAULT_STACK_LIMIT, GrownStack};
pub use layout::SpaceLayout;
pub use list::RegionRange;
pub(crate) use numa::SpacePolicy;
pub use numa::{MoveError, MovedPages, PageMove};
pub use object::{MappedObject, ObjectMapping, ObjectPart};
pub(crate) use record::Records;
pub use record::{AssignError, FaultCounting, FaultCounts, NameError, RegionName};
pub use usage::{Maps, NodePages, NumaMaps, Smaps, Usage};
