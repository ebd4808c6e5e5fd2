//! Why an operation on regions was refused.

use core::fmt;

use topomem_numa::frames::AllocError;
use topomem_shootdown::{PageSize, VirtAddr};

use super::record::InternError;

/// Why no region was made. Nothing has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum MmapError {
    /// The length is 0 (POSIX: EINVAL).
    Empty,
    /// The address is no multiple of the size of the region's pages (EINVAL).
    Misaligned(VirtAddr),
    /// The address and the length leave what the space may map, or no free range is so long (ENOMEM).
    NoRoom,
    /// A page of the range belongs to a region, and is not to be replaced (EEXIST).
    Occupied(VirtAddr),
    /// The kernel's space has no regions.
    KernelSpace,
    /// No frame for page tables or for a record (ENOMEM).
    OutOfFrames(AllocError),
    /// The page-table format or the machine ([`Machine::paging`](crate::Machine::paging)) has no pages of
    /// that size (EINVAL).
    Unsupported(PageSize),
    /// Not enough free pages of the size asked for, of a region that was to be mapped at once (ENOMEM).
    NoLargePage(PageSize, AllocError),
    /// The space has as many different names, policies and mappings of objects as it can have (ENOMEM).
    TooManyRecords,
    /// The place in the object is no multiple of the page size (EINVAL).
    MisalignedOffset(u64),
    /// The place in the object and the length are more than an object can have (EOVERFLOW).
    OffsetOverflow,
    /// The object may be read alone, and the region was to be shared and writable (EACCES).
    Denied,
    /// Frames of the object would be writable by one mapping and executable by another (EACCES; Linux permits
    /// that).
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

/// Why nothing was unmapped. Nothing has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum MunmapError {
    /// The length is 0 (EINVAL).
    Empty,
    /// The address is no multiple of the page size (EINVAL).
    Misaligned(VirtAddr),
    /// The range leaves what the space may map (EINVAL).
    OutsideSpace,
    /// No frame for page tables (ENOMEM).
    OutOfFrames(AllocError),
}

/// Why the access of a range was not changed, or not to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum MprotectError {
    /// The address is no multiple of the page size; nothing has changed (EINVAL).
    Misaligned(VirtAddr),
    /// The range leaves what the space may map; nothing has changed (ENOMEM).
    OutsideSpace,
    /// The page belongs to no region; the pages before it have changed (ENOMEM).
    NoRegion(VirtAddr),
    /// The page shows an object that may be read alone, and was to be writable; the pages before it have changed
    /// (EACCES).
    Denied(VirtAddr),
    /// Frames of the object that the page shows would be writable by one mapping and executable by another; the
    /// pages before it have changed (EACCES; Linux permits that).
    WriteExecute(VirtAddr),
    /// No frame for page tables or records (ENOMEM). Nothing has changed, but that parts of the range that show
    /// objects may have.
    OutOfFrames(AllocError),
    /// The space has as many different names, policies and mappings of objects as it can have; parts of the
    /// range may have changed (ENOMEM).
    TooManyRecords,
}

/// Why an advice was not taken, or not for all pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum MadviseError {
    /// The address is no multiple of the page size; nothing has changed (EINVAL).
    Misaligned(VirtAddr),
    /// The range leaves what the space may map; nothing has changed (ENOMEM).
    OutsideSpace,
    /// A page of the range belongs to no region; the others have changed (ENOMEM).
    NoRegion,
    /// No frame for page tables, or for pages that were to be there (ENOMEM).
    OutOfFrames(AllocError),
    /// A page that was to be there may not be accessed so (EINVAL).
    Denied(VirtAddr),
    /// A page that was to be there is a guard, or lies beyond the end of its object (EFAULT).
    Guarded(VirtAddr),
    /// A page that was to be there is being read in by a pager, and so are not those behind it: access the
    /// page, wait, and advise again.
    NotInMemory(VirtAddr),
}

/// Why pages did not become more, fewer, or another place's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum MremapError {
    /// An address is no multiple of the page size (EINVAL).
    Misaligned(VirtAddr),
    /// A length is 0 (EINVAL).
    Empty,
    /// The new place overlaps the old one, or leaves what the space may map (EINVAL).
    Overlap,
    /// The page belongs to no region, or to another than the first page (EFAULT).
    NoRegion(VirtAddr),
    /// There is no room to grow in place, or no free range is so long (ENOMEM).
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

impl core::error::Error for MremapError {}

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

impl core::error::Error for MmapError {}
impl core::error::Error for MunmapError {}
impl core::error::Error for MprotectError {}
impl core::error::Error for MadviseError {}
