//! Errors of ranges.

use core::fmt;

use topomem_numa::frames::AllocError;
use topomem_shootdown::{PageRange, VirtAddr};

use crate::address_space::MapError;

/// The reason why an operation on ranges failed. Nothing has changed then.
///
/// ```
/// use topomem::ranges::RangeError;
///
/// assert!(!RangeError::Busy.to_string().is_empty());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RangeError {
    /// A range without pages, or with more pages than addresses exist.
    Length {
        /// Number of requested pages.
        pages: u64,
    },
    /// No stretch of addresses is long enough, even after a flush; or the addresses of freed ranges
    /// wait for remote CPUs.
    OutOfAddresses {
        /// Number of requested pages.
        pages: u64,
    },
    /// No frame for a page, a page table or a node.
    OutOfFrames(AllocError),
    /// The greatest number of ranges is reached: 262 144, counting the gaps between them.
    TooManyRanges,
    /// The addresses' lock was taken all the time, or the caller has interrupted a use of ranges on
    /// its CPU.
    Busy,
    /// No range starts at `address`.
    NotARange {
        /// The address.
        address: VirtAddr,
    },
    /// The range cannot grow in place, and its pages cannot be moved through their tables.
    NotMovable,
    /// The page table refuses the mapping: the protection is not the kernel's, or a foreign mapping
    /// lies at the addresses of ranges.
    Map(MapError),
}

impl fmt::Display for RangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RangeError::Length { pages } => write!(f, "no range has {pages} pages"),
            RangeError::OutOfAddresses { pages } => write!(f, "no addresses for {pages} pages"),
            RangeError::OutOfFrames(error) => error.fmt(f),
            RangeError::TooManyRanges => f.write_str("there are too many ranges"),
            RangeError::Busy => f.write_str("the ranges are in use"),
            RangeError::NotARange { address } => write!(f, "no range starts at {address}"),
            RangeError::NotMovable => f.write_str("the range cannot be moved by its tables"),
            RangeError::Map(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for RangeError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            RangeError::OutOfFrames(error) => Some(error),
            RangeError::Map(error) => Some(error),
            _ => None,
        }
    }
}

impl From<MapError> for RangeError {
    fn from(error: MapError) -> RangeError {
        match error {
            MapError::OutOfFrames(error) => RangeError::OutOfFrames(error),
            other => RangeError::Map(other),
        }
    }
}

/// The reason why a service got no ranges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RangesError {
    /// The service's boot is not complete.
    NoKernelSpace,
    /// The service has ranges already.
    AlreadyThere,
    /// The addresses are outside the kernel's window, or not whole pages of 2 MiB, or fewer than
    /// two of them.
    Addresses(PageRange),
    /// No frame for the bookkeeping of ranges.
    OutOfFrames(AllocError),
}

impl fmt::Display for RangesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RangesError::NoKernelSpace => f.write_str("the service has no kernel space yet"),
            RangesError::AlreadyThere => f.write_str("the service has ranges already"),
            RangesError::Addresses(range) => write!(f, "no ranges can lie at {}", range.start()),
            RangesError::OutOfFrames(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for RangesError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            RangesError::OutOfFrames(error) => Some(error),
            _ => None,
        }
    }
}
