//! Units of the topology's figures.

use core::fmt;

/// Relative cost of reaching one node's memory from another, in the units of ACPI's SLIT: 10 is a
/// node's own memory, 20 twice as far.
///
/// ```
/// use topomem_numa::Distance;
///
/// assert_eq!(Distance::LOCAL.get(), 10);
/// assert!(Distance::LOCAL < Distance::REMOTE);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Distance(u8);

impl Distance {
    /// A node to itself.
    pub const LOCAL: Distance = Distance(10);
    /// To another node, if firmware gives no distances.
    pub const REMOTE: Distance = Distance(20);
    /// Not said.
    pub(super) const NONE: Distance = Distance(0);
    /// There is no path.
    pub const UNREACHABLE: Distance = Distance(255);

    /// Returns the distance that a SLIT writes as `value`.
    ///
    /// # Examples
    ///
    /// ```
    /// # use topomem_numa::Distance;
    /// assert_eq!(Distance::new(10), Distance::LOCAL);
    /// assert!(!Distance::new(255).is_reachable());
    /// ```
    #[must_use]
    pub const fn new(value: u8) -> Distance {
        Distance(value)
    }

    /// Returns the value in a SLIT.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }

    /// Returns true if there is a path.
    ///
    /// ```
    /// use topomem_numa::Distance;
    ///
    /// assert!(Distance::LOCAL.is_reachable() && !Distance::UNREACHABLE.is_reachable());
    /// ```
    #[must_use]
    pub const fn is_reachable(self) -> bool {
        self.0 != Distance::UNREACHABLE.0
    }
}

impl fmt::Debug for Distance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for Distance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A latency, in picoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Picoseconds(pub u32);

impl fmt::Display for Picoseconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03} ns", self.0 / 1000, self.0 % 1000)
    }
}

/// A bandwidth, in megabytes per second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MegabytesPerSecond(pub u32);

impl fmt::Display for MegabytesPerSecond {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} MB/s", self.0)
    }
}

/// The interrupt number of a CPU: 8 bits in xAPIC mode, 32 in x2APIC mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ApicId(pub u32);

impl fmt::Display for ApicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "APIC {}", self.0)
    }
}
