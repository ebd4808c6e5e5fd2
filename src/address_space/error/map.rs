//! Errors of mapping and sharing pages.

use super::outside;
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
