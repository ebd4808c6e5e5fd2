//! What a hardened heap reports.

use core::fmt;

use super::site::Site;
use crate::{CpuId, InvalidFree, SizeClass};

/// A wrong use of memory that a hardened heap found, with the facts. Addresses are plain numbers;
/// nothing can be reached through them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// What was found.
    pub finding: Finding,
    /// The object's address; of memory that is free, the address of the block in which it was.
    pub address: usize,
    /// The size class of the block that the object is in; `None` if the object is a large one.
    pub class: Option<SizeClass>,
    /// The CPU that found it.
    pub cpu: CpuId,
    /// Who allocated the object; `None` if the memory does not say so.
    pub origin: Option<Origin>,
}

/// Who allocated an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Origin {
    /// The CPU that allocated it.
    pub cpu: CpuId,
    /// The call that allocated it. `None` without [`Measure::Tracking`](crate::Measure), and for allocations
    /// through `GlobalAlloc` of which `PageSource::caller` says nothing.
    pub site: Option<Site>,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "allocated by {}", self.cpu)?;
        self.site.map_or(Ok(()), |site| write!(f, " at {site}"))
    }
}

/// What a hardened heap finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finding {
    /// Memory was written to while it was free. It is not handed out any more.
    WriteAfterFree {
        /// Where the first byte is that was written to, in bytes from the block's address.
        offset: usize,
    },
    /// A free, or a change of size, was refused.
    InvalidFree(InvalidFree),
    /// The first word of a free object was written to, which named the next free object. It was not followed:
    /// the objects behind it are not handed out any more.
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
