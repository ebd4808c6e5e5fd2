//! What must be true of a coherent memory service, kept account of independently of it.

mod ownership;
mod region_page;
mod slot;
mod tag;
mod truth;

use core::fmt;

pub use ownership::{Conflict, Holder, Ownership};
pub use region_page::{Contents, PageState, Permits, Refusal, RegionPage, RegionTag, Shown};
pub use slot::{Phase, Slot, SlotChange, SlotState, Verdict};
pub use tag::{Tag, pattern, stamp};
pub use truth::{NodeFrames, Truth};

/// An address space of the scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Space {
    /// The kernel's: every CPU uses it.
    Kernel,
    /// One that CPUs switch to and from.
    Shared(u8),
    /// One of a single CPU.
    Private,
}

impl fmt::Display for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Space::Kernel => f.write_str("the kernel's space"),
            Space::Private => f.write_str("a private space"),
            Space::Shared(number) => write!(f, "space {number}"),
        }
    }
}
