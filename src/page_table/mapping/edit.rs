//! Changes of a single entry: clearing, or another protection.

use crate::page_table::format::Format;
use crate::page_table::format::entry::{Entry, Leaf, Ownership, RawEntry};
use crate::page_table::format::level::Level;
use crate::page_table::format::protection::Protection;
use crate::page_table::tables::memory::TableMemory;
use crate::page_table::tables::table::TableEntry;
use crate::retire::Retired;

/// The change of the leaves of a range. Types instead of values, so each change has its own code.
pub(super) trait Edit: Copy {
    /// Whether emptied tables are unlinked.
    const EMPTIES: bool;
    /// Whether marks change, too.
    const MARKS: bool;

    /// Changes the leaf in `entry`, and adds the frame or share of a removed leaf to `retired`.
    /// Returns whether anything changed.
    fn edit<F: Format, M: TableMemory>(
        self,
        memory: &M,
        retired: &mut Retired,
        entry: &TableEntry,
        level: Level,
    ) -> bool;
}

/// Changes nothing, apart from cutting the leaves at the range's ends.
#[derive(Clone, Copy)]
pub(super) struct Cut;

impl Edit for Cut {
    const EMPTIES: bool = false;
    const MARKS: bool = true;

    fn edit<F: Format, M: TableMemory>(self, _: &M, _: &mut Retired, _: &TableEntry, _: Level) -> bool {
        false
    }
}

/// Removes leaves and marks, if no leaf shares a frame.
#[derive(Clone, Copy)]
pub(super) struct Clear;

impl Edit for Clear {
    const EMPTIES: bool = true;
    const MARKS: bool = true;

    // Always inlined: in the loop over the lowest table's leaves, `level` is a constant.
    #[inline(always)]
    fn edit<F: Format, M: TableMemory>(
        self,
        memory: &M,
        retired: &mut Retired,
        entry: &TableEntry,
        level: Level,
    ) -> bool {
        let old = entry.replace::<F>(level, RawEntry::EMPTY);
        if !F::is_present(old) {
            return !is_unmapped::<F>(old) && cleared_absent::<F, M>(memory, retired, old, level);
        }
        let Entry::Leaf(leaf) = F::decode(old, level) else {
            return false;
        };
        debug_assert_ne!(leaf.ownership, Ownership::Shared, "the range has no shared leaves");
        if leaf.ownership == Ownership::Owned {
            retired.push(memory, leaf.frame, level);
        }
        true
    }
}

/// Returns whether `raw` has no frame: a mark, or vacant.
#[inline(always)]
pub(super) fn is_unmapped<F: Format>(raw: RawEntry) -> bool {
    raw.unclaimed::<F>() == RawEntry::EMPTY || F::region_in_mark(raw).is_some()
}

/// Adds the frame of the entry `old`, which was not present, to `retired`, and returns whether
/// `old` was a leaf. Not inlined, so the loop over present entries keeps its registers.
#[cold]
#[inline(never)]
fn cleared_absent<F: Format, M: TableMemory>(
    memory: &M,
    retired: &mut Retired,
    old: RawEntry,
    level: Level,
) -> bool {
    let Entry::Leaf(leaf) = F::decode(old, level) else {
        return false;
    };
    if leaf.ownership == Ownership::Owned {
        retired.push(memory, leaf.frame, level);
    }
    true
}

/// Removes leaves and marks, even leaves with shared frames. [`Clear`] is separate, since its loop
/// is faster without shares.
#[derive(Clone, Copy)]
pub(super) struct ClearShared;

impl Edit for ClearShared {
    const EMPTIES: bool = true;
    const MARKS: bool = true;

    fn edit<F: Format, M: TableMemory>(
        self,
        memory: &M,
        retired: &mut Retired,
        entry: &TableEntry,
        level: Level,
    ) -> bool {
        replace::<F, M>(memory, retired, entry, level, RawEntry::EMPTY)
    }
}

/// Replaces the contents of `entry`, in a table of `level`, by `new`, adds the frame or share of a
/// replaced leaf to `retired`, and returns whether the old entry was a leaf.
#[inline(always)]
pub(in crate::page_table) fn replace<F: Format, M: TableMemory>(
    memory: &M,
    retired: &mut Retired,
    entry: &TableEntry,
    level: Level,
    new: RawEntry,
) -> bool {
    let old = entry.replace::<F>(level, new);
    let Entry::Leaf(leaf) = F::decode(old, level) else {
        return false;
    };
    retire_leaf(memory, retired, &leaf, level);
    true
}

/// Adds the frame or share of the removed `leaf`, of `level`, to `retired`.
#[inline(always)]
pub(in crate::page_table) fn retire_leaf<M: TableMemory>(
    memory: &M,
    retired: &mut Retired,
    leaf: &Leaf,
    level: Level,
) {
    match leaf.ownership {
        Ownership::Owned => retired.push(memory, leaf.frame, level),
        Ownership::Shared => retired.shares.push(memory, leaf.frame, level),
        Ownership::Borrowed => {}
    }
}

/// Sets the protection of leaves.
#[derive(Clone, Copy)]
pub(super) struct Protect(pub(super) Protection);

impl Edit for Protect {
    const EMPTIES: bool = false;
    const MARKS: bool = false;

    #[inline(always)]
    fn edit<F: Format, M: TableMemory>(
        self,
        _: &M,
        _: &mut Retired,
        entry: &TableEntry,
        level: Level,
    ) -> bool {
        let raw = entry.load();
        if F::is_present(raw) {
            reprotect::<F>(entry, raw, level, self.0).is_some()
        } else {
            reprotect_absent::<F>(entry, raw, level, self.0)
        }
    }
}

/// Reprotects like [`reprotect`] an entry not present. A mark has no protection of its own. Not
/// inlined, like [`cleared_absent`].
#[cold]
#[inline(never)]
fn reprotect_absent<F: Format>(
    entry: &TableEntry,
    raw: RawEntry,
    level: Level,
    protection: Protection,
) -> bool {
    matches!(F::decode(raw, level), Entry::Leaf(_)) && reprotect::<F>(entry, raw, level, protection).is_some()
}

/// Gives the leaf in `entry`, in a table of `level` and last read as `raw`, another protection.
/// Returns the old and the new contents, or `None` if the protection was the same.
#[inline(always)]
pub(in crate::page_table) fn reprotect<F: Format>(
    entry: &TableEntry,
    mut raw: RawEntry,
    level: Level,
    protection: Protection,
) -> Option<(RawEntry, RawEntry)> {
    loop {
        let new = F::reprotect(raw, level, protection);
        if new == raw {
            return None;
        }
        // The hardware may set accessed and dirty bits in between.
        match entry.compare_exchange(raw, new) {
            Ok(()) => return Some((raw, new)),
            Err(now) => raw = now,
        }
    }
}
