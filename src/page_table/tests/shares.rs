//! Leaves that share their frames.

use std::vec::Vec;

use super::*;
use crate::budget::Budget;

const HUGE: u64 = 512;

const SHARED: Attributes = Attributes { ownership: Ownership::Shared, ..BORROWED };

fn fresh(frames: u64) -> (Arena, Table) {
    let arena = Arena::new(frames);
    let table = Table::new(&arena, &pin(0), RootEntries::Own).unwrap();
    (arena, table)
}

fn ownership(table: &Table, arena: &Arena, page: u64) -> Option<Ownership> {
    let pin = pin(0);
    let found = WALKS.with(|walks| table.walk(arena, &walks.enter(&pin), page));
    found.map(|(leaf, _)| leaf.ownership)
}

fn frame_number(table: &Table, arena: &Arena, page: u64) -> u64 {
    find(table, arena, page).unwrap().0.start_address().as_u64() / 4096
}

/// Maps each of `range` to a frame of its own.
fn own(table: &Table, arena: &Arena, range: Pages) {
    for page in range.first..=range.last {
        let frame = arena.allocate(&pin(0)).unwrap();
        own_run(table, arena, &pin(0), pages(page, 1), frame);
    }
}

/// Shares `from` with the pages from `to` on of another table, or the same.
fn share(arena: &Arena, source: &Table, from: Pages, target: &Table, to: u64) {
    let pin = pin(0);
    let mut reserve = Reserve::new(arena, &pin);
    let (mut list, mut spent) = (Gather::EMPTY, Chain::EMPTY);
    source.share(arena.by(&pin), &mut reserve, from, Level::PAGE, &mut list).unwrap();
    target.note_shared();
    let mut backing = Listed {
        memory: arena,
        level: Level::PAGE,
        shares: &mut list,
        spent: &mut spent,
        attributes: SHARED,
    };
    let range = pages(to, from.count());
    let replaced =
        target.fill(arena.by(&pin), &mut reserve, range, &mut backing, |replaced| replaced).unwrap();
    assert!(list.take(arena, &mut spent).is_none());
    arena.free_chain(&pin, replaced);
    arena.free_chain(&pin, spent);
}

#[test]
fn a_gather_list_is_a_queue_over_many_pages() {
    const COUNT: u64 = 2500;
    let arena = Arena::new(16);
    let mut list = Gather::EMPTY;
    let fill = |list: &mut Gather, from: u64, count: u64| {
        for _ in 0..list.pages_for(&arena, count) {
            list.add_page(&arena, arena.allocate(&pin(0)).unwrap());
        }
        (from..from + count).for_each(|number| list.push(&arena, foreign(1 + number), Level::PAGE));
    };
    assert_eq!(list.pages_for(&arena, COUNT), 3);
    fill(&mut list, 0, 1);
    fill(&mut list, 1, COUNT - 1);
    assert_eq!(arena.allocated(), 3, "the room of the first page was used");
    assert_eq!(list.frames(&arena), COUNT);

    let mut other = Gather::EMPTY;
    fill(&mut other, COUNT, 3);
    other.add_page(&arena, arena.allocate(&pin(0)).unwrap());
    other.push(&arena, foreign(HUGE), Level::HUGE);
    list.append(&arena, other);
    assert_eq!(list.frames(&arena), COUNT + 3 + HUGE);
    // What is added later goes behind this list's own, not behind the other's.
    fill(&mut list, COUNT + 3, 600);

    let mut spent = Chain::EMPTY;
    let mut taken: Vec<(u64, Level)> = Vec::new();
    while let Some((frame, level)) = list.take(&arena, &mut spent) {
        taken.push((frame.start_address().as_u64() / 4096, level));
        if taken.len() == 1000 {
            let mut third = Gather::EMPTY;
            fill(&mut third, 9000, 2);
            list.append(&arena, third);
        }
    }
    assert_eq!(list.frames(&arena), 0);
    assert!(list.is_empty());
    arena.free_chain(&pin(0), spent);
    assert_eq!(arena.allocated(), 0);
    let at = taken.iter().position(|&(.., level)| level == Level::HUGE).unwrap();
    assert_eq!(taken.remove(at).0, HUGE);
    assert!(taken[..COUNT as usize].is_sorted(), "the oldest come first");
    taken.sort();
    let expected = (1..=COUNT + 3 + 600).chain([9001, 9002]);
    assert!(taken.iter().map(|&(number, _)| number).eq(expected));
}

