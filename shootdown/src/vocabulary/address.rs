//! Virtual addresses up to 57 bits wide, and page sizes.

use core::fmt;

/// Number of low bits of a virtual address translated by the page tables. The bits above repeat the
/// highest translated bit.
///
/// ```
/// use topomem_shootdown::AddressWidth;
///
/// let four_levels = AddressWidth::BITS_48;
/// assert_eq!(four_levels.sign_extend(1 << 47), 0xffff_8000_0000_0000);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct AddressWidth(u8);

impl AddressWidth {
    /// Three levels: RISC-V Sv39.
    pub const BITS_39: AddressWidth = AddressWidth(39);
    /// Four levels: x86-64, Sv48, AArch64 with a 4 KiB granule.
    pub const BITS_48: AddressWidth = AddressWidth(48);
    /// Five levels: x86-64 LA57, Sv57.
    pub const BITS_57: AddressWidth = AddressWidth(57);

    /// Returns the width in bits.
    ///
    /// ```
    /// use topomem_shootdown::AddressWidth;
    ///
    /// assert_eq!(AddressWidth::BITS_57.bits(), 57);
    /// ```
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// Replaces the bits of `address` above the width by copies of the highest bit within the
    /// width.
    ///
    /// ```
    /// use topomem_shootdown::AddressWidth;
    ///
    /// assert_eq!(AddressWidth::BITS_48.sign_extend(0x8000_0000_0000), 0xffff_8000_0000_0000);
    /// ```
    #[must_use]
    pub const fn sign_extend(self, address: u64) -> u64 {
        let unused = 64 - self.0 as u32;
        (((address << unused) as i64) >> unused) as u64
    }
}

/// The error for an address outside the canonical halves of a page-table format.
///
/// ```
/// use topomem_shootdown::{AddressWidth, NonCanonical, VirtAddr};
///
/// let address = 1 << 60;
/// assert_eq!(VirtAddr::new(address), Err(NonCanonical { address, width: AddressWidth::BITS_57 }));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NonCanonical {
    /// The refused address.
    pub address: u64,
    /// The width used for the check.
    pub width: AddressWidth,
}

impl fmt::Display for NonCanonical {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x} is not canonical for {} address bits", self.address, self.width.bits())
    }
}

impl core::error::Error for NonCanonical {}

/// A virtual address, canonical for 57 bits, the widest address of any supported format.
///
/// The `x86_64` crate's type is fixed at 48 bits; with the feature `x86_64`, [`From`] and [`TryFrom`] convert.
///
/// ```
/// use topomem_shootdown::{PageSize, VirtAddr};
///
/// let address = VirtAddr::new(0x20_1234)?;
/// assert_eq!(address.align_down(PageSize::Size4KiB).as_u64(), 0x20_1000);
/// assert!(VirtAddr::new(1 << 60).is_err());
/// # Ok::<(), topomem_shootdown::NonCanonical>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct VirtAddr(u64);

impl VirtAddr {
    /// Checks `address` and wraps it.
    ///
    /// # Errors
    ///
    /// Returns [`NonCanonical`] if bits 57..64 differ from bit 56.
    ///
    /// ```
    /// use topomem_shootdown::VirtAddr;
    ///
    /// assert!(VirtAddr::new(0xff00_0000_0000_0000).is_ok());
    /// assert!(VirtAddr::new(0x0100_0000_0000_0000).is_err());
    /// ```
    pub const fn new(address: u64) -> Result<VirtAddr, NonCanonical> {
        let width = AddressWidth::BITS_57;
        if width.sign_extend(address) == address {
            Ok(VirtAddr(address))
        } else {
            Err(NonCanonical { address, width })
        }
    }

