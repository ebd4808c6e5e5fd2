//! The attributes of a region, and their encoding in 31 bits.

use topomem_shootdown::PageSize;

use crate::object::Claim;
use crate::page_table::{Access, Level, Protection, RecordNumber};

/// The purpose of a region's pages. Pages of different kinds belong to different regions. The
/// memory manager treats only [`Kind::Stack`] specially.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Memory without a name or file.
    Anonymous = 1,
    /// Memory growing downwards, at an access right below.
    Stack = 2,
    /// Memory governed by [`brk`](crate::AddressSpace::brk).
    Heap = 3,
    /// A program's instructions.
    Code = 4,
    /// A program's variables.
    Data = 5,
    /// Reserved addresses; the pages permit nothing.
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
    pub(super) const ALL: [Kind; 9] = [
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

    /// Returns the kind of memory mapped in pages of `size`.
    pub(crate) const fn in_pages_of(size: PageSize) -> Kind {
        match size {
            PageSize::Size4KiB => Kind::Anonymous,
            PageSize::Size2MiB => Kind::Huge,
            PageSize::Size1GiB => Kind::Giant,
        }
    }

    /// Returns the level of the leaves mapping whole parts of a region of this kind.
    #[inline]
    pub(crate) const fn level(self) -> Level {
        match self {
            Kind::Huge => Level::HUGE,
            Kind::Giant => Level::GIANT,
            _ => Level::PAGE,
        }
    }

    // Always inlined, like `Region::id`.
    #[inline(always)]
    pub(super) fn from_bits(bits: u32) -> Kind {
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

/// The treatment of a region's pages by a fork.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Inheritance {
    /// The child gets a copy.
    Copied = 0,
    /// The child has no such region.
    Left = 1,
    /// The child has the region, without contents.
    Wiped = 2,
}

/// The visibility of writes to a region's pages.
///
/// ```
/// use topomem::Access;
/// use topomem::region::{Kind, Region, Sharing};
///
/// assert_eq!(Region::anonymous(Kind::Anonymous, Access::READ).sharing(), Sharing::Private);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Sharing {
    /// The space alone sees writes. A fork copies the pages.
    Private = 0,
    /// All mappings of the memory object see writes.
    Shared = 1,
}

/// Whether a region's pages may be used at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Guard {
    /// The region's access decides.
    None,
    /// No access is permitted, whatever the region's access.
    Installed,
}

/// Whether pages of 2 MiB may be used for a region without a requested page size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transparent {
    /// Never.
    Never,
    /// If 2 MiB of the region are aligned, whole and free.
    Permitted,
}

/// The common attributes of a region's pages.
///
/// ```
/// use topomem::Access;
/// use topomem::region::{Inheritance, Kind, Region, Sharing};
///
/// let region = Region::anonymous(Kind::Data, Access::READ);
/// assert_eq!(region.inheritance(), Inheritance::Copied);
/// assert_eq!(region.sharing(), Sharing::Private);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Region {
    pub(super) access: Access,
    pub(super) kind: Kind,
    pub(super) inheritance: Inheritance,
    pub(super) guard: Guard,
    pub(super) transparent: Transparent,
    pub(super) sharing: Sharing,
    pub(super) record: Option<RecordNumber>,
}

impl Region {
    /// Returns a region of private memory, zero at first.
    ///
    /// ```
    /// use topomem::Access;
    /// use topomem::region::{Kind, Region};
    ///
    /// assert_eq!(Region::anonymous(Kind::Stack, Access::WRITE).kind(), Kind::Stack);
    /// ```
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

    /// Returns the permitted accesses.
    ///
    /// ```
    /// use topomem::Access;
    /// use topomem::region::{Kind, Region};
    ///
    /// assert_eq!(Region::anonymous(Kind::Stack, Access::WRITE).access(), Access::WRITE);
    /// ```
    #[must_use]
    pub const fn access(self) -> Access {
        self.access
    }

    /// Returns the purpose of the pages.
    ///
    /// ```
    /// use topomem::Access;
    /// use topomem::region::{Kind, Region};
    ///
    /// assert_eq!(Region::anonymous(Kind::Stack, Access::WRITE).kind(), Kind::Stack);
    /// ```
    #[must_use]
    pub const fn kind(self) -> Kind {
        self.kind
    }

    /// Returns the treatment of the pages by a fork.
    ///
    /// ```
    /// use topomem::Access;
    /// use topomem::region::{Inheritance, Kind, Region};
    ///
    /// assert_eq!(Region::anonymous(Kind::Anonymous, Access::WRITE).inheritance(), Inheritance::Copied);
    /// ```
    #[must_use]
    pub const fn inheritance(self) -> Inheritance {
        self.inheritance
    }

    /// Returns whether the pages are guards, made by
    /// [`Advice::GuardInstall`](super::Advice::GuardInstall).
    ///
    /// ```
    /// use topomem::Access;
    /// use topomem::region::{Kind, Region};
    ///
    /// assert!(!Region::anonymous(Kind::Anonymous, Access::WRITE).is_guard());
    /// ```
    #[must_use]
    pub fn is_guard(self) -> bool {
        self.guard == Guard::Installed
    }

    /// Returns whether 2 MiB pages may be used without a requested page size.
    #[must_use]
    pub const fn transparent(self) -> Transparent {
        self.transparent
    }

    /// Returns the level of the largest leaves allowed for the region.
    #[inline]
    pub(crate) fn largest_level(self) -> Level {
        match self.transparent {
            _ if matches!(self.kind, Kind::Object) => Level::PAGE,
            Transparent::Permitted => self.kind.level().max(Level::HUGE),
            Transparent::Never => self.kind.level(),
        }
    }

    /// Returns the visibility of writes to the pages.
    #[must_use]
    pub const fn sharing(self) -> Sharing {
        self.sharing
    }

    /// Returns the claim of the pages on the frames of the region's object.
    #[inline]
    pub(crate) fn claim(self) -> Claim {
        match self.kind {
            Kind::Object => Claim::of(self.access, self.sharing),
            _ => Claim::NOTHING,
        }
    }

    /// Returns the number of the record with the attributes beyond plain anonymous memory.
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

    /// Returns the protection of an entry whose frame belongs to the space alone.
    #[inline]
    pub(crate) const fn protection(self) -> Protection {
        Protection::user(self.access)
    }

    /// Returns the protection of an entry whose frame has further users: no writes.
    #[inline]
    pub(crate) const fn protection_of_copies(self) -> Protection {
        Protection::user(self.access.without_writes())
    }
}
