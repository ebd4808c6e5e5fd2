//! The reports of a hardened heap.

use core::fmt;

use super::site::Site;
use crate::{CpuId, InvalidFree, SizeClass};

/// A wrong use of memory found by a hardened heap, with the facts. Addresses are plain numbers and
/// give no access to memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// The finding.
    pub finding: Finding,
    /// The object's address; for free memory, the address of its block.
    pub address: usize,
    /// The size class of the object's block; `None` if the object is large.
    pub class: Option<SizeClass>,
    /// The CPU that made the finding.
    pub cpu: CpuId,
    /// The origin of the object; `None` if the memory does not hold it.
    pub origin: Option<Origin>,
}

/// The origin of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Origin {
    /// The allocating CPU.
    pub cpu: CpuId,
    /// The allocating call. `None` without [`Measure::Tracking`](crate::Measure), and for
    /// allocations through `GlobalAlloc` if `PageSource::caller` returned `None`.
    pub site: Option<Site>,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "allocated by {}", self.cpu)?;
        self.site.map_or(Ok(()), |site| write!(f, " at {site}"))
    }
}

/// A finding of a hardened heap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finding {
    /// Memory was written to while it was free. The memory is not handed out any more.
    WriteAfterFree {
        /// The position of the first overwritten byte, in bytes from the block's address.
        offset: usize,
    },
    /// A free, or a change of size, was refused.
    InvalidFree(InvalidFree),
    /// The first word of a free object, a link to the next free object, was overwritten. The link
    /// was not followed: the objects behind it are not handed out any more.
    BrokenLink,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.finding {
            Finding::WriteAfterFree { offset } => {
                write!(f, "write after free: {offset} bytes behind {:#x}, which is free", self.address)?;
            }
            Finding::InvalidFree(invalid) => invalid.fmt(f)?,
            Finding::BrokenLink => {
                write!(f, "broken link: the free object at {:#x} was written to", self.address)?;
            }
        }
        if let Some(class) = self.class {
            write!(f, "; {class}")?;
        }
        write!(f, "; found by {}", self.cpu)?;
        self.origin.map_or(Ok(()), |origin| write!(f, "; {origin}"))
    }
}

impl core::error::Error for Report {}
