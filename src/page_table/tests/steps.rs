//! One step at a time: what a single change does.

use super::*;

const HUGE: u64 = 512;

fn fresh() -> (Arena, Table) {
    let arena = Arena::new(64);
    let table = Table::new(&arena, &pin(0), RootEntries::Own).unwrap();
    (arena, table)
}

#[test]
fn maps_translates_and_unmaps() {
    let (arena, table) = fresh();
    let pin = pin(0);
    map(&table, &arena, &pin, pages(0x1234, 3), foreign(0x9000), Level::PAGE).unwrap();
    for page in 0..3 {
        let found = find(&table, &arena, 0x1234 + page);
        assert_eq!(found, Some((foreign(0x9000 + page), Level::PAGE, Protection::USER_DATA)));
    }
    assert_eq!(find(&table, &arena, 0x1233), None);
    assert_eq!(find(&table, &arena, 0x1237), None);
    let changed = clear(&table, &arena, &pin, pages(0x1230, 6)).unwrap();
    assert_eq!((changed.pages, changed.stale), (2, Some(pages(0x1234, 2))));
    assert!(changed.retired.tables.is_empty(), "a table is unlinked only by a range that covers it");
    assert_eq!(find(&table, &arena, 0x1236).map(|found| found.0), Some(foreign(0x9002)));
    finish(&table, &arena);
}

#[test]
fn contiguous_ranges_use_large_leaves_where_alignment_permits() {
    let (arena, table) = fresh();
    let pin = pin(0);
    let range = pages(HUGE - 1, 2 * HUGE + 2);
    map(&table, &arena, &pin, range, foreign(8 * HUGE - 1), Level::GIANT).unwrap();
    let level = |page| find(&table, &arena, page).unwrap().1;
    assert_eq!(
        [HUGE - 1, HUGE, 3 * HUGE - 1, 3 * HUGE].map(level),
        [Level::PAGE, Level::HUGE, Level::HUGE, Level::PAGE]
    );
    assert_eq!(find(&table, &arena, 2 * HUGE + 5).unwrap().0, foreign(9 * HUGE + 5));
    finish(&table, &arena);
}

#[test]
fn gigantic_leaves_split_down_to_pages() {
    let (arena, table) = fresh();
    let pin = pin(0);
    let giant = HUGE * HUGE;
    map(&table, &arena, &pin, pages(giant, giant), foreign(4 * giant), Level::GIANT).unwrap();
    assert_eq!(find(&table, &arena, giant + 7).unwrap().1, Level::GIANT);
    let changed = clear(&table, &arena, &pin, pages(giant + 700, 1)).unwrap();
    assert_eq!(changed.pages, 1);
    assert_eq!(find(&table, &arena, giant + 700), None);
    assert_eq!(find(&table, &arena, giant + 701).unwrap(), {
        (foreign(4 * giant + 701), Level::PAGE, Protection::USER_DATA)
    });
    assert_eq!(find(&table, &arena, giant + 5 * HUGE).unwrap().1, Level::HUGE);
    finish(&table, &arena);
}

#[test]
fn an_occupied_page_refuses_the_whole_range() {
    let (arena, table) = fresh();
    let pin = pin(0);
    map(&table, &arena, &pin, pages(700, 1), foreign(1000), Level::PAGE).unwrap();
    let before = arena.allocated();
    let refused = map(&table, &arena, &pin, pages(0, 2 * HUGE), foreign(2000), Level::PAGE);
    let leaf = Leaf {
        frame: foreign(1000),
        protection: Protection::USER_DATA,
        reach: Reach::Space,
        ownership: Ownership::Borrowed,
    };
    assert_eq!(refused, Err(FillError::Occupied { page: 700, leaf: Some(leaf) }));
    assert_eq!(find(&table, &arena, 699), None);
    assert_eq!(arena.allocated(), before);
    finish(&table, &arena);
}

#[test]
fn reprotecting_part_of_a_large_leaf_splits_it() {
    let (arena, table) = fresh();
    let pin = pin(0);
    map(&table, &arena, &pin, pages(HUGE, HUGE), foreign(2 * HUGE), Level::HUGE).unwrap();
    let range = pages(HUGE + 10, 5);
    let changed = reprotect(&table, &arena, &pin, range, Protection::USER_READ_ONLY).unwrap();
    assert_eq!((changed.pages, changed.stale), (5, Some(range)));
    let protection = |page| find(&table, &arena, page).unwrap().2;
    assert_eq!(protection(HUGE + 9), Protection::USER_DATA);
    assert_eq!(protection(HUGE + 10), Protection::USER_READ_ONLY);
    assert_eq!(protection(HUGE + 15), Protection::USER_DATA);
    let again = reprotect(&table, &arena, &pin, range, Protection::USER_READ_ONLY).unwrap();
    assert_eq!(again.stale, None, "nothing changed, so no TLB is stale");
    finish(&table, &arena);
}

