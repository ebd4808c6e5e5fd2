//! The width of a CPU's physical addresses.

use core::fmt;

use topomem_percpu::PhysAddr;

use super::{ADDRESS_END, MemoryRange};

/// The number of bits of a CPU's physical addresses: at most 52.
///
/// ```
/// use topomem_numa::AddressBits;
///
/// assert_eq!(AddressBits::new(46).unwrap().get(), 46);
/// assert_eq!(AddressBits::MOST.get(), 52);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AddressBits(u8);

impl AddressBits {
    /// The maximum of the architecture.
    pub const MOST: AddressBits = AddressBits(52);

    /// Returns a width of `bits` bits. Returns `None` below 20, too few to address the first 1 MiB,
    /// and above 52.
    ///
    /// # Examples
    ///
    /// ```
    /// # use topomem_numa::AddressBits;
    /// assert_eq!(AddressBits::new(52), Some(AddressBits::MOST));
    /// assert_eq!(AddressBits::new(53), None);
    /// ```
    #[must_use]
    pub const fn new(bits: u8) -> Option<AddressBits> {
        if bits >= 20 && bits <= AddressBits::MOST.0 { Some(AddressBits(bits)) } else { None }
    }

    /// Returns the number of bits.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }

    /// Returns the start of the last whole addressable frame, with 52 bits; otherwise the first
    /// address beyond the width.
    pub(super) const fn end(self) -> PhysAddr {
        let end = 1 << self.0;
        PhysAddr::new(if end < ADDRESS_END { end } else { ADDRESS_END })
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

/// Memory reported as usable by firmware that the CPU cannot address, and that was left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BeyondAddressBits {
    /// The range from the lowest to the highest address left out.
    pub range: MemoryRange,
    /// The width of the CPU's addresses.
    pub bits: AddressBits,
}

impl fmt::Display for BeyondAddressBits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "memory in {} is left out: the CPU has {} bits of address", self.range, self.bits)
    }
}

impl core::error::Error for BeyondAddressBits {}
