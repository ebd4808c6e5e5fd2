//! Changes are recorded in the order in which they are made: a cursor calls `record` before another can
//! change the same entries.

use super::*;

/// Numbers records as a domain's log numbers generations.
struct Records(loom::sync::atomic::AtomicU64);

impl Records {
    fn new() -> Arc<Records> {
        Arc::new(Records(loom::sync::atomic::AtomicU64::new(0)))
    }

    fn claim(&self) -> u64 {
        self.0.fetch_add(1, loom::sync::atomic::Ordering::AcqRel)
    }
}

impl Space {
    /// Unmaps page `page`: its record, and whether it was mapped.
    fn clear_recorded(&self, cpu: usize, page: u64, records: &Records) -> (u64, bool) {
        let pin = pin(cpu);
        let mut changed = Changed::NOTHING;
        let mut reserve = Reserve::new(&self.memory, &pin);
        let pages = Pages { first: page, last: page };
        let record = |_: &mut Changed| records.claim();
        let record = self
            .table
            .clear(self.memory.by(&pin), &mut reserve, pages, &mut changed, |_, _| {}, record)
            .unwrap();
        self.memory.retire(&pin, changed.retired.tables);
        (record, changed.pages == 1)
    }
}

/// CPU 1 moves page 0 to page 2, CPU 0 unmaps page 2: if it finds the frame there, its record is the newer.
#[test]
fn a_move_is_recorded_before_the_new_place_changes() {
    explore(|| {
        let space = Space::new();
        assert!(space.map(0, 0, 0, Level::PAGE) && space.map(0, 3, 3, Level::PAGE));
        let records = Records::new();
        let mover = Arc::clone(&records);
        let (moved, (cleared, found)) = race(
            &space,
            move |space| {
                let pin = pin(1);
                let mut reserve = Reserve::new(&space.memory, &pin);
                let (from, to) = (Pages { first: 0, last: 0 }, Pages { first: 2, last: 2 });
                let record = |changed: Changed| {
                    space.memory.retire(&pin, changed.retired.tables);
                    mover.claim()
                };
                space
                    .table
                    .relocate(space.memory.by(&pin), &mut reserve, from, to, MovedRegions::default(), record)
                    .unwrap()
            },
            |space| space.clear_recorded(0, 2, &records),
        );
        assert_eq!(found, moved < cleared);
        space.finish();
    });
}

/// Both unmap page 0: the record of the CPU that finds it mapped is the older.
#[test]
fn a_change_is_recorded_before_the_same_change_finds_nothing() {
    explore(|| {
        let space = Space::new();
        assert!(space.map(0, 0, 0, Level::PAGE) && space.map(0, 1, 1, Level::PAGE));
        let records = Records::new();
        let other = Arc::clone(&records);
        let ((one, mapped), (two, mapped_too)) = race(
            &space,
            move |space| space.clear_recorded(1, 0, &other),
            |space| space.clear_recorded(0, 0, &records),
        );
        assert!(mapped != mapped_too);
        assert_eq!(mapped, one < two);
        space.finish();
    });
}
