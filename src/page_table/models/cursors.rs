//! Cursors of one entry, of neighbours, and of all that is above.

use super::*;

#[test]
fn neighbours_never_wait() {
    explore(|| {
        let space = Space::new();
        let (first, second) = race(
            &space,
            // A table comes, and goes for a leaf.
            |space| {
                let mapped = space.map(1, 0, 0, Level::PAGE);
                space.clear(1, 0, 0);
                mapped && space.map(1, 0, 1, Level::HUGE)
            },
            // A leaf comes, and is split.
            |space| {
                let mapped = space.map(0, 2, 3, Level::HUGE);
                mapped && space.clear(0, 3, 3) == 1
            },
        );
        assert!(first && second);
        assert_eq!(space.table.locks().contended(), 0);
        assert_eq!(
            [0, 1, 2, 3].map(|page| space.find(page)),
            [Some((BASE, Level::HUGE)), Some((BASE + 1, Level::HUGE)), Some((BASE + 2, Level::PAGE)), None,]
        );
        space.finish();
    });
}

#[test]
fn one_of_two_gets_an_entry() {
    explore(|| {
        let space = Space::new();
        let (page, leaf) =
            race(&space, |space| space.map(1, 1, 1, Level::PAGE), |space| space.map(0, 0, 1, Level::HUGE));
        assert!(page != leaf);
        let level = if page { Level::PAGE } else { Level::HUGE };
        assert_eq!(space.find(1), Some((BASE + 1, level)));
        space.finish();
    });
}

#[test]
fn a_claim_survives_the_change() {
    explore(|| {
        let space = Space::new();
        assert!(space.map(0, 0, 1, Level::HUGE));
        let (page, leaf) = race(
            &space,
            |space| space.map(1, 1, 1, Level::PAGE),
            |space| {
                assert_eq!(space.clear(0, 0, 1), 2);
                space.map(0, 0, 1, Level::HUGE)
            },
        );
        assert!(page != leaf);
        let level = if page { Level::PAGE } else { Level::HUGE };
        assert_eq!(space.find(1), Some((BASE + 1, level)));
        space.finish();
    });
}

/// The tables of both of the directory's entries, one after the other.
#[test]
fn a_table_is_not_unlinked_under_a_cursor() {
    for first in [0, 2] {
        explore(move || {
            let space = Space::new();
            assert!(space.map(0, first, first, Level::PAGE));
            let (mapped, cleared) = race(
                &space,
                move |space| space.map(1, first + 1, first + 1, Level::PAGE),
                |space| space.clear(0, 0, 3),
            );
            assert!(mapped);
            let left = (cleared == 1).then_some((BASE + first + 1, Level::PAGE));
            assert_eq!(space.find(first + 1), left, "{cleared} pages were unmapped");
            space.finish();
        });
    }
}

#[test]
fn a_directory_is_not_unlinked_under_a_cursor() {
    explore(|| {
        let space = Space::new();
        let (mapped, cleared) =
            race(&space, |space| space.map(1, 0, 1, Level::HUGE), |space| space.clear(0, 0, 7));
        assert!(mapped);
        let left = (cleared == 0).then_some((BASE + 1, Level::HUGE));
        assert_eq!(space.find(1), left, "{cleared} pages were unmapped");
        space.finish();
    });
}

#[test]
fn a_walk_finds_what_is_mapped_while_it_is_split() {
    explore(|| {
        let space = Space::new();
        assert!(space.map(0, 0, 1, Level::HUGE));
        let (found, cleared) = race(&space, |space| space.find(1), |space| space.clear(0, 0, 0));
        assert_eq!(cleared, 1);
        assert_eq!(found.map(|found| found.0), Some(BASE + 1));
        space.finish();
    });
}
