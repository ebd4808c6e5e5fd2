//! The encoding of a region in the 31 bits of its id.

use super::attributes::{Guard, Inheritance, Kind, Region, Sharing, Transparent};
use crate::page_table::{Access, RecordNumber, RegionId};

/// The positions of the attributes in a region's id.
mod bits {
    // Bits 0 to 2 are the access.
    pub(super) const TRANSPARENT: u32 = 1 << 3;
    pub(super) const KIND_SHIFT: u32 = 4;
    pub(super) const KIND: u32 = 15;
    pub(super) const GUARD: u32 = 1 << 8;
    pub(super) const INHERITANCE_SHIFT: u32 = 9;
    pub(super) const INHERITANCE: u32 = 3;
    pub(super) const SHARED: u32 = 1 << 11;
}

impl Region {
    /// Returns the id kept by page tables.
    // Always inlined: faults and changes of a page read and write ids, and a call would cost them
    // more than the bits.
    #[must_use]
    #[inline(always)]
    pub(crate) fn id(self) -> RegionId {
        let flag = |set: bool, bit: u32| if set { bit } else { 0 };
        let bits = u32::from(self.access.bits())
            | flag(self.transparent == Transparent::Permitted, bits::TRANSPARENT)
            | (self.kind as u32) << bits::KIND_SHIFT
            | flag(self.is_guard(), bits::GUARD)
            | (self.inheritance as u32) << bits::INHERITANCE_SHIFT
            | flag(matches!(self.sharing, Sharing::Shared), bits::SHARED)
            | self.record.map_or(0, RecordNumber::get) << RegionId::RECORD_SHIFT;
        let id = RegionId::new(bits);
        debug_assert!(id.is_some(), "a kind is not 0");
        id.unwrap_or(RegionId::MIN)
    }

    /// Returns the region with an id made by [`Region::id`].
    // Always inlined, like `id`.
    #[must_use]
    #[inline(always)]
    pub(crate) fn of(id: RegionId) -> Region {
        let bits = id.get();
        let access = Access::of_bits(bits as u8);
        let inheritance = match bits >> bits::INHERITANCE_SHIFT & bits::INHERITANCE {
            1 => Inheritance::Left,
            2 => Inheritance::Wiped,
            _ => Inheritance::Copied,
        };
        let guard = if bits & bits::GUARD != 0 { Guard::Installed } else { Guard::None };
        let transparent =
            if bits & bits::TRANSPARENT != 0 { Transparent::Permitted } else { Transparent::Never };
        let kind = Kind::from_bits(bits >> bits::KIND_SHIFT & bits::KIND);
        let sharing = if bits & bits::SHARED != 0 { Sharing::Shared } else { Sharing::Private };
        Region { access, kind, inheritance, guard, transparent, sharing, record: id.record() }
    }

    /// Returns the access permitted by the region with this id.
    #[inline]
    pub(crate) const fn access_of(id: RegionId) -> Access {
        Access::of_bits(id.get() as u8)
    }

    /// Returns the id of the region with another access and otherwise equal to the region of `id`.
    #[inline]
    pub(crate) const fn id_with_access(id: RegionId, access: Access) -> RegionId {
        let rest = id.get() & !(Access::ALL_BITS as u32);
        match RegionId::new(rest | access.bits() as u32) {
            Some(id) => id,
            // A kind is not 0.
            None => id,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_back() {
        for access in [Access::NONE, Access::READ, Access::WRITE, Access::EXECUTE] {
            for kind in Kind::ALL {
                for inheritance in [Inheritance::Copied, Inheritance::Left, Inheritance::Wiped] {
                    for guard in [Guard::None, Guard::Installed] {
                        for (transparent, sharing, record) in [
                            (Transparent::Never, Sharing::Private, None),
                            (Transparent::Permitted, Sharing::Shared, RecordNumber::new(1)),
                            (Transparent::Never, Sharing::Private, RecordNumber::new((1 << 19) - 1)),
                        ] {
                            let region =
                                Region { access, kind, inheritance, guard, transparent, sharing, record };
                            assert_eq!(Region::of(region.id()), region);
                            assert_eq!(Region::access_of(region.id()), access);
                            for other in [Access::NONE, Access::READ, Access::WRITE, Access::EXECUTE] {
                                let id = Region::id_with_access(region.id(), other);
                                assert_eq!(id, region.with_access(other).id());
                            }
                        }
                    }
                }
            }
        }
    }
}
