//! Large leaves in the place of small ones.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::marks::{ACCESSED, DIRTY, mark, marks};
use super::*;

const HUGE: u64 = 512;
const GIANT: u64 = 512 * 512;

fn fresh() -> (Arena, Table) {
    let arena = Arena::new(64);
    let table = Table::new(&arena, &pin(0), RootEntries::Own).unwrap();
    (arena, table)
}

#[test]
fn pages_become_one_leaf_and_their_table_retires() {
    let (arena, table) = fresh();
    let pin = pin(0);
    let range = pages(HUGE, HUGE);
    map(&table, &arena, &pin, range, foreign(8 * HUGE), Level::PAGE).unwrap();
    let changed = promote(&table, &arena, &pin, range, Level::HUGE).unwrap();
    assert_eq!((changed.stale, changed.smallest, changed.pages), (Some(range), Level::PAGE, HUGE));
    assert_eq!(changed.retired.tables.len(), 1);
    arena.free_changed(&pin, changed);
    for page in [HUGE, HUGE + 7, 2 * HUGE - 1] {
        let expected = (foreign(7 * HUGE + page), Level::HUGE, Protection::USER_DATA);
        assert_eq!(find(&table, &arena, page), Some(expected));
    }
    let again = promote(&table, &arena, &pin, range, Level::HUGE).unwrap();
    assert_eq!((again.stale, again.pages), (None, 0), "it was large already");
    finish(&table, &arena);
}

#[test]
fn a_leaf_says_ahead_what_cpus_may_still_note() {
    let (arena, table) = fresh();
    let pin = pin(0);
    let range = pages(0, 3 * HUGE);
    map(&table, &arena, &pin, range, foreign(8 * HUGE), Level::PAGE).unwrap();
    let read_only = pages(0, 2 * HUGE);
    reprotect(&table, &arena, &pin, read_only, Protection::USER_READ_ONLY).unwrap();
    mark(&table, &arena, HUGE + 511, Level::PAGE, DIRTY);
    let changed = promote(&table, &arena, &pin, range, Level::HUGE).unwrap();
    arena.free_changed(&pin, changed);
    let marks = |page| marks(&table, &arena, page, Level::HUGE);
    assert_eq!(marks(0), ACCESSED, "nobody can write it");
    assert_eq!(marks(HUGE), ACCESSED | DIRTY, "one page was dirty");
    assert_eq!(marks(2 * HUGE), ACCESSED | DIRTY, "somebody may be writing");
    finish(&table, &arena);
}

#[test]
fn a_gibibyte_of_leaves_and_pages_becomes_one_leaf() {
    let (arena, table) = fresh();
    let pin = pin(0);
    let range = pages(GIANT, GIANT);
    map(&table, &arena, &pin, range, foreign(4 * GIANT), Level::HUGE).unwrap();
    for protection in [Protection::USER_READ_ONLY, Protection::USER_DATA] {
        let part = pages(GIANT + 5 * HUGE + 3, 1);
        reprotect(&table, &arena, &pin, part, protection).unwrap();
    }
    assert_eq!(find(&table, &arena, GIANT + 5 * HUGE).unwrap().1, Level::PAGE);
    let changed = promote(&table, &arena, &pin, range, Level::GIANT).unwrap();
    assert_eq!((changed.stale, changed.retired.tables.len()), (Some(range), 2));
    arena.free_changed(&pin, changed);
    let found = find(&table, &arena, GIANT + 5 * HUGE + 3);
    assert_eq!(found, Some((foreign(4 * GIANT + 5 * HUGE + 3), Level::GIANT, Protection::USER_DATA)));
    // Smaller pages are there, in it.
    let changed = promote(&table, &arena, &pin, pages(GIANT + HUGE, HUGE), Level::HUGE).unwrap();
    assert_eq!(changed.stale, None);
    finish(&table, &arena);
}