    /// Wraps `address` after replacing bits 57..64 by copies of bit 56.
    ///
    /// ```
    /// use topomem_shootdown::VirtAddr;
    ///
    /// assert_eq!(VirtAddr::new_truncate(1 << 56).as_u64(), 0xff << 56);
    /// ```
    #[must_use]
    pub const fn new_truncate(address: u64) -> VirtAddr {
        VirtAddr(AddressWidth::BITS_57.sign_extend(address))
    }

    /// Wraps a number taken from a canonical address.
    pub(crate) const fn from_canonical(address: u64) -> VirtAddr {
        debug_assert!(VirtAddr::new(address).is_ok());
        VirtAddr(address)
    }

    /// Returns the address of `pointer`.
    ///
    /// ```
    /// use topomem_shootdown::VirtAddr;
    ///
    /// let byte = 7_u8;
    /// assert_eq!(VirtAddr::from_ptr(&raw const byte).as_u64(), (&raw const byte).addr() as u64);
    /// ```
    #[must_use]
    pub fn from_ptr<P: ?Sized>(pointer: *const P) -> VirtAddr {
        VirtAddr::new_truncate(pointer.cast::<()>().addr() as u64)
    }

    /// Returns the address as a number.
    ///
    /// ```
    /// use topomem_shootdown::VirtAddr;
    ///
    /// assert_eq!(VirtAddr::new_truncate(0x1000).as_u64(), 0x1000);
    /// ```
    #[must_use]
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// Returns whether page tables of `width` can translate the address.
    ///
    /// ```
    /// use topomem_shootdown::{AddressWidth, VirtAddr};
    ///
    /// let address = VirtAddr::new_truncate(1 << 50);
    /// assert!(address.is_canonical(AddressWidth::BITS_57));
    /// assert!(!address.is_canonical(AddressWidth::BITS_48));
    /// ```
    #[must_use]
    pub const fn is_canonical(self, width: AddressWidth) -> bool {
        width.sign_extend(self.0) == self.0
    }

    /// Returns whether a page of `size` starts at the address.
    ///
    /// ```
    /// use topomem_shootdown::{PageSize, VirtAddr};
    ///
    /// assert!(VirtAddr::new_truncate(0x20_0000).is_aligned(PageSize::Size2MiB));
    /// ```
    #[must_use]
    pub const fn is_aligned(self, size: PageSize) -> bool {
        self.0 & (size.bytes() - 1) == 0
    }

    /// Returns the start of the page of `size` around the address.
    ///
    /// ```
    /// use topomem_shootdown::{PageSize, VirtAddr};
    ///
    /// let page = VirtAddr::new_truncate(0x20_1234).align_down(PageSize::Size4KiB);
    /// assert_eq!(page.as_u64(), 0x20_1000);
    /// ```
    #[must_use]
    pub const fn align_down(self, size: PageSize) -> VirtAddr {
        VirtAddr(self.0 & !(size.bytes() - 1))
    }

    /// Returns the address `bytes` further up. Returns `None` if the sum lies above the highest
    /// address or in the hole between the two canonical halves.
    ///
    /// ```
    /// use topomem_shootdown::VirtAddr;
    ///
    /// let last_of_lower_half = VirtAddr::new_truncate((1 << 56) - 1);
    /// assert_eq!(last_of_lower_half.checked_add(1), None);
    /// ```
    #[must_use]
    pub const fn checked_add(self, bytes: u64) -> Option<VirtAddr> {
        match self.0.checked_add(bytes) {
            // A sum that leaves the lower half lands in the hole or, over it, in the upper half.
            Some(sum) if (sum ^ self.0) >> 63 == 0 => match VirtAddr::new(sum) {
                Ok(address) => Some(address),
                Err(_) => None,
            },
            _ => None,
        }
    }
}

impl fmt::Debug for VirtAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VirtAddr({:#x})", self.0)
    }
}

impl fmt::Display for VirtAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::LowerHex for VirtAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::LowerHex::fmt(&self.0, f)
    }
}

