//! What the pages of a region have in common, and its 31 bits.

use topomem_shootdown::PageSize;

use crate::object::Claim;
use crate::page_table::{Access, Level, Protection, RecordNumber, RegionId};

/// What the pages of a region are for. Pages of different kinds are different regions; otherwise only
/// [`Kind::Stack`] means something to the memory manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Memory without a name or file.
    Anonymous = 1,
    /// Grows downwards, if an address right below it is accessed.
    Stack = 2,
    /// What [`brk`](crate::AddressSpace::brk) governs.
    Heap = 3,
    /// A program's instructions.
    Code = 4,
    /// A program's variables.
    Data = 5,
    /// Keeps addresses free; its pages permit nothing.
    Guard = 6,
    /// Pages of a [`MemoryObject`](crate::object::MemoryObject)
    /// ([`mmap_object`](crate::AddressSpace::mmap_object)).
    Object = 7,
    /// Memory in pages of 2 MiB ([`MapRequest::huge`](super::MapRequest::huge)).
    Huge = 14,
    /// Memory in pages of 1 GiB.
    Giant = 15,
}

impl Kind {
    #[cfg(test)]
    const ALL: [Kind; 9] = [
        Kind::Anonymous,
        Kind::Stack,
        Kind::Heap,
        Kind::Code,
        Kind::Data,
        Kind::Guard,
        Kind::Object,
        Kind::Huge,
        Kind::Giant,
    ];

    /// Returns the kind of memory that is mapped in pages of `size`.
    pub(crate) const fn in_pages_of(size: PageSize) -> Kind {
        match size {
            PageSize::Size4KiB => Kind::Anonymous,
            PageSize::Size2MiB => Kind::Huge,
            PageSize::Size1GiB => Kind::Giant,
        }
    }

    /// Returns the level of the leaves that a region of this kind is mapped by, where it is whole.
    #[inline]
    pub(crate) const fn level(self) -> Level {
        match self {
            Kind::Huge => Level::HUGE,
            Kind::Giant => Level::GIANT,
            _ => Level::PAGE,
        }
    }

    // Always: as `Region::id`.
    #[inline(always)]
    fn from_bits(bits: u32) -> Kind {
        match bits {
            1 => Kind::Anonymous,
            2 => Kind::Stack,
            3 => Kind::Heap,
            4 => Kind::Code,
            5 => Kind::Data,
            7 => Kind::Object,
            14 => Kind::Huge,
            15 => Kind::Giant,
            _ => {
                debug_assert_eq!(bits, 6, "no kind has that number");
                Kind::Guard
            }
        }
    }
}

/// What a fork does with the pages of a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Inheritance {
    /// The child has a copy.
    Copied = 0,
    /// The child has no such region.
    Left = 1,
    /// The child has the region, without contents.
    Wiped = 2,
}

/// Who sees what is written to the pages of a region?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Sharing {
    /// The space alone. A fork copies the pages.
    Private = 0,
    /// All that map the same memory object.
    Shared = 1,
}

/// May the pages of a region be used at all?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Guard {
    /// As the region's access says.
    None,
    /// No access is permitted, whatever the region's access says.
    Installed,
}

/// May pages of 2 MiB be used for a region that did not ask for a page size?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transparent {
    /// No.
    Never,
    /// Where 2 MiB of the region are aligned, whole and free.
    Permitted,
}

/// What the pages of a region have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Region {
    access: Access,
    kind: Kind,
    inheritance: Inheritance,
    guard: Guard,
    transparent: Transparent,
    sharing: Sharing,
    record: Option<RecordNumber>,
}

/// Where the parts stand in a region's id.
mod bits {
    // Bits 0 to 2 are those of the access.
    pub const TRANSPARENT: u32 = 1 << 3;
    pub const KIND_SHIFT: u32 = 4;
    pub const KIND: u32 = 15;
    pub const GUARD: u32 = 1 << 8;
    pub const INHERITANCE_SHIFT: u32 = 9;
    pub const INHERITANCE: u32 = 3;
    pub const SHARED: u32 = 1 << 11;
}

