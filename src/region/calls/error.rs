//! Errors of operations on regions.

use core::fmt;

use topomem_numa::frames::AllocError;
use topomem_shootdown::{PageSize, VirtAddr};

use crate::region::record::InternError;

/// The reason why no region was made. Nothing has changed.
///
/// ```
/// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
/// # booted::run(|service, pin| {
/// use topomem::region::{MapRequest, MmapError};
///
/// let space = service.create_space(pin)?;
/// assert_eq!(space.mmap(pin, &MapRequest::anonymous(0)), Err(MmapError::Empty));
/// # Ok(())
/// # }).unwrap();
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum MmapError {
    /// The length is 0 (POSIX: EINVAL).
    Empty,
    /// The address is no multiple of the size of the region's pages (EINVAL).
    Misaligned(VirtAddr),
    /// The address and the length leave the part of the space allowed for mappings, or no free
    /// range is long enough (ENOMEM).
    NoRoom,
    /// A page of the range belongs to a region not to be replaced (EEXIST).
    Occupied(VirtAddr),
    /// The kernel's space has no regions.
    KernelSpace,
    /// No frame for page tables or for a record (ENOMEM).
    OutOfFrames(AllocError),
    /// The page-table format or the machine ([`Machine::paging`](crate::Machine::paging)) has no
    /// pages of this size (EINVAL).
    Unsupported(PageSize),
    /// Not enough free pages of the requested size for a region to be mapped at once (ENOMEM).
    NoLargePage(PageSize, AllocError),
    /// The space has the greatest number of different names, policies and mappings of objects
    /// (ENOMEM).
    TooManyRecords,
    /// The offset in the object is no multiple of the page size (EINVAL).
    MisalignedOffset(u64),
    /// The offset in the object and the length exceed the limit of objects (EOVERFLOW).
    OffsetOverflow,
    /// The object may only be read, and the region was to be shared and writable (EACCES).
    Denied,
    /// Frames of the object would be writable through one mapping and executable through another
    /// (EACCES; Linux permits such mappings).
    WriteExecute,
}

impl From<InternError> for MmapError {
    fn from(error: InternError) -> MmapError {
        match error {
            InternError::OutOfFrames(error) => MmapError::OutOfFrames(error),
            InternError::Full => MmapError::TooManyRecords,
            InternError::WriteExecute => MmapError::WriteExecute,
        }
    }
}

/// The reason why nothing was unmapped. Nothing has changed.
///
/// ```
/// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
/// # booted::run(|service, pin| {
/// use topomem::region::{MapRequest, MunmapError};
///
/// let space = service.create_space(pin)?;
/// let start = space.mmap(pin, &MapRequest::anonymous(8192))?;
/// assert!(matches!(space.munmap(pin, start, 0), Err(MunmapError::Empty)));
/// # Ok(())
/// # }).unwrap();
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum MunmapError {
    /// The length is 0 (EINVAL).
    Empty,
    /// The address is no multiple of the page size (EINVAL).
    Misaligned(VirtAddr),
    /// The range leaves the part of the space allowed for mappings (EINVAL).
    OutsideSpace,
    /// No frame for page tables (ENOMEM).
    OutOfFrames(AllocError),
}

/// The reason why the access of a range was not changed, or only in part.
///
/// ```
/// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
/// # booted::run(|service, pin| {
/// use topomem::{Access, VirtAddr};
/// use topomem::region::MprotectError;
///
/// let space = service.create_space(pin)?;
/// let nowhere = VirtAddr::new(0x1000)?;
/// let refused = space.mprotect(pin, nowhere, 4096, Access::READ);
/// assert!(matches!(refused, Err(MprotectError::NoRegion(page)) if page == nowhere));
/// # Ok(())
/// # }).unwrap();
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum MprotectError {
    /// The address is no multiple of the page size; nothing has changed (EINVAL).
    Misaligned(VirtAddr),
    /// The range leaves the part of the space allowed for mappings; nothing has changed (ENOMEM).
    OutsideSpace,
    /// The page belongs to no region; the preceding pages have changed (ENOMEM).
    NoRegion(VirtAddr),
    /// The page shows an object for reading only, and was to be writable; the preceding pages have
    /// changed (EACCES).
    Denied(VirtAddr),
    /// Frames of the page's object would be writable through one mapping and executable through
    /// another; the preceding pages have changed (EACCES; Linux permits such mappings).
    WriteExecute(VirtAddr),
    /// No frame for page tables or records (ENOMEM). Nothing has changed, except possibly parts of
    /// the range showing objects.
    OutOfFrames(AllocError),
    /// The space has the greatest number of different names, policies and mappings of objects;
    /// parts of the range may have changed (ENOMEM).
    TooManyRecords,
}

/// The reason why an advice was not followed, or not for all pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum MadviseError {
    /// The address is no multiple of the page size; nothing has changed (EINVAL).
    Misaligned(VirtAddr),
    /// The range leaves the part of the space allowed for mappings; nothing has changed (ENOMEM).
    OutsideSpace,
    /// A page of the range belongs to no region; the rest has changed (ENOMEM).
    NoRegion,
    /// No frame for page tables, or for pages to be populated (ENOMEM).
    OutOfFrames(AllocError),
    /// A page to be populated does not permit the access (EINVAL).
    Denied(VirtAddr),
    /// A page to be populated is a guard, or lies beyond the end of its object (EFAULT).
    Guarded(VirtAddr),
    /// A page to be populated is being read in by a pager, and the pages behind it have not been
    /// requested: access the page, wait, and advise again.
    NotInMemory(VirtAddr),
}

