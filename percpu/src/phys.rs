//! Physical addresses and page frames, of no architecture in particular.

use core::fmt;
use core::ops::{Add, AddAssign, Sub};

/// A physical address in bytes.
///
/// The type has no limit of its own: how many bits count is the machine's matter, and the page-table format's.
/// With the feature `x86_64`, [`From`] and [`TryFrom`] convert to and from the type of the `x86_64` crate, which
/// holds 52 bits.
///
/// # Examples
///
/// ```
/// use topomem_percpu::PhysAddr;
///
/// let address = PhysAddr::new(0x1234);
/// assert_eq!(address.align_down(4096), PhysAddr::new(0x1000));
/// assert_eq!(address + 4, PhysAddr::new(0x1238));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct PhysAddr(u64);

impl PhysAddr {
    /// Address 0.
    pub const ZERO: PhysAddr = PhysAddr(0);

    /// Wraps a number of bytes.
    #[inline]
    #[must_use]
    pub const fn new(address: u64) -> PhysAddr {
        PhysAddr(address)
    }

    /// Returns the number of bytes.
    #[inline]
    #[must_use]
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// Returns true if the address is a multiple of `align` bytes, a power of two.
    #[inline]
    #[must_use]
    pub const fn is_aligned(self, align: u64) -> bool {
        self.0 & (align - 1) == 0
    }

    /// Returns the greatest multiple of `align` bytes, a power of two, not above the address.
    #[inline]
    #[must_use]
    pub const fn align_down(self, align: u64) -> PhysAddr {
        PhysAddr(self.0 & !(align - 1))
    }

    /// Returns the address `bytes` further up, or `None` beyond the greatest number.
    #[inline]
    #[must_use]
    pub const fn checked_add(self, bytes: u64) -> Option<PhysAddr> {
        match self.0.checked_add(bytes) {
            Some(sum) => Some(PhysAddr(sum)),
            None => None,
        }
    }
}

impl fmt::Debug for PhysAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PhysAddr({:#x})", self.0)
    }
}

impl fmt::Display for PhysAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::LowerHex for PhysAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::LowerHex::fmt(&self.0, f)
    }
}

impl Add<u64> for PhysAddr {
    type Output = PhysAddr;

    #[inline]
    fn add(self, bytes: u64) -> PhysAddr {
        PhysAddr(self.0 + bytes)
    }
}

impl AddAssign<u64> for PhysAddr {
    #[inline]
    fn add_assign(&mut self, bytes: u64) {
        self.0 += bytes;
    }
}

impl Sub<u64> for PhysAddr {
    type Output = PhysAddr;

    #[inline]
    fn sub(self, bytes: u64) -> PhysAddr {
        PhysAddr(self.0 - bytes)
    }
}

impl Sub<PhysAddr> for PhysAddr {
    type Output = u64;

    /// Returns how many bytes `other` lies below.
    #[inline]
    fn sub(self, other: PhysAddr) -> u64 {
        self.0 - other.0
    }
}

/// A page frame: 4 KiB of physical memory at a multiple of 4 KiB.
///
/// With the feature `x86_64`, [`From`] and [`TryFrom`] convert to and from `PhysFrame` of the `x86_64`
/// crate.
///
/// # Examples
///
/// ```
/// use topomem_percpu::{PhysAddr, PhysFrame};
///
/// let frame = PhysFrame::containing_address(PhysAddr::new(0x1234));
/// assert_eq!(frame.start_address(), PhysAddr::new(0x1000));
/// assert_eq!(frame.number(), 1);
/// assert!(PhysFrame::from_start_address(PhysAddr::new(0x1234)).is_err());
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct PhysFrame {
    start: PhysAddr,
}

impl PhysFrame {
    /// Bytes in a frame.
    pub const SIZE: u64 = 4096;

    /// Returns the frame around `address`.
    #[inline]
    #[must_use]
    pub const fn containing_address(address: PhysAddr) -> PhysFrame {
        PhysFrame { start: address.align_down(PhysFrame::SIZE) }
    }

    /// Returns the frame starting at `address`.
    ///
    /// # Errors
    ///
    /// [`NotFrameAligned`] if no frame starts at `address`.
    #[inline]
    pub const fn from_start_address(address: PhysAddr) -> Result<PhysFrame, NotFrameAligned> {
        if address.is_aligned(PhysFrame::SIZE) {
            Ok(PhysFrame { start: address })
        } else {
            Err(NotFrameAligned { address })
        }
    }

