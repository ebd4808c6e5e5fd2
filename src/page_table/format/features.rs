//! What a machine's page walkers offer within their format.

use crate::page_table::Level;

/// Facts that two CPUs of one architecture may differ in. All CPUs of a machine have what is said here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PagingFeatures {
    largest_leaf: Level,
    physical_bits: u8,
}

/// Bits of a physical address that entries have room for.
const MOST_BITS: u8 = 52;

impl PagingFeatures {
    /// Pages of up to 2 MiB, and any physical address that an entry has room for, below 2^52.
    pub const BASIC: PagingFeatures = PagingFeatures { largest_leaf: Level::HUGE, physical_bits: MOST_BITS };

    /// The same with pages of 1 GiB: x86 CPUs with CPUID 8000_0001 EDX bit 26.
    #[must_use]
    pub const fn with_giant_pages(self) -> PagingFeatures {
        PagingFeatures { largest_leaf: Level::GIANT, ..self }
    }

    /// The same with physical addresses of `bits` bits, at most 52: x86's MAXPHYADDR, CPUID 8000_0008
    /// EAX bits 0 to 7. A walk that finds a higher one faults, since those bits are reserved.
    #[must_use]
    pub const fn with_physical_bits(self, bits: u8) -> PagingFeatures {
        let physical_bits = if bits < MOST_BITS { bits } else { MOST_BITS };
        PagingFeatures { physical_bits, ..self }
    }

    /// The highest level at which leaves may stand.
    #[must_use]
    pub const fn largest_leaf(self) -> Level {
        self.largest_leaf
    }

    /// Bits of a physical address.
    #[must_use]
    pub const fn physical_bits(self) -> u8 {
        self.physical_bits
    }

    /// Are all `count` frames from number `first` on at addresses of that many bits?
    pub(crate) const fn reach(self, first: u64, count: u64) -> bool {
        first.saturating_add(count) <= 1 << self.physical_bits >> 12
    }
}
