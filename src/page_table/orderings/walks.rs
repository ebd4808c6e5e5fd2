//! Walks that no lock stops, against tables that are unlinked and freed.

use loom::sync::Arc;
use loom::thread;

use super::*;

/// Where a walk announces itself.
#[derive(Clone, Copy)]
enum Announced {
    Here,
    /// To others than those who free tables.
    Elsewhere,
}

/// When an unlinked table is freed.
#[derive(Clone, Copy)]
enum Freed {
    AfterWalks,
    AtOnce,
}

const PAGE: u64 = 0;

/// CPU 1 looks page 0 up, twice, while CPU 0 clears what an entry of the root covers, and
/// frees the two tables that this unlinks.
fn walk_meets_free(announced: Announced, freed: Freed) {
    explore(move || {
        let arena = Arc::new(Arena::new(8));
        let table = Arc::new(Table::new(&*arena, &pin(0), RootEntries::Own).unwrap());
        let walks = Arc::new(Walks::new());
        map(&table, &arena, &pin(0), page(PAGE), foreign(100));
        let walker = {
            let (arena, table) = (arena.clone(), table.clone());
            let walks = match announced {
                Announced::Here => walks.clone(),
                Announced::Elsewhere => Arc::new(Walks::new()),
            };
            thread::spawn(move || {
                for _ in 0..2 {
                    let pin = pin(1);
                    let guard = walks.enter(&pin);
                    let found = table.walk(&*arena, &guard, PAGE);
                    assert!(
                        found.is_none_or(|(leaf, level)| (leaf.frame, level) == (foreign(100), Level::PAGE))
                    );
                }
            })
        };
        let (cleared, tables) = clear(&table, &arena, &pin(0), covered(0, Level::FOURTH));
        assert_eq!((cleared, tables.len()), (1, 2));
        let free = match freed {
            Freed::AfterWalks => walks.wait_for_others(thread::yield_now),
            Freed::AtOnce => true,
        };
        if free {
            arena.free_chain(&pin(0), tables);
        }
        walker.join().unwrap();
        assert_eq!(arena.allocated(), if free { 2 } else { 4 });
    });
}

/// CPU 0 maps a range of two tables that are yet to be, under one lock; a walk that finds a page
/// finds the next in its table.
#[test]
fn a_new_table_appears_whole() {
    explore(|| {
        let arena = Arc::new(Arena::new(8));
        let table = Arc::new(Table::new(&*arena, &pin(0), RootEntries::Own).unwrap());
        map(&table, &arena, &pin(0), page(4), foreign(104));
        let walker = {
            let (arena, table) = (arena.clone(), table.clone());
            thread::spawn(move || {
                let pin = pin(1);
                let walks = Walks::new();
                let guard = walks.enter(&pin);
                let [first, second] = [0, 1].map(|page| table.walk(&*arena, &guard, page).is_some());
                assert!(second || !first, "a table was linked before it was filled");
            })
        };
        map(&table, &arena, &pin(0), covered(0, Level::GIANT), foreign(100));
        walker.join().unwrap();
    });
}

#[test]
fn a_table_is_freed_once_no_walk_sees_it() {
    walk_meets_free(Announced::Here, Freed::AfterWalks);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn freeing_without_looking_for_walks_is_caught() {
    walk_meets_free(Announced::Here, Freed::AtOnce);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn walking_unannounced_is_caught() {
    walk_meets_free(Announced::Elsewhere, Freed::AfterWalks);
}
