//! Accessed and dirty bits, which the hardware sets at any time, outlive every change of an entry.

use std::cell::Cell;

use super::super::tables::memory::table_at;
use super::super::tables::table::{Table as TablePage, TableEntry};
use super::*;

const HUGE: u64 = 512;
const GIANT: u64 = 512 * 512;

/// On x86-64.
pub(super) const ACCESSED: u64 = 1 << 5;
pub(super) const DIRTY: u64 = 1 << 6;
const SAVED_DIRTY: u64 = 1 << 58;

/// The table of `level` on the way to `page`.
fn table_on_the_way(root: PhysFrame, arena: &Arena, page: u64, level: Level) -> &TablePage {
    let (mut frame, mut at) = (root, Level::FOURTH);
    loop {
        // SAFETY: the test has linked it.
        let here = unsafe { table_at(arena, frame) };
        if at == level {
            return here;
        }
        let Entry::Table(next) = X64::<4>::decode(here.load(at.index(page)), at) else {
            panic!("no table");
        };
        (frame, at) = (next, at.below().unwrap());
    }
}

/// The entry of `level` that serves `page`.
fn entry(root: PhysFrame, arena: &Arena, page: u64, level: Level) -> &TableEntry {
    table_on_the_way(root, arena, page, level).entry(level.index(page))
}

/// What the hardware does when `page` is used: a locked read-modify-write.
fn set(entry: &TableEntry, marks: u64) {
    let raw = entry.load();
    assert_ne!(raw, RawEntry::EMPTY, "the hardware marks nothing that is not present");
    entry.compare_exchange(raw, RawEntry(raw.0 | marks)).unwrap();
}

/// Marks the leaf of `level` that maps `page`.
pub(super) fn mark(table: &Table, arena: &Arena, page: u64, level: Level, marks: u64) {
    set(entry(table.root(), arena, page, level), marks);
}

/// What the leaf of `level` that maps `page` is marked.
pub(super) fn marks(table: &Table, arena: &Arena, page: u64, level: Level) -> u64 {
    noted(entry(table.root(), arena, page, level).load())
}

/// The marks in an entry. A leaf that may not be written keeps that it is dirty in another bit.
fn noted(raw: RawEntry) -> u64 {
    let saved = if raw.0 & SAVED_DIRTY == 0 { 0 } else { DIRTY };
    raw.0 & (ACCESSED | DIRTY) | saved
}

fn fresh() -> (Arena, Table) {
    let arena = Arena::new(64);
    let table = Table::new(&arena, &pin(0), RootEntries::Own).unwrap();
    (arena, table)
}

#[test]
fn a_new_protection_keeps_the_marks() {
    let (arena, table) = fresh();
    let pin = pin(0);
    map(&table, &arena, &pin, pages(0, 2 * HUGE), foreign(8 * HUGE), Level::HUGE).unwrap();
    map(&table, &arena, &pin, pages(2 * HUGE, 2), foreign(7), Level::PAGE).unwrap();
    for (page, level, given) in
        [(0, Level::HUGE, ACCESSED | DIRTY), (HUGE, Level::HUGE, ACCESSED), (2 * HUGE, Level::PAGE, DIRTY)]
    {
        mark(&table, &arena, page, level, given);
        for protection in [Protection::USER_READ_ONLY, Protection::USER_CODE, Protection::USER_DATA] {
            let changed = reprotect(&table, &arena, &pin, pages(page, level.pages()), protection).unwrap();
            assert_eq!(changed.pages, level.pages());
            assert_eq!(marks(&table, &arena, page, level), given, "{page} as {protection:?}");
        }
    }
    assert_eq!(marks(&table, &arena, 2 * HUGE + 1, Level::PAGE), 0, "nobody has used it");
    finish(&table, &arena);
}

#[test]
fn the_parts_of_a_split_leaf_keep_its_marks() {
    for given in [0, ACCESSED, ACCESSED | DIRTY] {
        let (arena, table) = fresh();
        let pin = pin(0);
        map(&table, &arena, &pin, pages(GIANT, GIANT), foreign(4 * GIANT), Level::GIANT).unwrap();
        mark(&table, &arena, GIANT, Level::GIANT, given);
        let changed = clear(&table, &arena, &pin, pages(GIANT + 3, 1)).unwrap();
        assert_eq!((changed.pages, changed.smallest), (1, Level::PAGE));
        for page in [GIANT, GIANT + 2, GIANT + 4, GIANT + 511] {
            assert_eq!(marks(&table, &arena, page, Level::PAGE), given, "page {page:#x}");
        }
        for page in [GIANT + HUGE, 2 * GIANT - 1] {
            assert_eq!(marks(&table, &arena, page, Level::HUGE), given, "page {page:#x}");
        }
        finish(&table, &arena);
    }
}