#[test]
fn a_share_is_dropped_with_the_retired_and_not_before() {
    let (arena, first) = fresh(64);
    let second = Table::new(&arena, &pin(0), RootEntries::Own).unwrap();
    let pin = pin(0);
    own(&first, &arena, pages(3, 4));
    share(&arena, &first, pages(4, 2), &second, 2 * HUGE);
    let frame = frame_number(&first, &arena, 4);
    assert_eq!(arena.holders(frame), Some(2));
    assert_eq!(ownership(&first, &arena, 3), Some(Ownership::Owned));
    assert_eq!(ownership(&first, &arena, 4), Some(Ownership::Shared));
    assert_eq!(frame_number(&second, &arena, 2 * HUGE), frame);

    let changed = clear(&first, &arena, &pin, pages(0, 9)).unwrap();
    assert_eq!(changed.pages, 4);
    assert_eq!(changed.retired.frame_count(&arena), 4);
    assert_eq!(arena.holders(frame), Some(2), "a TLB may still have it");
    first.reown(arena.by(&pin), pages(4, 2), Level::PAGE);
    second.reown(arena.by(&pin), pages(2 * HUGE, 2), Level::PAGE);
    assert_eq!(ownership(&second, &arena, 2 * HUGE), Some(Ownership::Shared));
    arena.free_changed(&pin, changed);
    assert_eq!(arena.holders(frame), Some(1));
    second.reown(arena.by(&pin), pages(2 * HUGE, 2), Level::PAGE);
    assert_eq!(ownership(&second, &arena, 2 * HUGE), Some(Ownership::Owned));
    for table in [&first, &second] {
        let changed = clear(table, &arena, &pin, Pages { first: 0, last: (1 << 35) - 1 }).unwrap();
        arena.free_changed(&pin, changed);
    }
    assert_eq!(arena.allocated(), 2, "the roots");
}

#[test]
fn one_table_maps_a_frame_twice() {
    let (arena, table) = fresh(64);
    own(&table, &arena, pages(0, 3));
    share(&arena, &table, pages(0, 3), &table, 100);
    share(&arena, &table, pages(101, 1), &table, HUGE);
    assert_eq!(arena.holders(frame_number(&table, &arena, 1)), Some(3));
    // One change drops several shares of one frame.
    finish(&table, &arena);
}

#[test]
fn single_pages_drop_their_share() {
    let (arena, table) = fresh(64);
    let pin = pin(0);
    own(&table, &arena, pages(0, 1));
    share(&arena, &table, pages(0, 1), &table, 9);
    let mut reserve = Reserve::new(&arena, &pin);
    let mut changed = Changed::NOTHING;
    arena.fail_after(0);
    let refused = table.clear_page(
        arena.by(&pin),
        &mut reserve,
        pages(9, 1),
        Level::PAGE,
        &mut changed,
        |_, _| {},
        |_| (),
    );
    assert_eq!(refused.err(), Some(ClearPageError::Gather(arena::Empty)));
    assert!(changed.retired.is_empty() && find(&table, &arena, 9).is_some());
    arena.fail_after(u64::MAX);
    let (leaf, ()) = table
        .clear_page(arena.by(&pin), &mut reserve, pages(9, 1), Level::PAGE, &mut changed, |_, _| {}, |_| ())
        .unwrap();
    assert_eq!(leaf.ownership, Ownership::Shared);
    arena.free_changed(&pin, changed);
    assert_eq!(arena.holders(frame_number(&table, &arena, 0)), Some(1));
    finish(&table, &arena);
}

