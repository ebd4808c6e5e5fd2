//! Errors of changing mapped pages.

use super::outside;
use core::fmt;

use topomem_numa::frames::AllocError;
use topomem_percpu::PhysFrame;
use topomem_shootdown::{PageRange, PageRangeError, PageSize, VirtAddr};

/// The reason why a range was not unmapped.
///
/// ```
/// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
/// # booted::run(|service, pin| {
/// use topomem::{PageRange, PageSize, UnmapError, VirtAddr};
///
/// let space = service.create_space(pin)?;
/// let kernel_half = PageRange::page(VirtAddr::new(0xffff_8000_0000_0000)?, PageSize::Size4KiB);
/// assert!(matches!(space.unmap(pin, kernel_half), Err(UnmapError::OutsideSpace(_))));
/// # Ok(())
/// # }).unwrap();
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum UnmapError {
    /// The range leaves the part of the address space allowed for mappings.
    OutsideSpace(PageRange),
    /// No frame was left to split a large page, or to list the shares of pages with shared frames.
    OutOfFrames(AllocError),
}

impl fmt::Display for UnmapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UnmapError::OutsideSpace(range) => outside(f, range),
            UnmapError::OutOfFrames(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for UnmapError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            UnmapError::OutOfFrames(error) => Some(error),
            _ => None,
        }
    }
}

/// The reason why a range's protection was not changed.
///
/// ```
/// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
/// # booted::run(|service, pin| {
/// use topomem::{PageRange, PageSize, ProtectError, Protection, VirtAddr};
///
/// let space = service.create_space(pin)?;
/// let page = PageRange::page(VirtAddr::new(0x40_0000)?, PageSize::Size4KiB);
/// let kernel_only = space.protect(pin, page, Protection::KERNEL_DATA);
/// assert!(matches!(kernel_only, Err(ProtectError::WrongPrivilege)));
/// # Ok(())
/// # }).unwrap();
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProtectError {
    /// The range leaves the part of the address space allowed for mappings.
    OutsideSpace(PageRange),
    /// A kernel-only protection in a user space, or a user protection in the kernel's.
    WrongPrivilege,
    /// No frame for a table was left to split a large page.
    OutOfFrames(AllocError),
}

impl fmt::Display for ProtectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProtectError::OutsideSpace(range) => outside(f, range),
            ProtectError::WrongPrivilege => f.write_str("the protection's privilege is not the space's"),
            ProtectError::OutOfFrames(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for ProtectError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            ProtectError::OutOfFrames(error) => Some(error),
            _ => None,
        }
    }
}

/// The reason why a range was not moved.
///
/// ```
/// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
/// # booted::run(|service, pin| {
/// use topomem::{PageRange, PageSize, RemapError, VirtAddr};
///
/// let space = service.create_space(pin)?;
/// let page = PageRange::page(VirtAddr::new(0x40_0000)?, PageSize::Size4KiB);
/// assert!(matches!(space.remap(pin, page, page.start()), Err(RemapError::Overlap { .. })));
/// # Ok(())
/// # }).unwrap();
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RemapError {
    /// A range leaves the part of the address space allowed for mappings.
    OutsideSpace(PageRange),
    /// No range of the same length and page size exists at the new place.
    Target(PageRangeError),
    /// The new place overlaps the old place.
    Overlap {
        /// The old place.
        from: PageRange,
        /// The start of the new place.
        to: VirtAddr,
    },
    /// The page of the new place at this address is mapped.
    AlreadyMapped(VirtAddr),
    /// A page of `size` in the old place does not fit the new place: the distance is no multiple of
    /// its size.
    WouldSplit {
        /// The start of the new place.
        to: VirtAddr,
        /// The size of the page.
        size: PageSize,
    },
    /// No frame for a table.
    OutOfFrames(AllocError),
}

impl fmt::Display for RemapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RemapError::OutsideSpace(range) => outside(f, range),
            RemapError::Target(error) => error.fmt(f),
            RemapError::Overlap { from, to } => write!(f, "{to} overlaps the old place at {}", from.start()),
            RemapError::AlreadyMapped(page) => write!(f, "{page} is mapped"),
            RemapError::WouldSplit { to, size } => {
                write!(f, "a page of {} bytes cannot move to {to} whole", size.bytes())
            }
            RemapError::OutOfFrames(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for RemapError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            RemapError::Target(error) => Some(error),
            RemapError::OutOfFrames(error) => Some(error),
            _ => None,
        }
    }
}

/// The reason why a range was not promoted.
///
/// ```
/// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
/// # booted::run(|service, pin| {
/// use topomem::{PageRange, PageSize, PromoteError, VirtAddr};
///
/// let space = service.create_space(pin)?;
/// let huge = PageRange::page(VirtAddr::new(0x40_0000)?, PageSize::Size2MiB);
/// assert!(matches!(space.promote(pin, huge), Err(PromoteError::NotMapped(_))));
/// # Ok(())
/// # }).unwrap();
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PromoteError {
    /// The range leaves the part of the address space allowed for mappings.
    OutsideSpace(PageRange),
    /// The page-table format or the machine ([`Machine::paging`](crate::Machine::paging)) has no
    /// pages of this size.
    Unsupported(PageSize),
    /// Nothing is mapped at this address.
    NotMapped(VirtAddr),
    /// `page`, the start of a large page, is mapped to a frame not aligned to the large page's
    /// size.
    MisalignedFrame {
        /// The page.
        page: VirtAddr,
        /// The frame the page is mapped to.
        frame: PhysFrame,
    },
    /// `page` is mapped to a frame not following the frames of the preceding pages.
    NotContiguous {
        /// The first page out of order.
        page: VirtAddr,
        /// The frame the page is mapped to.
        frame: PhysFrame,
    },
    /// The page at this address differs from the preceding pages in protection, region, or the
    /// ownership of frames.
    Differs(VirtAddr),
    /// The page at this address shares its frame with another mapping, or did.
    Shared(VirtAddr),
    /// The page at this address must not be in a TLB in two sizes, as it would be for a moment: on
    /// x86, an executable page.
    OneSizeOnly(VirtAddr),
    /// No frame for the regions of the large pages.
    OutOfFrames(AllocError),
}

impl fmt::Display for PromoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PromoteError::OutsideSpace(range) => outside(f, range),
            PromoteError::Unsupported(size) => write!(f, "there are no pages of {} bytes", size.bytes()),
            PromoteError::NotMapped(page) => write!(f, "{page} is not mapped"),
            PromoteError::MisalignedFrame { page, frame } => {
                write!(f, "{page} is mapped to the misaligned frame {:#x}", frame.start_address().as_u64())
            }
            PromoteError::NotContiguous { page, frame } => {
                let address = frame.start_address().as_u64();
                write!(f, "{page} is mapped to {address:#x}, which does not follow")
            }
            PromoteError::Differs(page) => write!(f, "{page} has other attributes than the pages before it"),
            PromoteError::Shared(page) => write!(f, "{page} shares its frame"),
            PromoteError::OneSizeOnly(page) => write!(f, "TLBs must not hold {page} in two sizes"),
            PromoteError::OutOfFrames(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for PromoteError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            PromoteError::OutOfFrames(error) => Some(error),
            _ => None,
        }
    }
}
