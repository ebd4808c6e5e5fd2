//! What a change does to one entry: the entry is cleared, or gets another protection.

use crate::page_table::format::Format;
use crate::page_table::format::entry::{Entry, Leaf, Ownership, RawEntry};
use crate::page_table::format::level::Level;
use crate::page_table::format::protection::Protection;
use crate::page_table::tables::memory::TableMemory;
use crate::page_table::tables::table::TableEntry;
use crate::retire::Retired;

/// What is done to the leaves of a range. Types, not values: each has its own code.
pub(super) trait Edit: Copy {
    /// Are tables that it has emptied unlinked?
    const EMPTIES: bool;
    /// Are marks changed, too?
    const MARKS: bool;

    /// Changes the leaf in `entry`, adds to `retired` what it owned or shared if it is gone, and
    /// says whether there was anything to change.
    fn edit<F: Format, M: TableMemory>(
        self,
        memory: &M,
        retired: &mut Retired,
        entry: &TableEntry,
        level: Level,
    ) -> bool;
}

/// Nothing, but for cutting the leaves at the range's ends.
#[derive(Clone, Copy)]
pub(super) struct Cut;

impl Edit for Cut {
    const EMPTIES: bool = false;
    const MARKS: bool = true;

    fn edit<F: Format, M: TableMemory>(self, _: &M, _: &mut Retired, _: &TableEntry, _: Level) -> bool {
        false
    }
}

/// They go, and marks go; no leaf shares a frame.
#[derive(Clone, Copy)]
pub(super) struct Clear;

impl Edit for Clear {
    const EMPTIES: bool = true;
    const MARKS: bool = true;

    // Always: in the loop over the lowest table's leaves, `level` is a constant.
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

/// Says `raw` of no frame: is it a mark, or nothing?
#[inline(always)]
pub(super) fn is_unmapped<F: Format>(raw: RawEntry) -> bool {
    raw.unclaimed::<F>() == RawEntry::EMPTY || F::region_in_mark(raw).is_some()
}

/// Adds to `retired` what the entry `old`, which was not present, owned, and says whether it was a leaf.
/// Apart, so that the loop over entries that are present keeps its registers.
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

/// They go, and marks go; some may share frames. Apart from [`Clear`], whose loop is faster without.
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

/// Puts `new` in the place of what `entry`, in a table of `level`, says, adds to `retired` what a leaf
/// there owned or shared, and says whether there was a leaf.
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

/// Adds to `retired` what `leaf`, of `level`, which is gone, owned or shared.
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

/// They get the protection.
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

/// As [`reprotect`], for an entry that is not present: a mark has no protection of its own. Apart, as
/// [`cleared_absent`].
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

/// Gives the leaf in `entry`, in a table of `level` and `raw` when last read, another protection, and returns
/// what the entry said and what it says now; `None` if it had that protection.
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
