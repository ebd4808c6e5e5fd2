//! The regions of mapped pages.
//!
//! The entry of an unmapped page contains its region (see [`Entry::Mark`]). The entry of a mapped
//! page has no room for the region; the table keeps it, in the aux word of its frame:
//!
//! - 0: no leaf has a region;
//! - [`ONE`] and an id: all leaves have this region;
//! - otherwise the link of a further frame, with an id for each entry.
//!
//! The first two cost nothing. A lowest table is changed under a single claim, and so is its word.
//! The entries of higher tables are claimed one by one: a higher table keeps ids only in a further
//! frame. The frame is set once, by compare-and-swap, and its entries are governed by the claims of
//! the table's entries.

use core::ops::RangeInclusive;

use topomem_percpu::PhysFrame;
use topomem_percpu::sync::atomic::Ordering;

use super::memory::{TableMemory, table_at};
use super::table::{Table, TableEntry};
use crate::page_table::format::Format;
use crate::page_table::format::entry::{RawEntry, RegionId};
use crate::page_table::format::level::{ENTRIES, Level};
use crate::page_table::lists::chain::{Chain, Reserve};

/// In the aux word of a lowest table: the remaining bits are the region of all its leaves.
const ONE: u32 = 1 << 31;

/// The regions kept by a table for its leaves.
pub(in crate::page_table) enum Kept<'a> {
    Nothing,
    /// All leaves belong to this region.
    One(RegionId),
    /// The table of ids, one for each entry; 0 without a region.
    Each(&'a Table),
}

