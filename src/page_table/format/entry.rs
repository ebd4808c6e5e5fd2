//! What an entry of a page table says, whatever the architecture.

use core::num::NonZeroU32;

use x86_64::structures::paging::PhysFrame;

use crate::page_table::Protection;

/// An entry's 64 bits as the architecture lays them out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawEntry(pub u64);

impl RawEntry {
    /// Nothing mapped; zero in every format, so that a zeroed frame is an empty table.
    pub const EMPTY: RawEntry = RawEntry(0);
}

/// A decoded entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// Nothing mapped.
    Empty,
    /// Nothing mapped yet: what is to be mapped at the first access belongs to this region.
    Mark(RegionId),
    /// The table of the next lower level.
    Table(PhysFrame),
    /// A mapping.
    Leaf(Leaf),
}

/// What pages belong to: 31 bits, not all zero, that page tables keep for each page that is mapped or
/// to be mapped. The layer above gives the bits their meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RegionId(NonZeroU32);

impl RegionId {
    /// The least id.
    pub(crate) const MIN: RegionId = RegionId(NonZeroU32::MIN);

    /// How many bits an id has.
    pub const BITS: u32 = 31;

    /// Where the number of the id's record stands: the bits from here on.
    pub(crate) const RECORD_SHIFT: u32 = 12;

    /// Returns the id with these bits; `None` if they are zero, or more than [`RegionId::BITS`].
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

    /// Returns the id that differs in the record alone.
    pub(crate) const fn with_record(self, record: RecordNumber) -> RegionId {
        let rest = self.get() & ((1 << Self::RECORD_SHIFT) - 1);
        match RegionId::new(rest | record.get() << Self::RECORD_SHIFT) {
            Some(id) => id,
            None => self,
        }
    }

    /// Returns the number of the record that the id refers to, if any.
    #[inline]
    pub(crate) const fn record(self) -> Option<RecordNumber> {
        RecordNumber::new(self.get() >> Self::RECORD_SHIFT)
    }
}

/// The number of a record, in the table of records of one space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct RecordNumber(NonZeroU32);

impl RecordNumber {
    /// The highest number.
    pub const MAX: u32 = (1 << (RegionId::BITS - RegionId::RECORD_SHIFT)) - 1;

    /// Returns the number with this value; `None` if it is zero.
    #[inline]
    pub const fn new(number: u32) -> Option<RecordNumber> {
        match NonZeroU32::new(number) {
            Some(number) => Some(RecordNumber(number)),
            None => None,
        }
    }

    /// Returns the value.
    #[inline]
    pub const fn get(self) -> u32 {
        self.0.get()
    }
}

/// A mapping of one 4 KiB, 2 MiB or 1 GiB page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leaf {
    /// The first 4 KiB frame, aligned to the leaf's size.
    pub frame: PhysFrame,
    /// What it permits.
    pub protection: Protection,
    /// Whether address spaces share the translation.
    pub reach: Reach,
    /// What becomes of the frame on unmap.
    pub ownership: Ownership,
}

/// Whether a translation survives an address-space switch in a TLB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reach {
    /// It belongs to one address space.
    Space,
    /// It is the same in all of them: the kernel half's.
    Global,
}

/// What becomes of a leaf's frame when it is unmapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ownership {
    /// The mapping owns it: it retires, and is freed once no TLB can hold the translation.
    Owned,
    /// The frame is counted and has further holders, or had: the leaf is one of them. Its share is
    /// dropped once no TLB can hold the translation, and the last holder's drop frees the frame.
    Shared,
    /// Someone else's: device memory, the kernel image, a frame mapped in several places.
    Borrowed,
}
