//! Features of a machine's page walkers within their format.

use crate::page_table::Level;

/// Differences between CPUs of the same architecture. All CPUs of a machine have the same features.
///
/// ```
/// use topomem::page_table::{Level, PagingFeatures};
///
/// let features = PagingFeatures::BASIC.with_giant_pages().with_physical_bits(46);
/// assert_eq!(features.largest_leaf(), Level::GIANT);
/// assert_eq!(features.physical_bits(), 46);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PagingFeatures {
    largest_leaf: Level,
    physical_bits: u8,
}

/// Greatest number of bits of a physical address in an entry.
const MOST_BITS: u8 = 52;

impl PagingFeatures {
    /// Pages of up to 2 MiB, and any physical address fitting an entry, below 2^52.
    pub const BASIC: PagingFeatures = PagingFeatures { largest_leaf: Level::HUGE, physical_bits: MOST_BITS };

    /// Adds pages of 1 GiB: x86 CPUs with CPUID 8000_0001 EDX bit 26.
    ///
    /// ```
    /// use topomem::PagingFeatures;
    /// use topomem::page_table::Level;
    ///
    /// assert_eq!(PagingFeatures::BASIC.with_giant_pages().largest_leaf(), Level::GIANT);
    /// ```
    #[must_use]
    pub const fn with_giant_pages(self) -> PagingFeatures {
        PagingFeatures { largest_leaf: Level::GIANT, ..self }
    }

    /// Limits physical addresses to `bits` bits, at most 52: x86's MAXPHYADDR, CPUID 8000_0008 EAX
    /// bits 0 to 7. A walk finding a higher address faults, since the bits above are reserved.
    ///
    /// ```
    /// use topomem::PagingFeatures;
    ///
    /// assert_eq!(PagingFeatures::BASIC.with_physical_bits(46).physical_bits(), 46);
    /// ```
    #[must_use]
    pub const fn with_physical_bits(self, bits: u8) -> PagingFeatures {
        let physical_bits = if bits < MOST_BITS { bits } else { MOST_BITS };
        PagingFeatures { physical_bits, ..self }
    }

    /// Returns the highest level with leaves.
    ///
    /// ```
    /// use topomem::PagingFeatures;
    /// use topomem::page_table::Level;
    ///
    /// assert_eq!(PagingFeatures::BASIC.largest_leaf(), Level::HUGE);
    /// ```
    #[must_use]
    pub const fn largest_leaf(self) -> Level {
        self.largest_leaf
    }

    /// Returns the number of bits of a physical address.
    ///
    /// ```
    /// use topomem::PagingFeatures;
    ///
    /// assert_eq!(PagingFeatures::BASIC.physical_bits(), 52);
    /// ```
    #[must_use]
    pub const fn physical_bits(self) -> u8 {
        self.physical_bits
    }

    /// Returns whether all `count` frames from number `first` on lie within the physical address
    /// bits.
    pub(crate) const fn reach(self, first: u64, count: u64) -> bool {
        first.saturating_add(count) <= 1 << self.physical_bits >> 12
    }
}