    /// Returns the frame starting at `address`, without looking.
    ///
    /// # Safety
    ///
    /// `address` is a multiple of [`PhysFrame::SIZE`].
    #[inline]
    #[must_use]
    pub const unsafe fn from_start_address_unchecked(address: PhysAddr) -> PhysFrame {
        debug_assert!(address.is_aligned(PhysFrame::SIZE));
        PhysFrame { start: address }
    }

    /// Returns the frame's first address.
    #[inline]
    #[must_use]
    pub const fn start_address(self) -> PhysAddr {
        self.start
    }

    /// Returns the frame's number: the first address divided by the size of a frame.
    #[inline]
    #[must_use]
    pub const fn number(self) -> u64 {
        self.start.0 / PhysFrame::SIZE
    }
}

impl Add<u64> for PhysFrame {
    type Output = PhysFrame;

    /// Returns the frame `frames` frames further up.
    #[inline]
    fn add(self, frames: u64) -> PhysFrame {
        PhysFrame { start: self.start + frames * PhysFrame::SIZE }
    }
}

impl Sub<u64> for PhysFrame {
    type Output = PhysFrame;

    /// Returns the frame `frames` frames further down.
    #[inline]
    fn sub(self, frames: u64) -> PhysFrame {
        PhysFrame { start: self.start - frames * PhysFrame::SIZE }
    }
}

impl fmt::Debug for PhysFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PhysFrame({:#x})", self.start)
    }
}

/// The error for an address inside a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotFrameAligned {
    /// The refused address.
    pub address: PhysAddr,
}

impl fmt::Display for NotFrameAligned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no frame starts at {:#x}", self.address)
    }
}

impl core::error::Error for NotFrameAligned {}

/// Conversions to and from the types of the `x86_64` crate.
#[cfg(feature = "x86_64")]
mod x86 {
    use x86_64::structures::paging;

    use super::{PhysAddr, PhysFrame};

    impl From<x86_64::PhysAddr> for PhysAddr {
        #[inline]
        fn from(address: x86_64::PhysAddr) -> PhysAddr {
            PhysAddr(address.as_u64())
        }
    }

    impl TryFrom<PhysAddr> for x86_64::PhysAddr {
        type Error = x86_64::addr::PhysAddrNotValid;

        /// Fails if the address needs more than 52 bits.
        #[inline]
        fn try_from(address: PhysAddr) -> Result<x86_64::PhysAddr, Self::Error> {
            x86_64::PhysAddr::try_new(address.0)
        }
    }

    impl From<paging::PhysFrame> for PhysFrame {
        #[inline]
        fn from(frame: paging::PhysFrame) -> PhysFrame {
            PhysFrame { start: frame.start_address().into() }
        }
    }

    impl TryFrom<PhysFrame> for paging::PhysFrame {
        type Error = x86_64::addr::PhysAddrNotValid;

        /// Fails if the frame's address needs more than 52 bits.
        #[inline]
        fn try_from(frame: PhysFrame) -> Result<paging::PhysFrame, Self::Error> {
            Ok(paging::PhysFrame::containing_address(frame.start.try_into()?))
        }
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    #[test]
    fn a_frame_starts_at_a_multiple_of_its_size() {
        let address = PhysAddr::new(0x7000);
        assert_eq!(PhysFrame::from_start_address(address).unwrap().start_address(), address);
        assert_eq!(
            PhysFrame::from_start_address(address + 8),
            Err(NotFrameAligned { address: PhysAddr::new(0x7008) })
        );
        assert_eq!(PhysFrame::containing_address(address + 4095).number(), 7);
    }

    #[test]
    fn an_address_above_all_others_has_none_further_up() {
        assert_eq!(PhysAddr::new(u64::MAX).checked_add(1), None);
        assert_eq!(PhysAddr::new(u64::MAX - 1).checked_add(1), Some(PhysAddr::new(u64::MAX)));
    }

    #[cfg(feature = "x86_64")]
    #[test]
    fn the_x86_64_crate_holds_52_bits() {
        let fits = PhysAddr::new((1 << 52) - 4096);
        assert_eq!(PhysAddr::from(x86_64::PhysAddr::try_from(fits).unwrap()), fits);
        assert!(x86_64::PhysAddr::try_from(fits + 4096).is_err());
        let frame = PhysFrame::containing_address(fits);
        let theirs = x86_64::structures::paging::PhysFrame::try_from(frame).unwrap();
        assert_eq!(PhysFrame::from(theirs), frame);
        let above = PhysFrame::containing_address(PhysAddr::new(1 << 52));
        assert!(x86_64::structures::paging::PhysFrame::try_from(above).is_err());
    }
}
