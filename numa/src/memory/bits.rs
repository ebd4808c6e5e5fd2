//! How many bits of physical address a CPU has.

use core::fmt;

use x86_64::PhysAddr;

use super::{ADDRESS_END, MemoryRange};

/// How many bits of physical address a CPU has: 52 at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AddressBits(u8);

impl AddressBits {
    /// As many as the architecture has room for.
    pub const MOST: AddressBits = AddressBits(52);

    /// So many; `None` below 20, where not even the first 1 MiB could be addressed, and above 52.
    #[must_use]
    pub const fn new(bits: u8) -> Option<AddressBits> {
        if bits >= 20 && bits <= AddressBits::MOST.0 { Some(AddressBits(bits)) } else { None }
    }

    /// The number of bits.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }

    /// Where the last whole frame that can be addressed begins, with 52 bits; else the first address
    /// that cannot be.
    pub(super) const fn end(self) -> PhysAddr {
        let end = 1 << self.0;
        PhysAddr::new_truncate(if end < ADDRESS_END { end } else { ADDRESS_END })
    }
}

impl Default for AddressBits {
    fn default() -> AddressBits {
        AddressBits::MOST
    }
}

impl fmt::Display for AddressBits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Firmware calls memory usable that the CPU cannot address: it was left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BeyondAddressBits {
    /// From the lowest to the highest address that was left out.
    pub range: MemoryRange,
    /// How many bits the CPU has.
    pub bits: AddressBits,
}

impl fmt::Display for BeyondAddressBits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "memory in {} is left out: the CPU has {} bits of address", self.range, self.bits)
    }
}

impl core::error::Error for BeyondAddressBits {}