#[test]
#[cfg_attr(miri, ignore = "moves are looked for page by page: minutes; record.rs moves pages under Miri")]
fn moved_leaves_take_their_marks_along() {
    let (arena, table) = fresh();
    let pin = pin(0);
    map(&table, &arena, &pin, pages(0, HUGE + 2), foreign(8 * HUGE), Level::HUGE).unwrap();
    mark(&table, &arena, 0, Level::HUGE, ACCESSED | DIRTY);
    mark(&table, &arena, HUGE, Level::PAGE, ACCESSED);
    let mut reserve = Reserve::new(&arena, &pin);
    let (from, to) = (pages(0, HUGE + 2), pages(8 * HUGE, HUGE + 2));
    let moved = table
        .relocate(arena.by(&pin), &mut reserve, from, to, MovedRegions::default(), |changed| changed)
        .unwrap();
    arena.free_changed(&pin, moved);
    assert_eq!(marks(&table, &arena, 8 * HUGE, Level::HUGE), ACCESSED | DIRTY);
    assert_eq!(marks(&table, &arena, 9 * HUGE, Level::PAGE), ACCESSED);
    assert_eq!(marks(&table, &arena, 9 * HUGE + 1, Level::PAGE), 0);
    // The second half of the large leaf.
    let (from, to) = (pages(8 * HUGE + 256, 256), pages(20 * HUGE + 256, 256));
    let moved = table
        .relocate(arena.by(&pin), &mut reserve, from, to, MovedRegions::default(), |changed| changed)
        .unwrap();
    arena.free_changed(&pin, moved);
    for page in [20 * HUGE + 256, 20 * HUGE + 511, 8 * HUGE, 8 * HUGE + 255] {
        assert_eq!(marks(&table, &arena, page, Level::PAGE), ACCESSED | DIRTY, "page {page:#x}");
    }
    drop(reserve);
    finish(&table, &arena);
}

std::thread_local! {
    /// The entry that the hardware marks dirty while software is about to change it.
    static ABOUT_TO_CHANGE: Cell<Option<*const TableEntry>> = const { Cell::new(None) };
}

/// x86-64, whose hardware writes to a page just when the page's leaf has been read for a change.
struct Written;

fn write_once() {
    if let Some(entry) = ABOUT_TO_CHANGE.take() {
        // SAFETY: the test that noted the entry keeps its table until the change is done.
        set(unsafe { &*entry }, ACCESSED | DIRTY);
    }
}

// SAFETY: as X64; the marks that come in between are what hardware may set.
unsafe impl Format for Written {
    const ROOT: Level = X64::<4>::ROOT;
    const LARGEST_LEAF: Level = X64::<4>::LARGEST_LEAF;
    const CLAIM: u64 = X64::<4>::CLAIM;
    const FRAME: u64 = X64::<4>::FRAME;

    fn table(frame: PhysFrame) -> RawEntry {
        X64::<4>::table(frame)
    }

    fn leaf(leaf: &Leaf, level: Level) -> RawEntry {
        X64::<4>::leaf(leaf, level)
    }

    fn mark(region: RegionId) -> RawEntry {
        X64::<4>::mark(region)
    }

    fn region_in_mark(raw: RawEntry) -> Option<RegionId> {
        X64::<4>::region_in_mark(raw)
    }

    fn is_present(raw: RawEntry) -> bool {
        X64::<4>::is_present(raw)
    }

    fn decode(raw: RawEntry, level: Level) -> Entry {
        X64::<4>::decode(raw, level)
    }

    fn page(raw: RawEntry) -> Option<Leaf> {
        X64::<4>::page(raw)
    }

    fn reprotect(raw: RawEntry, level: Level, protection: Protection) -> RawEntry {
        write_once();
        X64::<4>::reprotect(raw, level, protection)
    }

    fn narrows(old: RawEntry, new: RawEntry) -> bool {
        X64::<4>::narrows(old, new)
    }