#[test]
fn what_is_no_large_page_is_refused_and_stays() {
    let (arena, table) = fresh();
    let pin = pin(0);
    let range = pages(HUGE, HUGE);
    let refused = |table| promote(table, &arena, &pin, pages(HUGE, HUGE), Level::HUGE).err();
    assert_eq!(refused(&table), Some(Unfit::Vacant { page: HUGE }));
    map(&table, &arena, &pin, pages(HUGE, HUGE - 1), foreign(8 * HUGE), Level::PAGE).unwrap();
    assert_eq!(refused(&table), Some(Unfit::Vacant { page: 2 * HUGE - 1 }));
    map(&table, &arena, &pin, pages(2 * HUGE - 1, 1), foreign(1), Level::PAGE).unwrap();
    assert_eq!(refused(&table), Some(Unfit::Scattered { page: 2 * HUGE - 1, frame: foreign(1) }));
    let _ = clear(&table, &arena, &pin, pages(2 * HUGE - 1, 1)).unwrap();
    map(&table, &arena, &pin, pages(2 * HUGE - 1, 1), foreign(9 * HUGE - 1), Level::PAGE).unwrap();
    let set = |range, protection| reprotect(&table, &arena, &pin, range, protection).unwrap();
    let _ = set(pages(HUGE + 9, 1), Protection::USER_READ_ONLY);
    assert_eq!(refused(&table), Some(Unfit::Differs { page: HUGE + 9 }));
    let _ = set(range, Protection::USER_CODE);
    assert_eq!(refused(&table), Some(Unfit::OneSize { page: HUGE }));
    let _ = set(range, Protection::USER_DATA);
    let _ = clear(&table, &arena, &pin, range).unwrap();
    map(&table, &arena, &pin, range, foreign(8 * HUGE + 1), Level::PAGE).unwrap();
    assert_eq!(refused(&table), Some(Unfit::Misaligned { page: HUGE, frame: foreign(8 * HUGE + 1) }));
    assert_eq!(find(&table, &arena, HUGE).unwrap().1, Level::PAGE);
    // One large page that cannot be refuses the others.
    map(&table, &arena, &pin, pages(0, HUGE), foreign(0), Level::PAGE).unwrap();
    assert!(promote(&table, &arena, &pin, pages(0, 2 * HUGE), Level::HUGE).is_err());
    assert_eq!(find(&table, &arena, 0).unwrap().1, Level::PAGE);
    finish(&table, &arena);
}

#[test]
#[cfg_attr(miri, ignore = "the arena's list of frames takes minutes; the others cover the unsafe code")]
fn frames_that_were_allocated_one_by_one_are_freed_so() {
    let arena = Arena::new(3 * 512);
    let table = Table::new(&arena, &pin(0), RootEntries::Own).unwrap();
    let pin = pin(0);
    let range = pages(HUGE, HUGE);
    // As a large page; split, and page by page; split and promoted again.
    for round in 0..3 {
        assert!(arena.allocate_at(512, 512));
        own_run(&table, &arena, &pin, range, foreign(512));
        let changed = promote(&table, &arena, &pin, range, Level::HUGE).unwrap();
        arena.free_changed(&pin, changed);
        if round > 0 {
            for protection in [Protection::USER_READ_ONLY, Protection::USER_DATA] {
                let part = pages(HUGE + 3, 1);
                reprotect(&table, &arena, &pin, part, protection).unwrap();
            }
        }
        if round == 1 {
            for page in [HUGE, HUGE + 200] {
                let changed = clear(&table, &arena, &pin, pages(page, 1)).unwrap();
                arena.free_changed(&pin, changed);
            }
        } else if round == 2 {
            let changed = promote(&table, &arena, &pin, range, Level::HUGE).unwrap();
            arena.free_changed(&pin, changed);
        }
        let changed = clear(&table, &arena, &pin, range).unwrap();
        arena.free_changed(&pin, changed);
    }
    finish(&table, &arena);
}

/// A change of a large page would tell TLBs of one page, before they have dropped the small ones.
#[test]
fn nobody_changes_a_large_page_before_it_is_announced() {
    let (arena, table) = fresh();
    let range = pages(HUGE, HUGE);
    let pin = pin(0);
    map(&table, &arena, &pin, range, foreign(8 * HUGE), Level::PAGE).unwrap();
    let announced = AtomicBool::new(false);
    thread::scope(|scope| {
        let (arena, table, announced) = (&arena, &table, &announced);
        let mut reserve = Reserve::new(arena, &pin);
        let promoted = table.promote(arena.by(&pin), &mut reserve, range, Level::HUGE, |changed| {
            let other = scope.spawn(move || {
                let changed = clear(table, arena, &super::pin(1), range).unwrap();
                assert!(announced.load(Ordering::SeqCst), "unmapped too early");
                assert_eq!(changed.smallest, Level::HUGE);
            });
            while table.locks().contended() == 0 && !other.is_finished() {
                thread::yield_now();
            }
            announced.store(true, Ordering::SeqCst);
            changed
        });
        arena.free_changed(&pin, promoted.unwrap());
    });
    finish(&table, &arena);
}
