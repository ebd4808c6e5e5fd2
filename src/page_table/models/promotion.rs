//! Promotion beside walks, the hardware's marks, and later changes.

use loom::sync::Mutex;

use super::*;

#[test]
fn a_walk_finds_what_is_mapped_while_it_is_promoted() {
    explore(|| {
        let space = Space::new();
        assert!(space.map(0, 0, 1, Level::PAGE));
        let (found, promoted) = race(
            &space,
            |space| space.find(1),
            |space| {
                // The walk may be in the old table, so that stays.
                let (pin, first, last) = (pin(0), 0, 1);
                {
                    let (access, pages) = (space.memory.by(&pin), Pages { first, last });
                    let mut reserve = Reserve::new(&space.memory, &pin);
                    space.table.promote(access, &mut reserve, pages, Level::HUGE, |changed| changed)
                }
            },
        );
        assert_eq!(found.map(|found| found.0), Some(BASE + 1));
        space.memory.retire(&pin(0), promoted.unwrap().retired.tables);
        space.finish();
    });
}

#[test]
fn a_promotion_is_announced_before_the_leaf_changes() {
    explore(|| {
        let space = Space::new();
        assert!(space.map(0, 0, 1, Level::PAGE));
        let announced = Arc::new(Mutex::new(false));
        let announcement = Arc::clone(&announced);
        let (promoted, (cleared, before)) = race(
            &space,
            move |space| space.promote(1, || *announcement.lock().unwrap() = true),
            move |space| {
                let cleared = space.clear(0, 1, 1);
                (cleared, *announced.lock().unwrap())
            },
        );
        assert_eq!(cleared, 1);
        assert!(before || !promoted, "a leaf was changed of which TLBs knew the pages only");
        assert_eq!(space.find(0), Some((BASE, Level::PAGE)));
        assert_eq!(space.find(1), None);
        space.finish();
    });
}

/// A CPU that writes page 1, by the translation that its walker finds, marks it dirty.
#[test]
fn a_page_written_while_it_is_promoted_is_dirty() {
    const DIRTY: u64 = 1 << 6;
    explore(|| {
        let space = Space::new();
        assert!(space.map(0, 0, 1, Level::PAGE));
        let ((), promoted) = race(
            &space,
            |space| {
                let directory = space.directory();
                let found = directory.load(0);
                match X64::<4>::decode(found, Level::HUGE) {
                    // Its way to the old table is cached from here on.
                    Entry::Table(old) => set(space.memory.table(old), 1, DIRTY),
                    _ => set(directory, 0, DIRTY),
                }
            },
            |space| {
                let (pin, first, last) = (pin(0), 0, 1);
                {
                    let (access, pages) = (space.memory.by(&pin), Pages { first, last });
                    let mut reserve = Reserve::new(&space.memory, &pin);
                    space.table.promote(access, &mut reserve, pages, Level::HUGE, |changed| changed)
                }
            },
        );
        assert_ne!(space.directory().load(0).0 & DIRTY, 0);
        space.memory.retire(&pin(0), promoted.unwrap().retired.tables);
        space.finish();
    });
}

/// What the hardware does: an atomic read-modify-write.
fn set(table: &TablePage, index: usize, bits: u64) {
    let mut raw = table.load(index);
    while let Err(now) = table.compare_exchange(index, raw, RawEntry(raw.0 | bits)) {
        raw = now;
    }
}
