//! The hardware writes to a page, and marks its leaf, while software changes the leaf.

use super::*;

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
/// Where a leaf that may not be written keeps that it is dirty.
const SAVED_DIRTY: u64 = 1 << 58;

/// What a CPU does that writes to `page` and has nothing cached below the directory: it finds the leaf,
/// and marks it in one step if it still says what was found. False if it faults.
fn write(space: &Space, page: u64) -> bool {
    let (mut table, mut level) = (space.directory(), Level::HUGE);
    loop {
        let index = level.index(page);
        let mut raw = table.load(index);
        loop {
            match (X64::<4>::decode(raw, level), level.below()) {
                (Entry::Empty, _) => return false,
                (Entry::Table(next), Some(below)) => {
                    (table, level) = (space.memory.table(next), below);
                    break;
                }
                _ => {}
            }
            if raw.0 & WRITABLE == 0 {
                return false;
            }
            match table.compare_exchange(index, raw, RawEntry(raw.0 | ACCESSED | DIRTY)) {
                Ok(()) => return true,
                Err(now) => raw = now,
            }
        }
    }
}

/// The leaf that maps `page`.
fn leaf(space: &Space, page: u64) -> RawEntry {
    let directory = space.directory().load(Level::HUGE.index(page));
    match X64::<4>::decode(directory, Level::HUGE) {
        Entry::Table(lowest) => space.memory.table(lowest).load(Level::PAGE.index(page)),
        _ => directory,
    }
}

/// CPU 1 writes to `page` while CPU 0 makes `change`; then the page is `now` at that place, dirty if CPU 1
/// has written to it.
fn written_while(page: u64, now: u64, largest: Level, change: fn(&Space)) {
    explore(move || {
        let space = Space::new();
        assert!(space.map(0, 0, 1, largest));
        let (written, ()) = race(&space, move |space| write(space, page), change);
        let raw = leaf(&space, now);
        assert_ne!(raw.0 & PRESENT, 0);
        assert_eq!(raw.0 & (DIRTY | SAVED_DIRTY) != 0, written, "a mark was lost, or came late");
        space.finish();
    });
}

fn protect(space: &Space, first: u64, last: u64) {
    let (pin, mut changed) = (pin(0), Changed::NOTHING);
    let mut reserve = Reserve::new(&space.memory, &pin);
    let (pages, protection) = (Pages { first, last }, Protection::USER_READ_ONLY);
    space
        .table
        .reprotect(space.memory.by(&pin), &mut reserve, pages, protection, &mut changed, |_| ())
        .unwrap();
    assert_eq!(changed.pages, pages.count());
}

#[test]
fn a_page_written_while_it_is_protected_is_dirty() {
    written_while(1, 1, Level::PAGE, |space| {
        protect(space, 1, 1);
        assert_eq!(leaf(space, 1).0 & WRITABLE, 0);
    });
}

#[test]
fn a_large_page_written_while_it_is_protected_is_dirty() {
    written_while(1, 1, Level::HUGE, |space| protect(space, 0, 1));
}

#[test]
fn a_page_written_while_its_leaf_is_split_is_dirty() {
    written_while(1, 1, Level::HUGE, |space| {
        assert_eq!(space.clear(0, 0, 0), 1);
    });
}

#[test]
fn a_page_written_while_it_is_moved_is_dirty() {
    written_while(1, 3, Level::PAGE, |space| space.relocate(0, 1, 1, 3));
}

#[test]
fn a_large_page_written_while_it_is_moved_is_dirty() {
    written_while(1, 3, Level::HUGE, |space| space.relocate(0, 0, 1, 2));
}