    fn with_ownership(raw: RawEntry, ownership: Ownership) -> RawEntry {
        write_once();
        X64::<4>::with_ownership(raw, ownership)
    }

    fn shared(raw: RawEntry) -> RawEntry {
        write_once();
        X64::<4>::shared(raw)
    }

    fn is_shared(raw: RawEntry) -> bool {
        X64::<4>::is_shared(raw)
    }

    fn unnoted(raw: RawEntry) -> RawEntry {
        X64::<4>::unnoted(raw)
    }

    fn split(raw: RawEntry, level: Level, index: usize) -> RawEntry {
        if index == ENTRIES - 1 {
            write_once();
        }
        X64::<4>::split(raw, level, index)
    }

    fn merge_marks(raw: RawEntry, other: RawEntry) -> RawEntry {
        X64::<4>::merge_marks(raw, other)
    }

    fn mark_ahead(raw: RawEntry) -> RawEntry {
        X64::<4>::mark_ahead(raw)
    }

    fn sizes(leaf: &Leaf) -> Sizes {
        X64::<4>::sizes(leaf)
    }
}

/// Maps `range` and changes the protection of `part`, of which `written` is written to meanwhile.
fn written_while_changed(range: Pages, largest: Level, part: Pages, written: u64) -> u64 {
    let arena = Arena::new(64);
    let pin = pin(0);
    let table = PageTable::<Written>::new(&arena, &pin, RootEntries::Own).unwrap();
    let mut reserve = Reserve::new(&arena, &pin);
    let mut backing =
        Contiguous { first_page: range.first, frame: foreign(8 * GIANT), largest, attributes: BORROWED };
    table.fill(arena.by(&pin), &mut reserve, range, &mut backing, |_| ()).unwrap();
    let leaf = entry(table.root(), &arena, written, largest);
    ABOUT_TO_CHANGE.set(Some(core::ptr::from_ref(leaf)));
    let mut changed = Changed::NOTHING;
    table
        .reprotect(arena.by(&pin), &mut reserve, part, Protection::USER_READ_ONLY, &mut changed, |_| ())
        .unwrap();
    assert!(ABOUT_TO_CHANGE.take().is_none(), "nothing was written");
    assert_eq!(changed.pages, part.count());
    let level = if part.fill_entries(largest) { largest } else { Level::PAGE };
    noted(entry(table.root(), &arena, written, level).load())
}

#[test]
fn a_write_just_before_a_frame_is_shared_is_noted() {
    let arena = Arena::new(64);
    let pin = pin(0);
    let table = PageTable::<Written>::new(&arena, &pin, RootEntries::Own).unwrap();
    let mut reserve = Reserve::new(&arena, &pin);
    let frame = arena.allocate(&pin).unwrap();
    let mut backing = Contiguous { first_page: 7, frame, largest: Level::PAGE, attributes: OWNED };
    table.fill(arena.by(&pin), &mut reserve, pages(7, 1), &mut backing, |_| ()).unwrap();
    let leaf = entry(table.root(), &arena, 7, Level::PAGE);
    ABOUT_TO_CHANGE.set(Some(core::ptr::from_ref(leaf)));
    let mut list = Gather::EMPTY;
    table.share(arena.by(&pin), &mut reserve, pages(7, 1), Level::PAGE, &mut list).unwrap();
    assert!(ABOUT_TO_CHANGE.take().is_none(), "nothing was written");
    assert_eq!(noted(entry(table.root(), &arena, 7, Level::PAGE).load()), ACCESSED | DIRTY);
}

#[test]
fn a_write_just_before_a_new_protection_is_noted() {
    for level in [Level::PAGE, Level::HUGE] {
        let range = pages(HUGE, level.pages());
        assert_eq!(written_while_changed(range, level, range, HUGE), ACCESSED | DIRTY, "{level:?}");
    }
}

#[test]
fn a_write_just_before_a_split_is_noted() {
    for (level, written) in [(Level::HUGE, 7), (Level::HUGE, HUGE - 1), (Level::GIANT, 1)] {
        let range = pages(GIANT, level.pages());
        let part = pages(GIANT + 3, 1);
        let marks = written_while_changed(range, level, part, GIANT + written);
        assert_eq!(marks, ACCESSED | DIRTY, "page {written} of {level:?}");
    }
}
