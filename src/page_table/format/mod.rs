//! What differs between architectures.

pub(super) mod entry;
pub(super) mod features;
pub(super) mod level;
pub(super) mod protection;
pub(super) mod x64;

use x86_64::structures::paging::PhysFrame;

use crate::page_table::{Entry, Leaf, Level, Ownership, Protection, RawEntry, RegionId};

/// The layout of page-table entries; a new architecture is one implementation of it.
///
/// Tables are 4 KiB of 512 eight-byte entries in all of them: x86-64, AArch64 with 4 KiB
/// granules, RISC-V Sv39, Sv48 and Sv57.
///
/// # Safety
///
/// `decode` returns what `table`, `leaf` and `mark` were given (an entry that the hardware marked
/// accessed or dirty included), and [`Entry::Empty`] for [`RawEntry::EMPTY`], with and without
/// [`Format::CLAIM`]; `region_in_mark` returns what `decode` says of a mark; the encodings mean to the hardware what they say: otherwise unmapped memory
/// stays reachable.
pub unsafe trait Format: Send + Sync + 'static {
    /// The root's level; above that of page directories.
    const ROOT: Level;
    /// The highest level at which leaves may stand.
    const LARGEST_LEAF: Level;
    /// A bit that the hardware ignores in all entries of tables above the lowest, be they tables, leaves
    /// or empty, and that neither `table` nor `leaf` sets.
    const CLAIM: u64;
    /// The bits of a leaf in a lowest table that say which frame it maps. All other bits of leaves that get the same
    /// protection change alike, and these are inverted in all of them or in none.
    const FRAME: u64;

    /// An entry that points to a table.
    fn table(frame: PhysFrame) -> RawEntry;

    /// A mapping in a table of `level`, at most [`Format::LARGEST_LEAF`].
    fn leaf(leaf: &Leaf, level: Level) -> RawEntry;

    /// An entry of any level that maps nothing, and keeps `region` for its pages. The hardware takes
    /// it for not present, and finds no address of memory in it. It is never [`RawEntry::EMPTY`].
    fn mark(region: RegionId) -> RawEntry;

    /// Returns the region in an entry of any level that [`Format::mark`] made; `None` for any other.
    fn region_in_mark(raw: RawEntry) -> Option<RegionId>;

    /// Does the hardware follow `raw`: is it a table, or a leaf that permits something?
    fn is_present(raw: RawEntry) -> bool;

    /// What `raw`, in a table of `level`, says.
    fn decode(raw: RawEntry, level: Level) -> Entry;

    /// Returns the leaf that `raw`, in a lowest table, is; `None` if it maps nothing. The same as `decode` says.
    fn page(raw: RawEntry) -> Option<Leaf>;

    /// The leaf `raw` of a table of `level` with another protection; what the hardware noted
    /// in it (accessed, dirty) stays.
    fn reprotect(raw: RawEntry, level: Level, protection: Protection) -> RawEntry;

    /// Does the leaf `new` forbid something that the leaf `old` permits, or is memory accessed otherwise by it? If
    /// not, a translation by `old` that a TLB still has does no harm: `new` is `old` with another protection.
    fn narrows(old: RawEntry, new: RawEntry) -> bool;

    /// Returns the leaf `raw` with another ownership; all else stays.
    fn with_ownership(raw: RawEntry, ownership: Ownership) -> RawEntry;

    /// Returns the leaf `raw` as one that shares its frame and does not permit writes; all else stays.
    fn shared(raw: RawEntry) -> RawEntry;

    /// Does the leaf `raw` share its frame, and permit something, but no writes?
    fn is_shared(raw: RawEntry) -> bool;

    /// Returns the leaf `raw` without what the hardware noted in it.
    fn unnoted(raw: RawEntry) -> RawEntry;

    /// The leaf `raw` of a table of `level` as the entry `index` of the table, one level
    /// lower, that takes its place; what the hardware noted stays.
    fn split(raw: RawEntry, level: Level, index: usize) -> RawEntry;

    /// The leaf `raw` with what the hardware noted in the leaf `other` added.
    fn merge_marks(raw: RawEntry, other: RawEntry) -> RawEntry;

    /// The leaf `raw` with all that the hardware could note in it: accessed, and dirty where it
    /// may be written.
    fn mark_ahead(raw: RawEntry) -> RawEntry;

    /// In how many sizes a TLB may hold pages of `leaf` at once.
    fn sizes(leaf: &Leaf) -> Sizes;
}

/// In how many sizes a TLB may hold a page at once, while its size changes and nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sizes {
    /// Any: an access uses one of the translations, and they say the same.
    Any,
    /// One: the translation has to be broken, and flushed, before it is made anew.
    One,
}