#[test]
fn a_large_leaf_takes_the_place_of_an_empty_table() {
    let (arena, table) = fresh();
    let pin = pin(0);
    map(&table, &arena, &pin, pages(HUGE, 1), foreign(7), Level::PAGE).unwrap();
    let changed = clear(&table, &arena, &pin, pages(HUGE, 1)).unwrap();
    arena.free_changed(&pin, changed);
    let before = arena.allocated();
    map(&table, &arena, &pin, pages(HUGE, HUGE), foreign(4 * HUGE), Level::HUGE).unwrap();
    assert_eq!(find(&table, &arena, HUGE).unwrap().1, Level::HUGE);
    assert_eq!(arena.allocated(), before - 1);
    finish(&table, &arena);
}

#[test]
fn shared_root_entries_keep_their_tables() {
    let arena = Arena::new(16);
    let pin = pin(0);
    let kernel = Table::new(&arena, &pin, RootEntries::Shared).unwrap();
    let window = pages(256 << 27, 1 << 27);
    kernel.root_tables(&arena, &mut Reserve::new(&arena, &pin), window).unwrap();
    let user = Table::new(&arena, &pin, RootEntries::Own).unwrap();
    // SAFETY: the kernel's table outlives the user's.
    unsafe { user.share_from(&arena, kernel.root(), pages(0, 256 << 27)) };
    let page = window.first + 12345;
    map(&kernel, &arena, &pin, pages(page, 1), foreign(99), Level::PAGE).unwrap();
    assert_eq!(find(&user, &arena, page).unwrap().0, foreign(99));
    let changed = clear(&kernel, &arena, &pin, window).unwrap();
    assert_eq!((changed.pages, changed.retired.tables.len()), (1, 2));
    arena.free_changed(&pin, changed);
    map(&kernel, &arena, &pin, pages(page, 1), foreign(98), Level::PAGE).unwrap();
    assert_eq!(find(&user, &arena, page).unwrap().0, foreign(98));
}

#[test]
fn the_top_of_the_address_space_maps() {
    let (arena, table) = fresh();
    let pin = pin(0);
    let top = u64::MAX >> 12;
    map(&table, &arena, &pin, Pages { first: top - 1, last: top }, foreign(50), Level::PAGE).unwrap();
    assert_eq!(find(&table, &arena, top).unwrap().0, foreign(51));
    let changed = clear(&table, &arena, &pin, Pages { first: top - 1, last: top }).unwrap();
    assert_eq!(changed.pages, 2);
    arena.free_changed(&pin, changed);
}

#[test]
fn five_levels_translate_57_bits() {
    let arena = Arena::new(16);
    let pin = pin(0);
    let table = PageTable::<X64<5>>::new(&arena, &pin, RootEntries::Own).unwrap();
    let page = (1 << 44) - 5;
    let mut backing =
        Contiguous { first_page: page, frame: foreign(77), largest: Level::PAGE, attributes: BORROWED };
    let mut reserve = Reserve::new(&arena, &pin);
    let filled = table.fill(arena.by(&pin), &mut reserve, pages(page, 1), &mut backing, |replaced| replaced);
    assert!(filled.unwrap().is_empty());
    let walks = Walks::new();
    let found = table.walk(&arena, &walks.enter(&pin), page).unwrap();
    assert_eq!(found.0.frame, foreign(77));
    assert_eq!(arena.allocated(), 5);
}

/// Fails the first, second, ... allocation of each change until it goes through.
#[test]
fn a_failed_allocation_changes_nothing() {
    let (arena, table) = fresh();
    let pin = pin(0);
    map(&table, &arena, &pin, pages(2 * HUGE, HUGE), foreign(8 * HUGE), Level::HUGE).unwrap();
    let probe = [0, 5, HUGE, 2 * HUGE, 2 * HUGE + 3, 2 * HUGE + 4, 2 * HUGE + 511, 4 * HUGE];
    let state = || probe.map(|page| find(&table, &arena, page));
    let changes: [&dyn Fn() -> bool; 3] = [
        &|| map(&table, &arena, &pin, pages(0, HUGE + 5), foreign(9000), Level::PAGE).is_ok(),
        &|| clear(&table, &arena, &pin, pages(2 * HUGE + 3, 1)).is_ok(),
        &|| {
            let mut reserve = Reserve::new(&arena, &pin);
            let range = pages((1 << 27) - 2, 4);
            let mut backing = Contiguous {
                first_page: range.first,
                frame: foreign(40),
                largest: Level::PAGE,
                attributes: BORROWED,
            };
            table.fill(arena.by(&pin), &mut reserve, range, &mut backing, |replaced| replaced).is_ok()
        },
    ];
    for (number, change) in changes.iter().enumerate() {
        for step in 0.. {
            let before = (state(), arena.allocated());
            arena.fail_after(step);
            let done = change();
            arena.fail_after(u64::MAX);
            if done {
                assert!(step > 0, "change {number} needs no table, so it tests nothing");
                break;
            }
            assert_eq!((state(), arena.allocated()), before, "change {number}, allocation {step}");
        }
    }
    finish(&table, &arena);
}