impl<'a> Kept<'a> {
    /// Returns the regions of the table in `table`, kept linked by the caller.
    #[inline(always)]
    pub(in crate::page_table) fn of<M: TableMemory>(memory: &'a M, table: PhysFrame) -> Kept<'a> {
        // Acquire pairs with the Release in `set_place`.
        let word = memory.aux(table).load(Ordering::Acquire);
        match RegionId::new(word & !ONE) {
            None => Kept::Nothing,
            Some(region) if word & ONE != 0 => Kept::One(region),
            // SAFETY: the table owns the frame, which came from `TableMemory::allocate`, until the
            // table is retired; the caller keeps the table linked.
            Some(_) => Kept::Each(unsafe { table_at(memory, memory.frame_of(word)) }),
        }
    }

    /// Returns the region of the leaf at `index`.
    #[inline(always)]
    pub(in crate::page_table) fn at(&self, index: usize) -> Option<RegionId> {
        match self {
            Kept::Nothing => None,
            Kept::One(region) => Some(*region),
            Kept::Each(ids) => RegionId::new(ids.load(index).0 as u32),
        }
    }
}

/// Returns whether the table in `table` keeps `region` as the common region of all leaves.
#[inline(always)]
pub(in crate::page_table) fn is_common<M: TableMemory>(
    memory: &M,
    table: PhysFrame,
    region: RegionId,
) -> bool {
    // Relaxed: the claim of the table's entry orders the accesses.
    memory.aux(table).load(Ordering::Relaxed) == ONE | region.get()
}

/// Returns the region of the leaf at `index` of the table in `table`. The caller has claimed the
/// entry.
#[inline]
pub(in crate::page_table) fn region_of<M: TableMemory>(
    memory: &M,
    table: PhysFrame,
    index: usize,
) -> Option<RegionId> {
    Kept::of(memory, table).at(index)
}

/// Sets the region of the coming leaves of the lowest table in `table`, which has no leaves.
#[inline]
pub(in crate::page_table) fn expect<M: TableMemory>(memory: &M, table: PhysFrame, region: RegionId) {
    // Relaxed: the claim of the table's entry orders the accesses.
    memory.aux(table).store(ONE | region.get(), Ordering::Relaxed);
}

/// Returns whether a further frame is needed to give the leaves at `indexes` of the table in
/// `table`, of `level`, the region `region`.
#[inline]
pub(in crate::page_table) fn needs_frame<F: Format, M: TableMemory>(
    memory: &M,
    table: PhysFrame,
    level: Level,
    indexes: RangeInclusive<usize>,
    region: Option<RegionId>,
) -> bool {
    match (Kept::of(memory, table), region) {
        (Kept::Each(_), _) | (Kept::Nothing, None) => false,
        (Kept::One(kept), Some(region)) if kept == region => false,
        _ => level > Level::PAGE || has_leaves_beside::<F, M>(memory, table, indexes),
    }
}

/// Returns whether the table in `table` has a frame for regions of its leaves.
pub(in crate::page_table) fn has_frame<M: TableMemory>(memory: &M, table: PhysFrame) -> bool {
    matches!(Kept::of(memory, table), Kept::Each(_))
}

/// Returns whether the lowest table in `table` has a leaf outside `indexes`.
#[cold]
fn has_leaves_beside<F: Format, M: TableMemory>(
    memory: &M,
    table: PhysFrame,
    indexes: RangeInclusive<usize>,
) -> bool {
    // SAFETY: the caller keeps the table linked.
    let table = unsafe { table_at(memory, table) };
    let (first, last) = indexes.into_inner();
    let (before, behind) =
        (table.entries(0, ENTRIES - 1).split_at(first).0, &table.entries(last, ENTRIES - 1)[1..]);
    let is_leaf = |entry: &TableEntry| F::page(entry.load()).is_some();
    before.iter().any(is_leaf) || behind.iter().any(is_leaf)
}

/// Makes `frame` the place of an id for each leaf of the lowest table in `table`. All leaves have
/// the region `common`, if any. Leaves afterwards get other regions without a further frame.
#[cold]
pub(in crate::page_table) fn keep_each<M: TableMemory>(
    memory: &M,
    reserve: &mut Reserve<'_, M>,
    table: PhysFrame,
    common: Option<RegionId>,
) {
    let Some(frame) = reserve.take() else { return };
    // SAFETY: the frame came from the reserve, and is owned by the caller.
    let ids = unsafe { table_at(memory, frame) };
    if common.is_some() {
        (0..ENTRIES).for_each(|index| ids.store(index, raw(common)));
    }
    set_place(memory, reserve, table, frame);
}

/// Gives the leaves at `indexes` of the table in `table`, of `level`, their region. Takes a frame
/// from `reserve` if [`needs_frame`] returns true.
#[inline]
pub(in crate::page_table) fn set<F: Format, M: TableMemory>(
    memory: &M,
    reserve: &mut Reserve<'_, M>,
    table: PhysFrame,
    level: Level,
    indexes: RangeInclusive<usize>,
    region: Option<RegionId>,
) {
    match (Kept::of(memory, table), region) {
        (Kept::One(kept), Some(region)) if kept == region => {}
        (Kept::Nothing, None) => {}
        (Kept::Each(ids), _) => set_each(ids, indexes, region),
        (kept, _) => set_otherwise::<F, M>(memory, reserve, table, level, indexes, region, kept),
    }
}

fn raw(region: Option<RegionId>) -> RawEntry {
    RawEntry(region.map_or(0, |region| region.get().into()))
}

/// Gives the leaves at `indexes` of a table with the ids `ids` their region.
#[inline(always)]
pub(in crate::page_table) fn set_each(ids: &Table, indexes: RangeInclusive<usize>, region: Option<RegionId>) {
    let entries = ids.entries(*indexes.start(), *indexes.end());
    entries.iter().for_each(|entry| entry.store(raw(region)));
}

#[cold]
fn set_otherwise<F: Format, M: TableMemory>(
    memory: &M,
    reserve: &mut Reserve<'_, M>,
    table: PhysFrame,
    level: Level,
    indexes: RangeInclusive<usize>,
    region: Option<RegionId>,
    kept: Kept<'_>,
) {
    if level == Level::PAGE && !has_leaves_beside::<F, M>(memory, table, indexes.clone()) {
        let word = region.map_or(0, |region| ONE | region.get());
        // Relaxed: the claim of the table's entry orders the accesses.
        memory.aux(table).store(word, Ordering::Relaxed);
        return;
    }
    let Some(frame) = reserve.take() else {
        debug_assert!(false, "the plan counted too few frames");
        return;
    };
    // SAFETY: the frame came from the reserve, and is owned by the caller.
    let ids = unsafe { table_at(memory, frame) };
    if let Kept::One(kept) = kept {
        (0..ENTRIES).for_each(|index| ids.store(index, raw(Some(kept))));
    }
    let ids = set_place(memory, reserve, table, frame);
    // SAFETY: the table owns the frame from now on; see `Kept::of`.
    set_each(unsafe { table_at(memory, ids) }, indexes, region);
}

/// Makes `frame` the place of the ids of the table in `table`, or returns `frame` to the reserve if
/// another CPU has set a place first. Returns the place.
fn set_place<M: TableMemory>(
    memory: &M,
    reserve: &mut Reserve<'_, M>,
    table: PhysFrame,
    frame: PhysFrame,
) -> PhysFrame {
    let word = memory.aux(table);
    let mut seen = word.load(Ordering::Relaxed);
    loop {
        if seen != 0 && seen & ONE == 0 {
            reserve.put_back(frame);
            return memory.frame_of(seen);
        }
        // Release pairs with the Acquire in `Kept::of`: a reader of the place sees the ids. Acquire
        // as there.
        match word.compare_exchange(seen, memory.link(frame), Ordering::Release, Ordering::Acquire) {
            Ok(_) => return frame,
            Err(now) => seen = now,
        }
    }
}

/// Gives the table in `to`, not used by any other context, the regions of the table in `from`.
/// Takes a frame from `reserve` if [`has_frame`] returns true.
pub(in crate::page_table) fn copy<M: TableMemory>(
    memory: &M,
    reserve: &mut Reserve<'_, M>,
    from: PhysFrame,
    to: PhysFrame,
) {
    match Kept::of(memory, from) {
        Kept::Nothing => {}
        Kept::One(region) => expect(memory, to, region),
        Kept::Each(ids) => {
            let Some(frame) = reserve.take() else {
                debug_assert!(false, "the plan counted too few frames");
                return;
            };
            // SAFETY: the frame came from the reserve, and is owned by the caller.
            let copy = unsafe { table_at(memory, frame) };
            (0..ENTRIES).for_each(|index| copy.store(index, ids.load(index)));
            set_place(memory, reserve, to, frame);
        }
    }
}

/// Puts the unlinked table in `table`, and the frame of its ids, on the chain `unlinked`.
#[inline]
pub(in crate::page_table) fn retire_table<M: TableMemory>(
    memory: &M,
    table: PhysFrame,
    unlinked: &mut Chain,
) {
    let word = memory.aux(table);
    // Relaxed: no context changes an unlinked table.
    let kept = word.load(Ordering::Relaxed);
    if kept != 0 {
        // A chain expects zero.
        word.store(0, Ordering::Relaxed);
        if kept & ONE == 0 {
            unlinked.push(memory, memory.frame_of(kept));
        }
    }
    unlinked.push(memory, table);
}