impl Region {
    /// Returns a region of private memory that is zero at first.
    #[must_use]
    pub const fn anonymous(kind: Kind, access: Access) -> Region {
        Region {
            access,
            kind,
            inheritance: Inheritance::Copied,
            guard: Guard::None,
            transparent: Transparent::Never,
            sharing: Sharing::Private,
            record: None,
        }
    }

    /// Returns what its pages permit.
    #[must_use]
    pub const fn access(self) -> Access {
        self.access
    }

    /// Returns what its pages are for.
    #[must_use]
    pub const fn kind(self) -> Kind {
        self.kind
    }

    /// Returns what a fork does with its pages.
    #[must_use]
    pub const fn inheritance(self) -> Inheritance {
        self.inheritance
    }

    /// Are its pages guards, which [`Advice::GuardInstall`](super::Advice::GuardInstall) made?
    #[must_use]
    pub fn is_guard(self) -> bool {
        self.guard == Guard::Installed
    }

    /// May 2 MiB pages be used for it, though it did not ask for a page size?
    #[must_use]
    pub const fn transparent(self) -> Transparent {
        self.transparent
    }

    /// Returns the level of the largest leaves that it may be mapped by.
    #[inline]
    pub(crate) fn largest_level(self) -> Level {
        match self.transparent {
            _ if matches!(self.kind, Kind::Object) => Level::PAGE,
            Transparent::Permitted => self.kind.level().max(Level::HUGE),
            Transparent::Never => self.kind.level(),
        }
    }

    /// Returns who sees what is written to its pages.
    #[must_use]
    pub const fn sharing(self) -> Sharing {
        self.sharing
    }

    /// Returns what its pages permit of the frames of the object that they show.
    #[inline]
    pub(crate) fn claim(self) -> Claim {
        match self.kind {
            Kind::Object => Claim::of(self.access, self.sharing),
            _ => Claim::NOTHING,
        }
    }

    /// Returns the number of its record: of what it has beside plain anonymous memory.
    #[inline]
    pub(crate) const fn record(self) -> Option<RecordNumber> {
        self.record
    }

    pub(crate) const fn with_record(self, record: Option<RecordNumber>) -> Region {
        Region { record, ..self }
    }

    pub(crate) const fn with_sharing(self, sharing: Sharing) -> Region {
        Region { sharing, ..self }
    }

    pub(crate) const fn with_kind(self, kind: Kind) -> Region {
        Region { kind, ..self }
    }

    pub(crate) const fn with_access(self, access: Access) -> Region {
        Region { access, ..self }
    }

    pub(crate) const fn with_inheritance(self, inheritance: Inheritance) -> Region {
        Region { inheritance, ..self }
    }

    pub(crate) const fn with_guard(self, guard: Guard) -> Region {
        Region { guard, ..self }
    }

    pub(crate) const fn with_transparent(self, transparent: Transparent) -> Region {
        Region { transparent, ..self }
    }

    /// Returns what page tables keep of it.
    // Always: faults and changes of one page read and write ids, and a call costs them more than the bits do.
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

    /// Returns the region that [`Region::id`] made the id of.
    // Always: as `id`.
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

    /// Returns what the region of that id permits.
    #[inline]
    pub(crate) const fn access_of(id: RegionId) -> Access {
        Access::of_bits(id.get() as u8)
    }

    /// Returns the id of the region that differs from the region of `id` in its access alone.
    #[inline]
    pub(crate) const fn id_with_access(id: RegionId, access: Access) -> RegionId {
        let rest = id.get() & !(Access::ALL_BITS as u32);
        match RegionId::new(rest | access.bits() as u32) {
            Some(id) => id,
            // A kind is not 0.
            None => id,
        }
    }

    /// Returns what an entry of the region permits whose frame is the space's alone.
    #[inline]
    pub(crate) const fn protection(self) -> Protection {
        Protection::user(self.access)
    }

    /// Returns what an entry of the region permits whose frame has other users: no writes.
    #[inline]
    pub(crate) const fn protection_of_copies(self) -> Protection {
        Protection::user(self.access.without_writes())
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
