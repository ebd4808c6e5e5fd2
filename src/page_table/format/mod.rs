//! Page-table formats: the differences between architectures.

pub(super) mod entry;
pub(super) mod features;
pub(super) mod level;
pub(super) mod protection;
pub(super) mod x64;

use topomem_percpu::PhysFrame;

use crate::page_table::{Entry, Leaf, Level, Ownership, Protection, RawEntry, RegionId};

/// The layout of page-table entries. A new architecture is a single implementation.
///
/// In all formats, a table is 4 KiB of 512 eight-byte entries: x86-64, AArch64 with 4 KiB granules,
/// RISC-V Sv39, Sv48 and Sv57.
///
/// # Safety
///
/// If a promise is broken, unmapped memory stays reachable:
///
/// - `decode` returns the arguments of `table`, `leaf` and `mark`, even from entries marked
///   accessed or dirty by the hardware, and [`Entry::Empty`] for [`RawEntry::EMPTY`], with and
///   without [`Format::CLAIM`].
/// - `region_in_mark` agrees with `decode` about marks.
/// - The hardware interprets the encodings as stated.
pub unsafe trait Format: Send + Sync + 'static {
    /// The root's level; above the level of page directories.
    const ROOT: Level;
    /// The highest level with leaves.
    const LARGEST_LEAF: Level;
    /// A bit ignored by the hardware in all entries of tables above the lowest (tables, leaves and
    /// empty entries), and set by neither `table` nor `leaf`.
    const CLAIM: u64;
    /// The bits of a leaf in a lowest table with the frame's address. The remaining bits of leaves
    /// given the same protection change alike, and the address bits are inverted in all of them or
    /// in none.
    const FRAME: u64;

    /// Encodes an entry leading to a table.
    fn table(frame: PhysFrame) -> RawEntry;

    /// Encodes a mapping in a table of `level`, at most [`Format::LARGEST_LEAF`].
    fn leaf(leaf: &Leaf, level: Level) -> RawEntry;

    /// Encodes an entry of any level without a mapping, keeping `region` for its pages. The
    /// hardware treats the entry as not present, and finds no address of memory in it. Never
    /// returns [`RawEntry::EMPTY`].
    fn mark(region: RegionId) -> RawEntry;

    /// Returns the region in an entry made by [`Format::mark`], of any level, or `None` for any
    /// other entry.
    fn region_in_mark(raw: RawEntry) -> Option<RegionId>;

    /// Returns whether the hardware follows `raw`: a table, or a leaf with permissions.
    fn is_present(raw: RawEntry) -> bool;

    /// Decodes `raw`, of a table of `level`.
    fn decode(raw: RawEntry, level: Level) -> Entry;

    /// Decodes `raw`, of a lowest table, as a leaf, or returns `None` if nothing is mapped. Agrees
    /// with `decode`.
    fn page(raw: RawEntry) -> Option<Leaf>;

    /// Returns the leaf `raw` of a table of `level` with another protection, keeping accessed and
    /// dirty marks.
    fn reprotect(raw: RawEntry, level: Level, protection: Protection) -> RawEntry;

    /// Returns whether the leaf `new` forbids an access permitted by the leaf `old`, or accesses
    /// memory in another way. `new` is `old` with another protection. If false, a translation by
    /// `old` left in a TLB is harmless.
    fn narrows(old: RawEntry, new: RawEntry) -> bool;

    /// Returns the leaf `raw` with another ownership, otherwise unchanged.
    fn with_ownership(raw: RawEntry, ownership: Ownership) -> RawEntry;

    /// Returns the leaf `raw` as a shared leaf without write permission, otherwise unchanged.
    fn shared(raw: RawEntry) -> RawEntry;

    /// Returns whether the leaf `raw` shares its frame and permits accesses, but no writes.
    fn is_shared(raw: RawEntry) -> bool;

    /// Returns the leaf `raw` without accessed and dirty marks.
    fn unnoted(raw: RawEntry) -> RawEntry;

    /// Returns the part of the leaf `raw`, of a table of `level`, at `index` of the next lower
    /// table, keeping accessed and dirty marks.
    fn split(raw: RawEntry, level: Level, index: usize) -> RawEntry;

    /// Adds the accessed and dirty marks of the leaf `other` to the leaf `raw`.
    fn merge_marks(raw: RawEntry, other: RawEntry) -> RawEntry;

    /// Adds all marks the hardware could set to the leaf `raw`: accessed, and dirty if writable.
    fn mark_ahead(raw: RawEntry) -> RawEntry;

    /// Returns the number of sizes in which a TLB may hold pages of `leaf` at once.
    fn sizes(leaf: &Leaf) -> Sizes;
}

/// The number of sizes in which a TLB may hold a page at once, while only the page's size changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sizes {
    /// Any number: an access uses one of the translations, and they agree.
    Any,
    /// A single size: the old translation has to be removed and flushed before the new translation
    /// is made.
    One,
}
