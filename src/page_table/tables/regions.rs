//! The regions of pages that are mapped.
//!
//! A page that is not mapped yet has its region in its entry (see [`Entry::Mark`]). The entry of a page
//! that is mapped has no room for it, so the table keeps it, in the aux word of its frame:
//!
//! - 0: no leaf has a region;
//! - [`ONE`] and an id: all leaves have this one;
//! - else the link of a further frame, which has an id for each entry.
//!
//! The first two cost nothing. A lowest table is changed under one claim, and so is its word. The entries
//! of tables above are claimed one by one: such a table keeps ids in a further frame only, whose place is
//! set once, by compare-and-swap; entries of that frame are governed by the claims of the table's.

use core::ops::RangeInclusive;

use topomem_percpu::sync::atomic::Ordering;
use x86_64::structures::paging::PhysFrame;

use super::memory::{TableMemory, table_at};
use super::table::{Table, TableEntry};
use crate::page_table::format::Format;
use crate::page_table::format::entry::{RawEntry, RegionId};
use crate::page_table::format::level::{ENTRIES, Level};
use crate::page_table::lists::chain::{Chain, Reserve};

/// In the aux word of a lowest table: the other bits are the region of all its leaves.
const ONE: u32 = 1 << 31;

/// What a table keeps of its leaves' regions.
pub(in crate::page_table) enum Kept<'a> {
    Nothing,
    /// All leaves are of this region.
    One(RegionId),
    /// The table of ids, one for each entry; 0 where the leaf has none.
    Each(&'a Table),
}

impl<'a> Kept<'a> {
    /// Of the table in `table`, which the caller holds linked.
    #[inline(always)]
    pub(in crate::page_table) fn of<M: TableMemory>(memory: &'a M, table: PhysFrame) -> Kept<'a> {
        // Acquire pairs with the Release in `set_place`.
        let word = memory.aux(table).load(Ordering::Acquire);
        match RegionId::new(word & !ONE) {
            None => Kept::Nothing,
            Some(region) if word & ONE != 0 => Kept::One(region),
            // SAFETY: the table owns the frame, which came from `TableMemory::allocate`, and keeps it
            // until it is itself retired; the caller holds the table linked.
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

/// Have all leaves of the table in `table` the region `region`, so that the table keeps one for all?
#[inline(always)]
pub(in crate::page_table) fn is_common<M: TableMemory>(
    memory: &M,
    table: PhysFrame,
    region: RegionId,
) -> bool {
    // Relaxed: governed by the claim of the table's entry.
    memory.aux(table).load(Ordering::Relaxed) == ONE | region.get()
}

/// Returns the region of the leaf at `index` of the table in `table`, whose entry the caller holds.
#[inline]
pub(in crate::page_table) fn region_of<M: TableMemory>(
    memory: &M,
    table: PhysFrame,
    index: usize,
) -> Option<RegionId> {
    Kept::of(memory, table).at(index)
}

/// Gives the leaves that are to come in the lowest table in `table`, which has none, their region.
#[inline]
pub(in crate::page_table) fn expect<M: TableMemory>(memory: &M, table: PhysFrame, region: RegionId) {
    // Relaxed: governed by the claim of the table's entry.
    memory.aux(table).store(ONE | region.get(), Ordering::Relaxed);
}

/// Does it take a further frame to give the leaves at `indexes` of the table in `table`, of `level`, the
/// region `region`?
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

/// Has the table in `table` a frame for regions of its leaves?
pub(in crate::page_table) fn has_frame<M: TableMemory>(memory: &M, table: PhysFrame) -> bool {
    matches!(Kept::of(memory, table), Kept::Each(_))
}

/// Has the lowest table in `table` a leaf at another index than `indexes`?
#[cold]
fn has_leaves_beside<F: Format, M: TableMemory>(
    memory: &M,
    table: PhysFrame,
    indexes: RangeInclusive<usize>,
) -> bool {
    // SAFETY: the caller holds the table linked.
    let table = unsafe { table_at(memory, table) };
    let (first, last) = indexes.into_inner();
    let (before, behind) =
        (table.entries(0, ENTRIES - 1).split_at(first).0, &table.entries(last, ENTRIES - 1)[1..]);
    let is_leaf = |entry: &TableEntry| F::page(entry.load()).is_some();
    before.iter().any(is_leaf) || behind.iter().any(is_leaf)
}

/// Makes `frame` the place of an id for each leaf of the lowest table in `table`, all of which have the region
/// `common` if any has one. From then on, leaves get other regions without a further frame.
#[cold]
pub(in crate::page_table) fn keep_each<M: TableMemory>(
    memory: &M,
    reserve: &mut Reserve<'_, M>,
    table: PhysFrame,
    common: Option<RegionId>,
) {
    let Some(frame) = reserve.take() else { return };
    // SAFETY: it came from the reserve: the caller's alone.
    let ids = unsafe { table_at(memory, frame) };
    if common.is_some() {
        (0..ENTRIES).for_each(|index| ids.store(index, raw(common)));
    }
    set_place(memory, reserve, table, frame);
}

/// Gives the leaves at `indexes` of the table in `table`, of `level`, their region. Takes a frame from
/// `reserve` if [`needs_frame`] says so.
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
        // Relaxed: governed by the claim of the table's entry.
        memory.aux(table).store(word, Ordering::Relaxed);
        return;
    }
    let Some(frame) = reserve.take() else {
        debug_assert!(false, "the plan counted too few frames");
        return;
    };
    // SAFETY: it came from the reserve: the caller's alone.
    let ids = unsafe { table_at(memory, frame) };
    if let Kept::One(kept) = kept {
        (0..ENTRIES).for_each(|index| ids.store(index, raw(Some(kept))));
    }
    let ids = set_place(memory, reserve, table, frame);
    // SAFETY: the table owns the frame from now on; see `Kept::of`.
    set_each(unsafe { table_at(memory, ids) }, indexes, region);
}

/// Makes `frame` the place of the ids of the table in `table`, unless another CPU has been faster: then
/// `frame` goes back. Returns the frame that is the place.
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
        // Release pairs with the Acquire in `Kept::of`: who sees the place sees the ids. Acquire as there.
        match word.compare_exchange(seen, memory.link(frame), Ordering::Release, Ordering::Acquire) {
            Ok(_) => return frame,
            Err(now) => seen = now,
        }
    }
}

/// Gives the table in `to`, which nobody else uses, the regions of the one in `from`: takes a frame from
/// `reserve` if [`has_frame`].
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
            // SAFETY: it came from the reserve: the caller's alone.
            let copy = unsafe { table_at(memory, frame) };
            (0..ENTRIES).for_each(|index| copy.store(index, ids.load(index)));
            set_place(memory, reserve, to, frame);
        }
    }
}

/// Puts the table in `table`, which was unlinked, on the chain `unlinked`, and the frame of its ids.
#[inline]
pub(in crate::page_table) fn retire_table<M: TableMemory>(
    memory: &M,
    table: PhysFrame,
    unlinked: &mut Chain,
) {
    let word = memory.aux(table);
    // Relaxed: nobody changes a table that was unlinked.
    let kept = word.load(Ordering::Relaxed);
    if kept != 0 {
        // A chain wants it zero.
        word.store(0, Ordering::Relaxed);
        if kept & ONE == 0 {
            unlinked.push(memory, memory.frame_of(kept));
        }
    }
    unlinked.push(memory, table);
}
