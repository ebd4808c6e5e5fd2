//! Errors of operations on address spaces. Each error leaves the space unchanged.

use core::fmt;

use topomem_numa::frames::AllocError;
use topomem_percpu::{Order, PhysFrame};
use topomem_shootdown::{PageRange, PageRangeError, PageSize, VirtAddr};

/// The reason why a range was not mapped.
///
/// ```
/// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
/// # booted::run(|service, pin| {
/// use topomem::{FrameRequest, MapError, PageRange, PageSize, Protection, VirtAddr};
///
/// let space = service.create_space(pin)?;
/// let page = PageRange::page(VirtAddr::new(0x40_0000)?, PageSize::Size4KiB);
/// space.map(pin, page, FrameRequest::frame(), Protection::USER_DATA)?;
/// let again = space.map(pin, page, FrameRequest::frame(), Protection::USER_DATA);
/// assert!(matches!(again, Err(MapError::AlreadyMapped { .. })));
/// # Ok(())
/// # }).unwrap();
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum MapError {
    /// The range leaves the part of the address space allowed for mappings: the lower half in a
    /// user space, the window in the kernel's.
    OutsideSpace(PageRange),
    /// The page at `page` is mapped.
    AlreadyMapped {
        /// The first mapped page.
        page: VirtAddr,
        /// The frame the page is mapped to.
        frame: PhysFrame,
    },
    /// The page at `page` is not mapped, but belongs to a region.
    Reserved {
        /// The first reserved page of the range.
        page: VirtAddr,
    },
    /// `frame` is no multiple of `size`.
    MisalignedFrame {
        /// The frame given.
        frame: PhysFrame,
        /// The page size of the range.
        size: PageSize,
    },
    /// The last of the `pages` frames from `first` on, of 4 KiB each, has an address with more bits
    /// than the machine's page walkers read ([`Machine::paging`](crate::Machine::paging)).
    BeyondPhysicalMemory {
        /// The first frame.
        first: PhysFrame,
        /// Number of frames to map.
        pages: u64,
        /// Number of bits of a physical address.
        bits: u8,
    },
    /// The machine has no pages of this size ([`Machine::paging`](crate::Machine::paging)).
    Unsupported(PageSize),
    /// The range asks for pages of 1 GiB, which a space owns only after promotion.
    TooLargeToOwn(PageRange),
    /// `page` is no multiple of `size`.
    MisalignedPage {
        /// The page given.
        page: VirtAddr,
        /// The page size given.
        size: PageSize,
    },
    /// The request's order differs from the order of the range's pages.
    WrongOrder {
        /// The order of the request.
        given: Order,
        /// The order of the pages.
        needed: Order,
    },
    /// A kernel-only protection in a user space, or a user protection in the kernel's.
    WrongPrivilege,
    /// No frame for a page, or for a table.
    OutOfFrames(AllocError),
}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MapError::OutsideSpace(range) => outside(f, range),
            MapError::AlreadyMapped { page, frame } => {
                write!(f, "{page} is mapped, to frame {:#x}", frame.start_address().as_u64())
            }
            MapError::Reserved { page } => write!(f, "{page} belongs to a region"),
            MapError::MisalignedFrame { frame, size } => {
                let address = frame.start_address().as_u64();
                write!(f, "frame {address:#x} is not aligned to {} bytes", size.bytes())
            }
            MapError::BeyondPhysicalMemory { first, pages, bits } => {
                let address = first.start_address().as_u64();
                write!(f, "{pages} frames from {address:#x} on leave the {bits} bits of physical addresses")
            }
            MapError::Unsupported(size) => write!(f, "there are no pages of {} bytes", size.bytes()),
            MapError::TooLargeToOwn(range) => {
                write!(f, "pages of {} bytes at {} cannot be owned", range.size().bytes(), range.start())
            }
            MapError::MisalignedPage { page, size } => {
                write!(f, "page {page} is not aligned to {} bytes", size.bytes())
            }
            MapError::WrongOrder { given, needed } => {
                write!(f, "runs of order {} for pages of order {}", given.get(), needed.get())
            }
            MapError::WrongPrivilege => f.write_str("the protection's privilege is not the space's"),
            MapError::OutOfFrames(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for MapError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            MapError::OutOfFrames(error) => Some(error),
            _ => None,
        }
    }
}

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

/// The reason why the frames of a range were not shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ShareError {
    /// The two spaces belong to different services.
    OtherService,
    /// The range leaves the part of the address space allowed for mappings.
    OutsideSpace(PageRange),
    /// The range asks for pages of 1 GiB, which cannot be shared.
    TooLarge(PageRange),
    /// No range of the same length and page size exists at the new place.
    Target(PageRangeError),
    /// Nothing is mapped at this address of the range.
    NotMapped(VirtAddr),
    /// The page at `page` has another size than the range's pages.
    OtherSize {
        /// The first page with another size.
        page: VirtAddr,
        /// The size of the page.
        size: PageSize,
    },
    /// The frame at this address of the range is borrowed, and therefore not the space's to share.
    Borrowed(VirtAddr),
    /// The frame at this address of the range has the greatest countable number of holders: copy
    /// the frame instead.
    Full(VirtAddr),
    /// The pages at the new place were not mapped, or no frame was left to list the shares.
    Map(MapError),
}

impl fmt::Display for ShareError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ShareError::OtherService => f.write_str("the spaces belong to different services"),
            ShareError::OutsideSpace(range) => outside(f, range),
            ShareError::TooLarge(range) => {
                write!(f, "pages of {} bytes at {} cannot be shared", range.size().bytes(), range.start())
            }
            ShareError::Target(error) => error.fmt(f),
            ShareError::NotMapped(page) => write!(f, "{page} is not mapped"),
            ShareError::OtherSize { page, size } => {
                write!(f, "{page} is mapped by a page of {} bytes", size.bytes())
            }
            ShareError::Borrowed(page) => write!(f, "{page} is mapped to a borrowed frame"),
            ShareError::Full(page) => {
                write!(f, "the frame at {page} is shared by as many pages as can be counted")
            }
            ShareError::Map(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for ShareError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            ShareError::Target(error) => Some(error),
            ShareError::Map(error) => Some(error),
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

/// The reason why no address space was created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CreateError {
    /// The kernel's own space does not exist yet.
    NoKernelSpace,
    /// No frame for the root or the bookkeeping.
    OutOfFrames(AllocError),
}

impl fmt::Display for CreateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CreateError::NoKernelSpace => f.write_str("the kernel's address space is not there yet"),
            CreateError::OutOfFrames(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for CreateError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            CreateError::OutOfFrames(error) => Some(error),
            _ => None,
        }
    }
}

fn outside(f: &mut fmt::Formatter<'_>, range: &PageRange) -> fmt::Result {
    write!(f, "{}..={} leaves the address space", range.start(), range.last_byte())
}