#[cfg(feature = "x86_64")]
impl From<x86_64::VirtAddr> for VirtAddr {
    fn from(address: x86_64::VirtAddr) -> VirtAddr {
        VirtAddr(address.as_u64())
    }
}

#[cfg(feature = "x86_64")]
impl TryFrom<VirtAddr> for x86_64::VirtAddr {
    type Error = NonCanonical;

    /// Fails if the address needs more than 48 bits.
    fn try_from(address: VirtAddr) -> Result<x86_64::VirtAddr, NonCanonical> {
        x86_64::VirtAddr::try_new(address.0)
            .map_err(|_| NonCanonical { address: address.0, width: AddressWidth::BITS_48 })
    }
}

/// The size of one leaf translation.
///
/// ```
/// use topomem_shootdown::PageSize;
///
/// assert_eq!(PageSize::ALL.map(PageSize::bytes), [4 << 10, 2 << 20, 1 << 30]);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum PageSize {
    /// 4 KiB: the base page.
    Size4KiB = 0,
    /// 2 MiB: one level up.
    Size2MiB = 1,
    /// 1 GiB: two levels up.
    Size1GiB = 2,
}

impl PageSize {
    /// Every size, smallest first.
    pub const ALL: [PageSize; 3] = [PageSize::Size4KiB, PageSize::Size2MiB, PageSize::Size1GiB];

    /// The size in bytes.
    ///
    /// ```
    /// use topomem_shootdown::PageSize;
    ///
    /// assert_eq!(PageSize::Size2MiB.bytes(), 512 * PageSize::Size4KiB.bytes());
    /// ```
    #[must_use]
    pub const fn bytes(self) -> u64 {
        4096 << (9 * self as u32)
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    #[test]
    fn canonical_halves_and_the_hole() {
        for bits in [AddressWidth::BITS_39, AddressWidth::BITS_48, AddressWidth::BITS_57] {
            let half = 1u64 << (bits.bits() - 1);
            assert!(VirtAddr::new_truncate(half - 1).is_canonical(bits));
            assert!(VirtAddr::new_truncate(half.wrapping_neg()).is_canonical(bits));
            assert!(VirtAddr::new(half).is_err() || !VirtAddr::new(half).unwrap().is_canonical(bits));
        }
        let refused = VirtAddr::new(1 << 56).unwrap_err();
        assert_eq!(refused, NonCanonical { address: 1 << 56, width: AddressWidth::BITS_57 });
        assert_eq!(VirtAddr::new_truncate(1 << 56).as_u64(), 0xff00_0000_0000_0000);
    }

    #[test]
    fn addition_stays_in_its_half() {
        let last = VirtAddr::new((1 << 56) - 4096).unwrap();
        assert_eq!(last.checked_add(4096), None);
        assert_eq!(last.checked_add(0xfe00_0000_0000_0000), None);
        assert_eq!(last.checked_add(4095).unwrap().as_u64(), (1 << 56) - 1);
        assert_eq!(VirtAddr::new(u64::MAX).unwrap().checked_add(1), None);
    }

    #[cfg(feature = "x86_64")]
    #[test]
    fn converts_to_and_from_48_bits() {
        let high = x86_64::VirtAddr::new(0xffff_8000_0000_0000);
        assert_eq!(x86_64::VirtAddr::try_from(VirtAddr::from(high)), Ok(high));
        assert!(x86_64::VirtAddr::try_from(VirtAddr::new(1 << 50).unwrap()).is_err());
    }

    #[test]
    fn alignment_by_size() {
        let address = VirtAddr::new(0x4020_1000).unwrap();
        assert!(address.is_aligned(PageSize::Size4KiB) && !address.is_aligned(PageSize::Size2MiB));
        assert_eq!(address.align_down(PageSize::Size2MiB).as_u64(), 0x4020_0000);
        assert_eq!(address.align_down(PageSize::Size1GiB).as_u64(), 0x4000_0000);
    }
}