/// The reason why pages were not resized or moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum MremapError {
    /// An address is no multiple of the page size (EINVAL).
    Misaligned(VirtAddr),
    /// A length is 0 (EINVAL).
    Empty,
    /// The new place overlaps the old place, or leaves the part of the space allowed for mappings
    /// (EINVAL).
    Overlap,
    /// The page belongs to no region, or to another region than the first page (EFAULT).
    NoRegion(VirtAddr),
    /// No room to grow in place, or no free range is long enough (ENOMEM).
    NoRoom,
    /// Another context has taken the new place meanwhile (EAGAIN).
    Occupied,
    /// No frame for page tables (ENOMEM).
    OutOfFrames(AllocError),
}

impl fmt::Display for MremapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MremapError::Misaligned(address) => write!(f, "{address} is not aligned to a page"),
            MremapError::Empty => f.write_str("a length is 0"),
            MremapError::Overlap => f.write_str("the new place overlaps the old one or leaves the space"),
            MremapError::NoRegion(page) => write!(f, "{page} does not belong to the region"),
            MremapError::NoRoom => f.write_str("there is no room"),
            MremapError::Occupied => f.write_str("the new place was taken meanwhile"),
            MremapError::OutOfFrames(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for MremapError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            MremapError::OutOfFrames(error) => Some(error),
            _ => None,
        }
    }
}

impl fmt::Display for MmapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MmapError::Empty => f.write_str("the length is 0"),
            MmapError::Misaligned(address) => write!(f, "{address} is not aligned to a page"),
            MmapError::NoRoom => f.write_str("there is no free range of that length"),
            MmapError::Occupied(page) => write!(f, "{page} belongs to a region"),
            MmapError::KernelSpace => f.write_str("the kernel's space has no regions"),
            MmapError::OutOfFrames(error) => error.fmt(f),
            MmapError::Unsupported(size) => write!(f, "there are no pages of {} bytes", size.bytes()),
            MmapError::NoLargePage(size, error) => write!(f, "no page of {} bytes: {error}", size.bytes()),
            MmapError::MisalignedOffset(offset) => write!(f, "{offset} is no multiple of the page size"),
            MmapError::OffsetOverflow => f.write_str("no object is so long"),
            MmapError::Denied => f.write_str("the object may be read alone"),
            MmapError::WriteExecute => f.write_str("the object's frames would be writable and executable"),
            MmapError::TooManyRecords => f.write_str("the space has no room for another record"),
        }
    }
}

impl fmt::Display for MunmapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MunmapError::Empty => f.write_str("the length is 0"),
            MunmapError::Misaligned(address) => write!(f, "{address} is not aligned to a page"),
            MunmapError::OutsideSpace => f.write_str("the range leaves what the space may map"),
            MunmapError::OutOfFrames(error) => error.fmt(f),
        }
    }
}

impl fmt::Display for MprotectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MprotectError::Misaligned(address) => write!(f, "{address} is not aligned to a page"),
            MprotectError::OutsideSpace => f.write_str("the range leaves what the space may map"),
            MprotectError::NoRegion(page) => write!(f, "{page} belongs to no region"),
            MprotectError::Denied(page) => write!(f, "{page} shows an object that may be read alone"),
            MprotectError::WriteExecute(page) => {
                write!(f, "the frames that {page} shows would be writable and executable")
            }
            MprotectError::TooManyRecords => f.write_str("the space has no room for another record"),
            MprotectError::OutOfFrames(error) => error.fmt(f),
        }
    }
}

impl fmt::Display for MadviseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MadviseError::Misaligned(address) => write!(f, "{address} is not aligned to a page"),
            MadviseError::OutsideSpace => f.write_str("the range leaves what the space may map"),
            MadviseError::NoRegion => f.write_str("a page of the range belongs to no region"),
            MadviseError::OutOfFrames(error) => error.fmt(f),
            MadviseError::Denied(page) => write!(f, "{page} may not be accessed so"),
            MadviseError::Guarded(page) => write!(f, "{page} is a guard"),
            MadviseError::NotInMemory(page) => write!(f, "{page} has to be read in"),
        }
    }
}

impl core::error::Error for MmapError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            MmapError::OutOfFrames(error) => Some(error),
            MmapError::NoLargePage(_, error) => Some(error),
            _ => None,
        }
    }
}
impl core::error::Error for MunmapError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            MunmapError::OutOfFrames(error) => Some(error),
            _ => None,
        }
    }
}
impl core::error::Error for MprotectError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            MprotectError::OutOfFrames(error) => Some(error),
            _ => None,
        }
    }
}
impl core::error::Error for MadviseError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            MadviseError::OutOfFrames(error) => Some(error),
            _ => None,
        }
    }
}
