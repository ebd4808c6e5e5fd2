//! Errors of operations on address spaces. Each error leaves the space unchanged.

mod change;
mod map;

pub use change::{PromoteError, ProtectError, RemapError, UnmapError};
pub use map::{MapError, ShareError};

use core::fmt;

use topomem_numa::frames::AllocError;
use topomem_shootdown::PageRange;

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
