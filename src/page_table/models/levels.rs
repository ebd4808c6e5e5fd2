//! Claims of entries above and below each other. An entry of the root covers pages 0 to 7, one of the next
//! level 4 of them, one of a directory 2.

use super::super::claims::cursor::Cursor;
use super::*;

/// A space where these pages are mapped.
fn mapping(mapped: &[u64]) -> Arc<Space> {
    let space = Space::bare();
    for &page in mapped {
        assert!(space.map(0, page, page, Level::PAGE));
    }
    space
}

/// CPU 0 clears what an upper entry covers, while CPU 1 changes a page below.
#[test]
fn a_claim_above_waits_for_the_one_below() {
    for (first, last) in [(0, 3), (0, 7), (0, 15)] {
        explore(move || {
            let space = mapping(&[0, 4]);
            let (mapped, cleared) = race(
                &space,
                |space| space.map(1, 1, 1, Level::PAGE),
                move |space| space.clear(0, first, last),
            );
            assert!(mapped);
            let rest = space.clear(0, 0, 15);
            assert_eq!(cleared + rest, 3);
            assert_eq!(space.find(1), None);
            space.finish();
        });
    }
}

/// A leaf of an upper entry is split by one CPU, and changed as a whole by another.
#[test]
fn a_leaf_above_is_split_or_goes() {
    explore(|| {
        let space = Space::bare();
        assert!(space.map(0, 0, 3, Level::GIANT));
        let (cleared, all) = race(&space, |space| space.clear(1, 1, 1), |space| space.clear(0, 0, 3));
        assert!((cleared, all) == (1, 3) || (cleared, all) == (0, 4));
        space.finish();
    });
}

/// Both ranges have pages in both directories, and two of them in common.
#[test]
fn cursors_in_several_tables_take_turns() {
    explore(|| {
        let space = mapping(&[3, 4]);
        let (one, other) = race(&space, |space| space.clear(1, 3, 5), |space| space.clear(0, 2, 4));
        assert!((one, other) == (2, 0) || (one, other) == (0, 2), "each page goes with one range");
        space.finish();
    });
}

/// CPU 1 claims two entries of one directory, and has the first when CPU 0 claims the entry above: CPU 1
/// goes on, and CPU 0 waits.
#[test]
fn a_cursor_below_goes_on_beside_a_claim_above() {
    explore(|| {
        let space = mapping(&[0, 2, 4]);
        let (one, other) = race(&space, |space| space.clear(1, 2, 4), |space| space.clear(0, 0, 7));
        assert_eq!(one + other, 3);
        assert!(one == 2 || one == 0);
        space.finish();
    });
}

/// The entries were claimed above the directories that a mapping then makes: each is released where it was
/// claimed, and once.
#[test]
fn claims_are_released_where_they_were_made() {
    explore(|| {
        let space = Space::bare();
        let (mapped, too) =
            race(&space, |space| space.map(1, 3, 4, Level::PAGE), |space| space.map(0, 0, 0, Level::PAGE));
        assert!(mapped && too);
        assert_eq!(space.clear(0, 0, 15), 3);
        space.finish();
    });
}

/// A directory goes while CPU 1 is on its way through it.
#[test]
fn a_descent_meets_the_unlinking_of_its_directory() {
    explore(|| {
        let space = mapping(&[0]);
        let (mapped, cleared) =
            race(&space, |space| space.map(1, 2, 3, Level::HUGE), |space| space.clear(0, 0, 7));
        assert!(mapped);
        let left = (cleared == 1).then_some((BASE + 2, Level::HUGE));
        assert_eq!(space.find(2), left, "{cleared} pages were unmapped");
        space.finish();
    });
}

/// CPU 1 moves page 0 to page 6; CPU 0 maps a page in between, and nobody waits.
#[test]
fn what_is_between_the_places_of_a_move_is_free() {
    explore(|| {
        let space = mapping(&[0, 7]);
        let ((), mapped) =
            race(&space, |space| space.relocate(1, 0, 0, 6), |space| space.map(0, 3, 3, Level::PAGE));
        assert!(mapped);
        assert_eq!(space.table.locks().contended(), 0);
        assert_eq!(
            [0, 3, 6].map(|page| space.find(page).map(|found| found.0)),
            [None, Some(BASE + 3), Some(BASE)]
        );
        space.finish();
    });
}

/// Both places of a move, or none of them, when the entry above is claimed.
#[test]
fn a_move_is_whole() {
    for (first, last) in [(4, 7), (0, 7)] {
        explore(move || {
            let space = mapping(&[0, 5]);
            let ((), cleared) =
                race(&space, |space| space.relocate(1, 0, 0, 6), move |space| space.clear(0, first, last));
            assert_eq!(cleared + space.clear(0, 0, 15), 2);
            space.finish();
        });
    }
}

/// Counts the leaves below the table in `frame`, of `level`, and the tables.
fn count(space: &Space, frame: PhysFrame, level: Level) -> (usize, usize) {
    // SAFETY: the caller has all of it for itself.
    let table = unsafe { table_at(&space.memory, frame) };
    (0..ENTRIES).fold((0, 0), |(leaves, tables), index| {
        match (X64::<4>::decode(table.load(index), level), level.below()) {
            (Entry::Leaf(_), _) => (leaves + 1, tables),
            (Entry::Table(next), Some(below)) => {
                let under = count(space, next, below);
                (leaves + under.0, tables + under.1 + 1)
            }
            _ => (leaves, tables),
        }
    })
}

/// A cursor over all entries of the root, as a fork has it, sees all of a change in several tables, or nothing
/// of it, and meets each table once.
#[test]
fn a_cursor_over_the_root_sees_changes_whole() {
    explore(|| {
        let space = mapping(&[0]);
        let (mapped, (leaves, tables, met)) = race(
            &space,
            |space| space.map(1, 3, 4, Level::PAGE),
            |space| {
                let mut met = 0;
                let all = Pages { first: 0, last: 15 };
                let cursor = Cursor::lock_roots(&space.table, &space.memory, all, &mut |entry, _| {
                    met += usize::from(matches!(entry, Entry::Table(_)));
                });
                let (leaves, tables) = count(space, space.table.root(), X64::<4>::ROOT);
                drop(cursor);
                (leaves, tables, met)
            },
        );
        assert!(mapped);
        assert!(leaves == 1 || leaves == 3, "{leaves} leaves: a part of a change");
        assert_eq!(met, tables);
        space.finish();
    });
}

/// A sweep takes no table that a cursor of several tables is in.
#[test]
fn a_sweep_leaves_what_a_wide_cursor_has() {
    explore(|| {
        let space = mapping(&[2, 4]);
        assert_eq!(space.clear(0, 2, 2) + space.clear(0, 4, 4), 2);
        let (mapped, tables) =
            race(&space, |space| space.map(1, 3, 4, Level::PAGE), |space| space.reclaim(0, || ()));
        assert!(mapped);
        space.memory.retire(&pin(0), tables);
        assert_eq!([3, 4].map(|page| space.find(page)), [3, 4].map(|page| Some((BASE + page, Level::PAGE))));
        space.finish();
    });
}