#[test]
#[cfg_attr(miri, ignore = "moves are looked for page by page: minutes; record.rs moves pages under Miri")]
fn relocated_pages_keep_frames_protections_and_holes() {
    let (arena, table) = fresh();
    let pin = pin(0);
    map(&table, &arena, &pin, pages(10, 2), foreign(100), Level::PAGE).unwrap();
    map(&table, &arena, &pin, pages(13, 1), foreign(200), Level::PAGE).unwrap();
    let mut reserve = Reserve::new(&arena, &pin);
    reprotect(&table, &arena, &pin, pages(13, 1), Protection::USER_CODE).unwrap();
    let far = pages((1 << 30) + 7, 4);
    let changed = table
        .relocate(arena.by(&pin), &mut reserve, pages(10, 4), far, MovedRegions::default(), |changed| changed)
        .unwrap();
    assert_eq!(changed.stale, Some(pages(10, 4)));
    let found: [_; 4] = core::array::from_fn(|page| find(&table, &arena, far.first + page as u64));
    let data = |number| Some((foreign(number), Level::PAGE, Protection::USER_DATA));
    assert_eq!(found, [data(100), data(101), None, Some((foreign(200), Level::PAGE, Protection::USER_CODE))]);
    assert_eq!(find(&table, &arena, 10), None);
    let occupied = table.relocate(
        arena.by(&pin),
        &mut reserve,
        far,
        pages(far.first + 512, 4),
        MovedRegions::default(),
        |changed| changed,
    );
    assert!(occupied.is_ok());
    map(&table, &arena, &pin, pages(11, 1), foreign(1), Level::PAGE).unwrap();
    let occupied = table.relocate(
        arena.by(&pin),
        &mut reserve,
        pages(far.first + 512, 4),
        pages(10, 4),
        MovedRegions::default(),
        |changed| changed,
    );
    assert_eq!(occupied.err(), Some(RelocateError::Occupied { page: 11 }));
    drop(reserve);
    finish(&table, &arena);
}

#[test]
fn relocated_large_leaves_stay_large_or_stay_put() {
    let (arena, table) = fresh();
    let pin = pin(0);
    map(&table, &arena, &pin, pages(HUGE, 2 * HUGE), foreign(8 * HUGE), Level::HUGE).unwrap();
    let mut reserve = Reserve::new(&arena, &pin);
    let skewed = table.relocate(
        arena.by(&pin),
        &mut reserve,
        pages(HUGE, HUGE),
        pages(10 * HUGE + 1, HUGE),
        MovedRegions::default(),
        |changed| changed,
    );
    assert_eq!(skewed.err(), Some(RelocateError::WouldSplit(Level::HUGE)));
    // The upper half of the second leaf stays.
    let part = pages(HUGE, HUGE + 256);
    let changed = table
        .relocate(
            arena.by(&pin),
            &mut reserve,
            part,
            pages(10 * HUGE, HUGE + 256),
            MovedRegions::default(),
            |changed| changed,
        )
        .unwrap();
    assert!(changed.retired.tables.is_empty());
    let found = |page| find(&table, &arena, page).map(|found| (found.0, found.1));
    assert_eq!(found(10 * HUGE + 3), Some((foreign(8 * HUGE + 3), Level::HUGE)));
    assert_eq!(found(11 * HUGE + 255), Some((foreign(9 * HUGE + 255), Level::PAGE)));
    assert_eq!(found(2 * HUGE + 255), None);
    assert_eq!(found(2 * HUGE + 256), Some((foreign(9 * HUGE + 256), Level::PAGE)));
    drop(reserve);
    finish(&table, &arena);
}

#[test]
fn walks_hold_tables_back() {
    let walks = Walks::new();
    let (first, second) = (pin(0), pin(3));
    let outer = walks.enter(&first);
    drop(walks.enter(&first));
    assert!(!walks.wait_for_others(&second, || {}), "the outer walk is still under way");
    drop(outer);
    let guard = core::cell::Cell::new(Some(walks.enter(&second)));
    assert!(!walks.wait_for_others(&second, || panic!("it would wait for itself")));
    assert!(walks.wait_for_others(&first, || drop(guard.take())));
}
