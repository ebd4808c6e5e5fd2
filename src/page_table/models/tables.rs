//! Tables that come and go under two CPUs.

use super::*;

/// Both map a page each in one table that is yet to be: one links it, the other finds it.
#[test]
fn two_cpus_make_the_same_table() {
    explore(|| {
        let space = Space::bare();
        // Under another table of the lowest level: the ones above are there.
        assert!(space.map(0, 2, 2, Level::PAGE));
        let both =
            race(&space, |space| space.map(1, 1, 1, Level::PAGE), |space| space.map(0, 0, 0, Level::PAGE));
        assert_eq!(both, (true, true));
        assert_eq!(space.clear(0, 0, 15), 3);
        space.finish();
    });
}

/// CPU 0 clears what an entry of the root covers, and frees the tables below, while CPU 1 maps a
/// page there: into the old tables before they are unlinked, or into new ones.
#[test]
fn mapping_meets_unlinking() {
    explore(|| {
        let space = Space::bare();
        assert!(space.map(0, 0, 0, Level::PAGE));
        let (mapped, cleared) =
            race(&space, |space| space.map(1, 1, 1, Level::PAGE), |space| space.clear(0, 0, 7));
        assert!(mapped && (cleared == 1 || cleared == 2));
        assert_eq!(cleared + space.clear(0, 0, 15), 2);
        space.finish();
    });
}

/// Both clear the same page: one of them gets it.
#[test]
fn a_page_is_cleared_once() {
    explore(|| {
        let space = Space::bare();
        assert!(space.map(0, 0, 0, Level::PAGE));
        let (one, other) = race(&space, |space| space.clear(1, 0, 0), |space| space.clear(0, 0, 3));
        assert_eq!(one + other, 1);
        space.finish();
    });
}
