//! Ranges of physical addresses.

use core::fmt;

use topomem_percpu::PhysAddr;

/// Bytes in a frame.
pub const FRAME_SIZE: u64 = 4096;

/// The last frame boundary of the 52-bit physical address space.
pub(crate) const ADDRESS_END: u64 = (1 << 52) - FRAME_SIZE;

/// Physical addresses from `start` up to `end`, exclusive.
///
/// ```
/// use topomem_numa::MemoryRange;
///
/// let range = MemoryRange::from_bounds(0x1234, 0x5678).unwrap();
/// assert_eq!(range.bytes(), 0x4444);
/// assert_eq!(range.whole_frames(), MemoryRange::from_bounds(0x2000, 0x5000));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct MemoryRange {
    /// The first address.
    pub start: PhysAddr,
    /// The address after the last.
    pub end: PhysAddr,
}

impl MemoryRange {
    /// Every frame in the 52-bit physical address space, except the last.
    pub const EVERYTHING: MemoryRange =
        MemoryRange { start: PhysAddr::ZERO, end: PhysAddr::new(ADDRESS_END) };

    /// Returns the range from `start` up to `end`, or `None` if it is empty.
    #[must_use]
    pub const fn new(start: PhysAddr, end: PhysAddr) -> Option<MemoryRange> {
        if start.as_u64() < end.as_u64() { Some(MemoryRange { start, end }) } else { None }
    }

    /// Returns the range from `start` up to `end`, or `None` if it is empty or leaves the 52-bit
    /// physical address space. The last frame of that space is left out, since its end is no
    /// address: a range up to 2^52 ends before it.
    ///
    /// # Examples
    ///
    /// ```
    /// # use topomem_numa::MemoryRange;
    /// assert_eq!(MemoryRange::from_bounds(0, 0x1000).unwrap().frames(), 1);
    /// assert_eq!(MemoryRange::from_bounds(0x1000, 0x1000), None);
    /// ```
    #[must_use]
    pub const fn from_bounds(start: u64, end: u64) -> Option<MemoryRange> {
        if end > 1 << 52 {
            return None;
        }
        let end = if end > ADDRESS_END { ADDRESS_END } else { end };
        if start >= end {
            return None;
        }
        Some(MemoryRange { start: PhysAddr::new(start), end: PhysAddr::new(end) })
    }

    /// Returns the range of `bytes` bytes from `base` on, or `None` if it is empty or leaves the
    /// 52-bit physical address space. As for [`MemoryRange::from_bounds`], the last frame is left
    /// out.
    ///
    /// # Examples
    ///
    /// ```
    /// # use topomem_numa::MemoryRange;
    /// assert_eq!(MemoryRange::from_length(0x1000, 0x2000), MemoryRange::from_bounds(0x1000, 0x3000));
    /// ```
    #[must_use]
    pub const fn from_length(base: u64, bytes: u64) -> Option<MemoryRange> {
        match base.checked_add(bytes) {
            Some(end) => MemoryRange::from_bounds(base, end),
            None => None,
        }
    }

    /// Returns the number of bytes; 0 if `end` is not above `start`.
    ///
    /// ```
    /// use topomem_numa::MemoryRange;
    ///
    /// assert_eq!(MemoryRange::from_bounds(0x1000, 0x3000).unwrap().bytes(), 0x2000);
    /// ```
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.end.as_u64().saturating_sub(self.start.as_u64())
    }

    /// Returns the number of whole frames by length: meant for ranges on frame boundaries.
    #[must_use]
    pub const fn frames(&self) -> u64 {
        self.bytes() / FRAME_SIZE
    }

    /// Returns true if `addr` lies in the range.
    ///
    /// ```
    /// use topomem_numa::MemoryRange;
    /// use topomem_numa::PhysAddr;
    ///
    /// let range = MemoryRange::from_bounds(0x1000, 0x2000).unwrap();
    /// assert!(range.contains(PhysAddr::new(0x1fff)) && !range.contains(PhysAddr::new(0x2000)));
    /// ```
    #[must_use]
    pub fn contains(&self, addr: PhysAddr) -> bool {
        self.start <= addr && addr < self.end
    }

    /// Returns the addresses in both ranges, or `None` if there are none.
    ///
    /// # Examples
    ///
    /// ```
    /// # use topomem_numa::MemoryRange;
    /// let low = MemoryRange::from_bounds(0, 0x3000).unwrap();
    /// let high = MemoryRange::from_bounds(0x2000, 0x4000).unwrap();
    /// assert_eq!(low.intersection(&high), MemoryRange::from_bounds(0x2000, 0x3000));
    /// ```
    #[must_use]
    pub fn intersection(&self, other: &MemoryRange) -> Option<MemoryRange> {
        MemoryRange::new(self.start.max(other.start), self.end.min(other.end))
    }

    /// Returns the frames inside the range: both ends rounded inwards.
    ///
    /// ```
    /// use topomem_numa::MemoryRange;
    ///
    /// assert_eq!(MemoryRange::from_bounds(0x1001, 0x1fff).unwrap().whole_frames(), None);
    /// ```
    #[must_use]
    pub const fn whole_frames(&self) -> Option<MemoryRange> {
        let start = align_up(self.start.as_u64(), FRAME_SIZE);
        let end = self.end.as_u64() & !(FRAME_SIZE - 1);
        MemoryRange::from_bounds(start, end)
    }

    /// Returns the frames that overlap the range: both ends rounded outwards.
    ///
    /// # Examples
    ///
    /// ```
    /// # use topomem_numa::MemoryRange;
    /// let range = MemoryRange::from_bounds(0x1234, 0x5678).unwrap();
    /// assert_eq!(range.touched_frames(), MemoryRange::from_bounds(0x1000, 0x6000));
    /// ```
    #[must_use]
    pub const fn touched_frames(&self) -> Option<MemoryRange> {
        let start = self.start.as_u64() & !(FRAME_SIZE - 1);
        let end = align_up(self.end.as_u64(), FRAME_SIZE);
        MemoryRange::from_bounds(start, if end > ADDRESS_END { ADDRESS_END } else { end })
    }
}

impl fmt::Debug for MemoryRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}..{:#x}", self.start.as_u64(), self.end.as_u64())
    }
}

impl fmt::Display for MemoryRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Returns the first multiple of `align`, a power of two, at or above `value`; saturates at the
/// last.
pub(crate) const fn align_up(value: u64, align: u64) -> u64 {
    match value.checked_add(align - 1) {
        Some(sum) => sum & !(align - 1),
        None => !(align - 1),
    }
}

#[cfg(test)]
#[cfg(not(miri))]
mod tests {
    use super::*;

    #[test]
    fn rounds_inwards_and_outwards() {
        let range = MemoryRange::from_bounds(0x1001, 0x1fff).unwrap();
        assert_eq!(range.whole_frames(), None);
        assert_eq!(range.touched_frames(), MemoryRange::from_bounds(0x1000, 0x2000));
    }

    #[test]
    fn refuses_what_leaves_the_address_space() {
        assert_eq!(MemoryRange::from_length(u64::MAX, 2), None);
        assert_eq!(MemoryRange::from_bounds(0, (1 << 52) + 1), None);
        assert_eq!(MemoryRange::from_bounds(0, 1 << 52), Some(MemoryRange::EVERYTHING));
        assert_eq!(MemoryRange::from_bounds((1 << 52) - 4096, 1 << 52), None);
        assert_eq!(MemoryRange::from_length(0x1000, 0), None);
        assert_eq!(MemoryRange::EVERYTHING.touched_frames(), Some(MemoryRange::EVERYTHING));
    }
}
