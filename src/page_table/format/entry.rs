//! Contents of a page-table entry, independent of the architecture.

use core::num::NonZeroU32;

use topomem_percpu::PhysFrame;

use crate::page_table::Protection;

/// An entry's 64 bits in the architecture's layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawEntry(pub u64);

impl RawEntry {
    /// A vacant entry. Zero in every format: a zeroed frame is an empty table.
    pub const EMPTY: RawEntry = RawEntry(0);
}

/// A decoded entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// Vacant: no page is mapped.
    Empty,
    /// A mark: the pages are to be mapped at the first access, and belong to this region.
    Mark(RegionId),
    /// The table of the next lower level.
    Table(PhysFrame),
    /// A mapping.
    Leaf(Leaf),
}

/// The owner of pages: 31 bits, not all zero, kept by page tables for each page mapped or to be
/// mapped. The layer above gives the bits their meaning.
///
/// ```
/// use topomem::page_table::RegionId;
///
/// assert_eq!(RegionId::new(7).map(RegionId::get), Some(7));
/// assert_eq!(RegionId::new(0), None);
/// assert_eq!(RegionId::new(1 << RegionId::BITS), None);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RegionId(NonZeroU32);

impl RegionId {
    /// The least id.
    pub(crate) const MIN: RegionId = RegionId(NonZeroU32::MIN);

    /// Number of bits of an id.
    pub const BITS: u32 = 31;

    /// The position of the record's number: the bits from here on.
    pub(crate) const RECORD_SHIFT: u32 = 12;

    /// Returns the id with these bits, or `None` if they are zero or exceed [`RegionId::BITS`].
    #[inline]
    #[must_use]
    pub const fn new(bits: u32) -> Option<RegionId> {
        match NonZeroU32::new(bits) {
            Some(bits) if bits.get() >> Self::BITS == 0 => Some(RegionId(bits)),
            _ => None,
        }
    }

    /// Returns the bits.
    #[inline]
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0.get()
    }

    /// Returns the id with another record and otherwise the same bits.
    pub(crate) const fn with_record(self, record: RecordNumber) -> RegionId {
        let rest = self.get() & ((1 << Self::RECORD_SHIFT) - 1);
        match RegionId::new(rest | record.get() << Self::RECORD_SHIFT) {
            Some(id) => id,
            None => self,
        }
    }

    /// Returns the number of the record referenced by the id, if any.
    #[inline]
    pub(crate) const fn record(self) -> Option<RecordNumber> {
        RecordNumber::new(self.get() >> Self::RECORD_SHIFT)
    }
}

/// The number of a record in a space's table of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct RecordNumber(NonZeroU32);

impl RecordNumber {
    /// The highest number.
    pub(crate) const MAX: u32 = (1 << (RegionId::BITS - RegionId::RECORD_SHIFT)) - 1;

    /// Returns the number with this value, or `None` for zero.
    #[inline]
    pub(crate) const fn new(number: u32) -> Option<RecordNumber> {
        match NonZeroU32::new(number) {
            Some(number) => Some(RecordNumber(number)),
            None => None,
        }
    }

    /// Returns the value.
    #[inline]
    pub(crate) const fn get(self) -> u32 {
        self.0.get()
    }
}

/// A mapping of a 4 KiB, 2 MiB or 1 GiB page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leaf {
    /// The first 4 KiB frame, aligned to the leaf's size.
    pub frame: PhysFrame,
    /// The permissions.
    pub protection: Protection,
    /// Whether address spaces share the translation.
    pub reach: Reach,
    /// The fate of the frame on unmap.
    pub ownership: Ownership,
}

/// Whether a translation survives an address-space switch in a TLB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reach {
    /// The translation belongs to a single address space.
    Space,
    /// The translation is the same in all spaces: the kernel half's.
    Global,
}

/// The fate of a leaf's frame when the leaf is unmapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ownership {
    /// The mapping owns the frame: the frame retires, and is freed after every TLB has dropped the
    /// translation.
    Owned,
    /// The frame counts its holders, now or earlier several, and the leaf is one of them. Its share
    /// is dropped after every TLB has dropped the translation, and the drop of the last share frees
    /// the frame.
    Shared,
    /// The frame belongs elsewhere: device memory, the kernel image, a frame mapped in several
    /// places.
    Borrowed,
}
