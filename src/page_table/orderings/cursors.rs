//! Cursors of two CPUs whose ranges share tables.

use loom::sync::Arc;
use loom::thread;

use super::*;

fn table_and_arena(frames: u64) -> (Arc<Table>, Arc<Arena>) {
    let arena = Arena::new(frames);
    let table = Table::new(&arena, &pin(0), RootEntries::Own).unwrap();
    (Arc::new(table), Arc::new(arena))
}

/// Clears everything and frees the tables: how many pages were mapped. Only the root is left.
fn finish(table: &Table, arena: &Arena) -> u64 {
    let pages = Pages { first: 0, last: ENTRIES as u64 * Level::FOURTH.pages() - 1 };
    let (cleared, tables) = clear(table, arena, &pin(0), pages);
    arena.free_chain(&pin(0), tables);
    assert_eq!(arena.allocated(), 1, "tables leaked");
    cleared
}

/// Both map a page each in one table that is yet to be: one links it, the other finds it.
#[test]
fn two_cpus_make_the_same_table() {
    explore(|| {
        let (table, arena) = table_and_arena(8);
        // Under another table of the lowest level: the ones above are there.
        map(&table, &arena, &pin(0), page(2), foreign(102));
        let other = {
            let (table, arena) = (table.clone(), arena.clone());
            thread::spawn(move || map(&table, &arena, &pin(1), page(1), foreign(101)))
        };
        map(&table, &arena, &pin(0), page(0), foreign(100));
        other.join().unwrap();
        assert_eq!(finish(&table, &arena), 3);
    });
}

/// CPU 0 clears what an entry of the root covers, and frees the tables below, while CPU 1 maps a
/// page there: into the old tables before they are unlinked, or into new ones.
#[test]
fn mapping_meets_unlinking() {
    explore(|| {
        let (table, arena) = table_and_arena(12);
        map(&table, &arena, &pin(0), page(0), foreign(100));
        let other = {
            let (table, arena) = (table.clone(), arena.clone());
            thread::spawn(move || map(&table, &arena, &pin(1), page(1), foreign(101)))
        };
        let (cleared, tables) = clear(&table, &arena, &pin(0), covered(0, Level::FOURTH));
        arena.free_chain(&pin(0), tables);
        other.join().unwrap();
        assert!(cleared == 1 || cleared == 2);
        assert_eq!(cleared + finish(&table, &arena), 2);
    });
}

/// Both clear the same page: one of them gets it.
#[test]
fn a_page_is_cleared_once() {
    explore(|| {
        let (table, arena) = table_and_arena(8);
        map(&table, &arena, &pin(0), page(0), foreign(100));
        let other = {
            let (table, arena) = (table.clone(), arena.clone());
            thread::spawn(move || {
                let (cleared, tables) = clear(&table, &arena, &pin(1), page(0));
                assert!(tables.is_empty());
                cleared
            })
        };
        let (cleared, tables) = clear(&table, &arena, &pin(0), covered(0, Level::GIANT));
        arena.free_chain(&pin(0), tables);
        assert_eq!(cleared + other.join().unwrap(), 1);
        assert_eq!(finish(&table, &arena), 0);
    });
}