/// Fails the first, second, ... allocation of each change until it goes through.
#[test]
#[cfg_attr(miri, ignore = "so many frames take minutes; the others cover the unsafe code")]
fn a_failed_allocation_changes_nothing() {
    let (arena, table) = fresh(3000);
    let pin = pin(0);
    own(&table, &arena, pages(0, 1100));
    share(&arena, &table, pages(0, 1100), &table, 8 * HUGE);
    let other = Table::new(&arena, &pin, RootEntries::Own).unwrap();
    let mut list = Gather::EMPTY;
    let changes: [&mut dyn FnMut() -> bool; 3] = [
        &mut || {
            let mut reserve = Reserve::new(&arena, &pin);
            table.share(arena.by(&pin), &mut reserve, pages(3, 1050), Level::PAGE, &mut list).is_ok()
        },
        &mut || clear(&table, &arena, &pin, pages(9, 1)).map(|c| arena.free_changed(&pin, c)).is_ok(),
        &mut || clear(&table, &arena, &pin, pages(0, 1100)).map(|c| arena.free_changed(&pin, c)).is_ok(),
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let state = || {
            let of = |page: u64| (find(&table, &arena, page), ownership(&table, &arena, page));
            let holders = |page: u64| {
                let found = find(&table, &arena, page)?;
                arena.holders(found.0.start_address().as_u64() / 4096)
            };
            let probe = [0, 3, 9, 500, 1099, 8 * HUGE, 8 * HUGE + 9];
            (probe.map(of), probe.map(holders), arena.allocated())
        };
        for step in 0.. {
            let before = state();
            arena.fail_after(step);
            let done = change();
            arena.fail_after(u64::MAX);
            if done {
                assert!(step > 0, "change {number} allocates nothing, so it tests nothing");
                break;
            }
            assert_eq!(state(), before, "change {number}, allocation {step}");
        }
    }
    let mut retired = Changed::NOTHING;
    retired.retired.shares = list;
    arena.free_changed(&pin, retired);
    assert_eq!(find(&other, &arena, 0), None);
    // SAFETY: the root is used by nobody.
    unsafe { arena.free(&pin, other.root()) };
    finish(&table, &arena);
}

#[test]
fn what_cannot_be_shared_is_told() {
    let (arena, table) = fresh(64);
    let pin = pin(0);
    own(&table, &arena, pages(0, 2));
    map(&table, &arena, &pin, pages(3, 1), foreign(99), Level::PAGE).unwrap();
    map(&table, &arena, &pin, pages(HUGE, HUGE), foreign(HUGE), Level::HUGE).unwrap();
    let refusal = |range, level| {
        let mut list = Gather::EMPTY;
        let refused = table.share(arena.by(&pin), &mut Reserve::new(&arena, &pin), range, level, &mut list);
        let mut changed = Changed::NOTHING;
        changed.retired.shares = list;
        arena.free_changed(&pin, changed);
        refused.unwrap_err()
    };
    assert_eq!(refusal(pages(0, 3), Level::PAGE), Unshared::Vacant { page: 2 });
    assert_eq!(refusal(pages(3, 1), Level::PAGE), Unshared::Borrowed { page: 3 });
    assert_eq!(
        refusal(pages(HUGE + 1, 1), Level::PAGE),
        Unshared::OtherLevel { page: HUGE + 1, level: Level::HUGE }
    );
    assert_eq!(refusal(pages(0, HUGE), Level::HUGE), Unshared::OtherLevel { page: 0, level: Level::PAGE });
    assert_eq!(refusal(pages(4 * HUGE, HUGE), Level::HUGE), Unshared::Vacant { page: 4 * HUGE });
    share(&arena, &table, pages(1, 1), &table, 50);
    arena.most_holders(2);
    assert_eq!(refusal(pages(0, 2), Level::PAGE), Unshared::Full { page: 1 });
    assert_eq!(ownership(&table, &arena, 0), Some(Ownership::Owned));
    assert_eq!(arena.holders(frame_number(&table, &arena, 0)), Some(1));
    finish(&table, &arena);
}

