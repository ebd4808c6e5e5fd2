//! Walks that no lock stops, against tables that are unlinked and freed.

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

/// CPU 1 looks page 0 up, twice, while CPU 0 clears what an entry of the root covers, and
/// frees the two tables that this unlinks.
fn walk_meets_free(announced: Announced, freed: Freed) {
    explore(move || {
        let space = Space::bare();
        let walks = Arc::new(Walks::new());
        assert!(space.map(0, 0, 0, Level::PAGE));
        let announced = match announced {
            Announced::Here => Arc::clone(&walks),
            Announced::Elsewhere => Arc::new(Walks::new()),
        };
        let ((), free) = race(
            &space,
            move |space| {
                for _ in 0..2 {
                    let pin = pin(1);
                    let found = space.table.walk(&space.memory, &announced.enter(&pin), 0);
                    let there =
                        |(leaf, level): (Leaf, Level)| (number(leaf.frame), level) == (BASE, Level::PAGE);
                    assert!(found.is_none_or(there));
                }
            },
            |space| {
                let (cleared, tables) = space.unlink(0, 0, 7);
                assert_eq!((cleared, tables.len()), (1, 2));
                let free = match freed {
                    Freed::AfterWalks => walks.wait_for_others(&pin(0), thread::yield_now),
                    Freed::AtOnce => true,
                };
                if free {
                    space.memory.free_chain(&pin(0), tables);
                }
                free
            },
        );
        assert_eq!(space.memory.allocated(), if free { 2 } else { 4 });
    });
}

/// CPU 0 maps a range of two tables that are yet to be, under one lock; a walk that finds a page
/// finds the next in its table.
#[test]
fn a_new_table_appears_whole() {
    explore(|| {
        let space = Space::bare();
        assert!(space.map(0, 4, 4, Level::PAGE));
        let ((), mapped) = race(
            &space,
            |space| {
                let [first, second] = [0, 1].map(|page| space.find(page).is_some());
                assert!(second || !first, "a table was linked before it was filled");
            },
            |space| space.map(0, 0, 3, Level::PAGE),
        );
        assert!(mapped);
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
