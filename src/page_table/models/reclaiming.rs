//! Sweeps for empty tables beside cursors and walks.

use loom::sync::Mutex;

use super::*;

/// One with nothing in its tables: two lowest ones, a directory, and the two above.
fn emptied() -> Arc<Space> {
    let space = Space::bare();
    assert!(space.map(0, 0, 0, Level::PAGE));
    assert!(space.map(0, 2, 2, Level::PAGE));
    assert_eq!([space.clear(0, 0, 0), space.clear(0, 2, 2)], [1, 1]);
    assert_eq!(space.memory.allocated(), 5);
    space
}

/// CPU 0 sweeps, and frees what it unlinks, while CPU 1 does `work`.
fn sweep_beside(space: &Arc<Space>, work: impl FnOnce(&Space) + 'static) {
    race(space, work, |space| {
        let tables = space.reclaim(0, || ());
        space.memory.retire(&pin(0), tables);
    });
}

#[test]
fn all_tables_go_that_map_nothing() {
    explore(|| {
        let space = emptied();
        sweep_beside(&space, |_| ());
        assert_eq!(space.memory.allocated(), 1);
        space.finish();
    });
}

#[test]
fn a_page_mapped_beside_a_sweep_is_there() {
    explore(|| {
        let space = emptied();
        sweep_beside(&space, |space| assert!(space.map(1, 1, 1, Level::PAGE)));
        assert_eq!(space.find(1), Some((BASE + 1, Level::PAGE)));
        space.finish();
    });
}

#[test]
fn a_large_page_mapped_beside_a_sweep_is_there() {
    explore(|| {
        let space = emptied();
        sweep_beside(&space, |space| assert!(space.map(1, 2, 3, Level::HUGE)));
        assert_eq!(space.find(2), Some((BASE + 2, Level::HUGE)));
        space.finish();
    });
}

#[test]
fn a_sweep_leaves_what_is_mapped() {
    explore(|| {
        let space = emptied();
        assert!(space.map(0, 1, 1, Level::PAGE));
        sweep_beside(&space, |space| assert_eq!(space.clear(1, 2, 3), 0));
        assert_eq!(space.find(1), Some((BASE + 1, Level::PAGE)));
        space.finish();
    });
}

/// Tables are unlinked once: by the sweep, or by the unmap of a range that covers them.
#[test]
fn an_unmap_and_a_sweep_unlink_a_table_once() {
    explore(|| {
        let space = emptied();
        assert!(space.map(0, 1, 1, Level::PAGE));
        sweep_beside(&space, |space| assert_eq!(space.clear(1, 0, 7), 1));
        space.finish();
    });
}

#[test]
fn two_sweeps_share_the_tables() {
    explore(|| {
        let space = emptied();
        sweep_beside(&space, |space| {
            let tables = space.reclaim(1, || ());
            space.memory.retire(&pin(1), tables);
        });
        space.finish();
    });
}

/// Who maps in the place of a table that a sweep has unlinked finds it announced.
#[test]
fn a_sweep_is_announced_before_others_map_there() {
    explore(|| {
        let space = emptied();
        let announced = Arc::new(Mutex::new(false));
        let announcement = Arc::clone(&announced);
        let (before, tables) = race(
            &space,
            move |space| {
                let old = space.lowest();
                assert!(space.map(1, 0, 0, Level::PAGE));
                space.lowest() == old || *announced.lock().unwrap()
            },
            move |space| space.reclaim(0, || *announcement.lock().unwrap() = true),
        );
        assert!(before, "a page was mapped by a new table, and nobody knew of the old one");
        space.memory.retire(&pin(0), tables);
        space.finish();
    });
}

/// CPU 1 looks page 0 up, announced to `announced`, while CPU 0 sweeps and frees.
fn walk_meets_sweep(announced: impl FnOnce(&Arc<Walks>) -> Arc<Walks> + Send + Sync + Copy + 'static) {
    explore(move || {
        let space = emptied();
        let walks = Arc::new(Walks::new());
        let announced = announced(&walks);
        race(
            &space,
            move |space| {
                let pin = pin(1);
                assert_eq!(space.table.walk(&space.memory, &announced.enter(&pin), 0), None);
            },
            |space| {
                let tables = space.reclaim(0, || ());
                if walks.wait_for_others(&pin(0), thread::yield_now) {
                    space.memory.free_chain(&pin(0), tables);
                }
            },
        );
    });
}

#[test]
fn a_table_is_freed_once_no_walk_sees_it() {
    walk_meets_sweep(Arc::clone);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn walking_unannounced_is_caught() {
    walk_meets_sweep(|_| Arc::new(Walks::new()));
}