#[test]
fn shares_survive_new_protections_and_moves() {
    let (arena, table) = fresh(64);
    let pin = pin(0);
    own(&table, &arena, pages(0, 2));
    share(&arena, &table, pages(0, 2), &table, 20);
    let mut reserve = Reserve::new(&arena, &pin);
    let read_only = Protection::USER_READ_ONLY;
    let changed = reprotect(&table, &arena, &pin, pages(20, 2), read_only).unwrap();
    arena.free_changed(&pin, changed);
    let changed = table
        .relocate(
            arena.by(&pin),
            &mut reserve,
            pages(20, 2),
            pages(3 * HUGE, 2),
            MovedRegions::default(),
            |changed| changed,
        )
        .unwrap();
    arena.free_changed(&pin, changed);
    assert_eq!(ownership(&table, &arena, 3 * HUGE + 1), Some(Ownership::Shared));
    assert_eq!(find(&table, &arena, 3 * HUGE).unwrap().2, read_only);
    assert_eq!(arena.holders(frame_number(&table, &arena, 0)), Some(2));
    finish(&table, &arena);
}

#[test]
#[cfg_attr(miri, ignore = "the arena's list of frames takes minutes; the others cover the unsafe code")]
fn what_is_shared_is_not_promoted() {
    let (arena, table) = fresh(3 * HUGE);
    assert!(arena.allocate_at(HUGE, HUGE));
    own_run(&table, &arena, &pin(0), pages(0, HUGE), foreign(HUGE));
    share(&arena, &table, pages(300, 1), &table, 5 * HUGE);
    let refused = promote(&table, &arena, &pin(0), pages(0, HUGE), Level::HUGE);
    assert_eq!(refused.unwrap_err(), Unfit::Shared { page: 300 });
    finish(&table, &arena);
}

#[test]
#[cfg_attr(miri, ignore = "takes apart hundreds of pages: minutes")]
fn dismantling_drops_shares_or_leaves_them() {
    let (arena, table) = fresh(400);
    let other = Table::new(&arena, &pin(0), RootEntries::Own).unwrap();
    let pin = pin(0);
    own(&table, &arena, pages(0, 100));
    share(&arena, &table, pages(10, 80), &other, HUGE - 40);
    let everything = Pages { first: 0, last: (1 << 35) - 1 };
    let holders = |page| arena.holders(frame_number(&table, &arena, page));
    let mut changed = Changed::NOTHING;
    // Each time one more group of pages is forgotten, until all are.
    for groups in 0.. {
        let mut asked = 0;
        let mut budget = Budget::unlimited();
        let users = Users::Lazy(|_, level| {
            assert_eq!(level, Level::PAGE);
            asked += 1;
            if asked > groups { Forgotten::No } else { Forgotten::Yes }
        });
        let outcome = other.dismantle(&arena, everything, &mut budget, &mut changed, users);
        if outcome == Dismantled::Whole {
            break;
        }
        assert_eq!(outcome, Dismantled::InUse);
        let left = (0..80).filter(|page| find(&other, &arena, HUGE - 40 + page).is_some()).count();
        let held = (10..90).filter(|&page| holders(page) == Some(2)).count();
        assert_eq!(left, held, "a share was dropped whose page is mapped, or the other way round");
        assert!(groups < 4);
    }
    arena.free_changed(&pin, changed);
    assert!((10..90).all(|page| holders(page) == Some(1)));
    // SAFETY: the root is used by nobody.
    unsafe { arena.free(&pin, other.root()) };
    // The last holders' frames come with what is retired.
    let mut changed = Changed::NOTHING;
    let mut budget = Budget::unlimited();
    let users = Users::<fn(Pages, Level) -> Forgotten>::None;
    let outcome = table.dismantle(&arena, everything, &mut budget, &mut changed, users);
    assert_eq!(outcome, Dismantled::Whole);
    arena.free_changed(&pin, changed);
    assert_eq!(arena.allocated(), 1);
}
