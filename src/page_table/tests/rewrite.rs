//! Marks, regions of leaves, and copies: what changes, and what does not if memory runs out.

use core::convert::Infallible;
use core::ops::ControlFlow;
use std::vec::Vec;

use super::*;
use crate::budget::Budget;

fn region(bits: u32) -> RegionId {
    RegionId::new(bits).unwrap()
}

/// Makes all pages of one region, mapped ones too.
pub(super) struct Mark(pub(super) RegionId);

impl Rewrite for Mark {
    type Stop = Infallible;
    const CHECKS: bool = false;
    const UNMAPS: bool = true;

    #[inline]
    fn gives_regions(&self) -> bool {
        false
    }

    fn check(&self, _: Found, _: Pages) -> Result<bool, Infallible> {
        Ok(true)
    }

    fn rewrite(&mut self, _: Found, _: Pages) -> Result<Becomes, Infallible> {
        Ok(Becomes::Reserved(self.0))
    }
}

/// Gives pages of regions another region, up to a vacant one.
struct Rename(RegionId);

impl Rewrite for Rename {
    type Stop = u64;
    const CHECKS: bool = false;
    const UNMAPS: bool = false;

    #[inline]
    fn gives_regions(&self) -> bool {
        true
    }

    fn check(&self, found: Found, _: Pages) -> Result<bool, u64> {
        Ok(found != Found::Vacant)
    }

    fn rewrite(&mut self, found: Found, pages: Pages) -> Result<Becomes, u64> {
        match found {
            Found::Vacant => Err(pages.first),
            Found::Reserved(_) => Ok(Becomes::Reserved(self.0)),
            Found::Mapped(leaf, _) => Ok(Becomes::Mapped(leaf.protection, self.0)),
        }
    }
}

/// What each of the pages is, and the levels at which that stands.
fn look(table: &Table, arena: &Arena, pages: Pages) -> Vec<(Pages, Found)> {
    let mut seen = Vec::new();
    table.visit(arena.by(&pin(0)), pages, |part, found| {
        seen.push((part, found));
        ControlFlow::Continue(())
    });
    seen
}

fn rewrite<R: Rewrite>(
    table: &Table,
    arena: &Arena,
    pages: Pages,
    mut rewrite: R,
) -> Result<Result<(), R::Stop>, RewriteError<R::Stop, arena::Empty>> {
    let (pin, mut changed) = (pin(0), Changed::NOTHING);
    let mut reserve = Reserve::new(arena, &pin);
    let done = match table.rewrite_at_once(arena.by(&pin), pages, &mut rewrite, &mut changed, |_| ()) {
        Some(done) => done.map_err(RewriteError::Refused)?,
        None => table.rewrite(arena.by(&pin), &mut reserve, pages, &mut rewrite, &mut changed, |_| ())?,
    };
    drop(reserve);
    arena.free_changed(&pin, changed);
    Ok(done.end)
}

/// Maps the page to a frame of the arena, which it owns.
fn map_page(table: &Table, arena: &Arena, page: u64) -> Result<(), RewriteError<(), arena::Empty>> {
    let pin = pin(0);
    let frame = arena.allocate(&pin).map_err(RewriteError::Tables)?;
    let leaf =
        Leaf { frame, protection: Protection::USER_DATA, reach: Reach::Space, ownership: Ownership::Owned };
    let by = arena.by(&pin);
    if table.map_marked(by, page, |_| Some(leaf)) {
        return Ok(());
    }
    let decide = |found, _| if found == Found::Vacant { Err(()) } else { Ok(Answer::Map(leaf, Level::PAGE)) };
    let mut reserve = Reserve::new(arena, &pin);
    let alone = Pages { first: page, last: page };
    let mut neighbours = Neighbours { page, pages: alone, next: || None };
    let mut changed = Changed::NOTHING;
    let mapped = table.resolve(by, &mut reserve, &mut neighbours, decide, &mut changed, |_| ());
    drop(reserve);
    arena.free_changed(&pin, changed);
    let unused = match &mapped {
        Ok(Answered { replaced: None, .. }) => None,
        Ok(Answered { replaced: Some(leaf), .. }) => match leaf.ownership {
            Ownership::Shared => arena.drop_share(leaf.frame, Level::PAGE).map(|(frame, _)| frame),
            _ => Some(leaf.frame),
        },
        Err(_) => Some(frame),
    };
    if let Some(frame) = unused {
        // SAFETY: it is mapped nowhere.
        unsafe { arena.free(&pin, frame) };
    }
    mapped.map(|answered| answered.recorded)
}

/// Lets `operation` run out of memory after each number of allocations, and checks that nothing has
/// changed; then lets it succeed.
fn exhaust<T, E: core::fmt::Debug>(
    table: &Table,
    arena: &Arena,
    pages: Pages,
    mut operation: impl FnMut() -> Result<T, E>,
) -> T {
    for allocations in 0.. {
        let (before, frames) = (look(table, arena, pages), arena.allocated());
        arena.fail_after(allocations);
        let outcome = operation();
        arena.fail_after(u64::MAX);
        match outcome {
            Ok(done) => return done,
            Err(_) => {
                assert_eq!(look(table, arena, pages), before, "after {allocations} allocations");
                assert_eq!(arena.allocated(), frames, "frames leaked after {allocations} allocations");
            }
        }
    }
    unreachable!("it succeeds some time")
}

/// 2 MiB before and after 1 GiB.
const FIRST: u64 = (1 << 18) - 512;
const ALL: Pages = Pages { first: FIRST, last: FIRST + 1023 };

#[test]
#[cfg_attr(miri, ignore = "looks at all tables after each allocation: minutes")]
fn memory_that_runs_out_changes_nothing() {
    let arena = Arena::new(200);
    let table = Table::new(&arena, &pin(0), RootEntries::Own).unwrap();
    let all = Pages { first: 0, last: (1 << 35) - 1 };
    // A mark of two whole directories' entries, cut in the middle of each.
    exhaust(&table, &arena, all, || rewrite(&table, &arena, pages(0, 1 << 27), Mark(region(1)))).unwrap();
    assert_eq!(arena.allocated(), 1, "one entry of the root");
    exhaust(&table, &arena, all, || rewrite(&table, &arena, pages(FIRST + 5, 700), Mark(region(2)))).unwrap();
    for page in [0, 3, 5, 511, 512, 1023] {
        exhaust(&table, &arena, all, || map_page(&table, &arena, FIRST + page));
    }
    // Leaves of one table come to be of two regions.
    exhaust(&table, &arena, all, || rewrite(&table, &arena, pages(FIRST + 4, 600), Rename(region(3))))
        .unwrap();
    let of = |page| match look(&table, &arena, pages(FIRST + page, 1))[0].1 {
        Found::Vacant => None,
        Found::Reserved(region) => Some(region),
        Found::Mapped(_, region) => region,
    };
    for (page, expected) in
        [(0, 1), (3, 1), (4, 3), (5, 3), (511, 3), (603, 3), (604, 2), (705, 1), (1023, 1)]
    {
        assert_eq!(of(page), Some(region(expected)), "page {page}");
    }
    // A copy, and what the first write to a shared page finds.
    let copy = exhaust(&table, &arena, all, || {
        let copy = Table::new(&arena, &pin(0), RootEntries::Own).map_err(CopyError::Tables)?;
        match copy_to(&table, &arena, &copy) {
            Ok(()) => Ok(copy),
            Err(error) => {
                // SAFETY: nobody uses it.
                unsafe { arena.free(&pin(0), copy.root()) };
                Err(error)
            }
        }
    });
    assert_eq!(look(&copy, &arena, ALL), look(&table, &arena, ALL));
    let shared = look(&copy, &arena, pages(FIRST + 5, 1))[0].1;
    assert!(matches!(shared, Found::Mapped(leaf, _) if leaf.ownership == Ownership::Shared));
    exhaust(&copy, &arena, all, || map_page(&copy, &arena, FIRST + 5));
    exhaust(&table, &arena, all, || rewrite(&table, &arena, pages(FIRST + 3, 3), Mark(region(4)))).unwrap();
    for table in [&table, &copy] {
        let changed = clear(table, &arena, &pin(0), all).unwrap();
        arena.free_changed(&pin(0), changed);
    }
    assert_eq!(arena.allocated(), 2, "frames leaked");
}

fn copy_to(table: &Table, arena: &Arena, copy: &Table) -> Result<(), CopyError<arena::Empty>> {
    let (pin, mut changed) = (pin(0), Changed::NOTHING);
    let all = Pages { first: 0, last: (1 << 35) - 1 };
    let mut reserve = Reserve::new(arena, &pin);
    let copy = Copied { pages: all, to: copy, inherited: |_| Inherited::Contents };
    table.copy_to(arena.by(&pin), &mut reserve, copy, &mut changed, |_| ()).map(drop)
}

/// A copy that ends half-way keeps what it has: dropped, it leaves its source as it was.
#[test]
#[cfg_attr(miri, ignore = "looks at all tables: minutes")]
fn a_copy_that_meets_a_full_count_is_taken_apart() {
    let arena = Arena::new(200);
    let pin = pin(0);
    let new = || Table::new(&arena, &pin, RootEntries::Own).unwrap();
    let table = new();
    let all = Pages { first: 0, last: (1 << 35) - 1 };
    rewrite(&table, &arena, pages(FIRST, 1024), Mark(region(1))).unwrap().unwrap();
    // Marks before leaves, between them, and in both tables.
    let mapped = [3, 4, 7, 511, 513, 600].map(|page| FIRST + page);
    mapped.iter().for_each(|&page| map_page(&table, &arena, page).unwrap());
    let holders = |page| arena.holders(find(&table, &arena, page).unwrap().0.start_address().as_u64() / 4096);
    let frames = arena.allocated();
    let dismantle = |copy: Table| {
        let mut changed = Changed::NOTHING;
        let users = Users::<fn(Pages, Level) -> Forgotten>::None;
        let outcome = copy.dismantle(&arena, all, &mut Budget::unlimited(), &mut changed, users);
        assert_eq!(outcome, Dismantled::Whole);
        arena.free_changed(&pin, changed);
        // SAFETY: nobody uses it.
        unsafe { arena.free(&pin, copy.root()) };
    };
    let first = new();
    copy_to(&table, &arena, &first).unwrap();
    assert_eq!(look(&first, &arena, ALL), look(&table, &arena, ALL));
    arena.most_holders(2);
    // Each time one more of the frames has only one holder, until all have.
    for (freed, &page) in mapped.iter().enumerate() {
        let second = new();
        assert_eq!(copy_to(&table, &arena, &second), Err(CopyError::SharesFull));
        assert_eq!(mapped.iter().filter(|&&page| holders(page) == Some(2)).count(), mapped.len());
        dismantle(second);
        let held = mapped.iter().filter(|&&page| holders(page) == Some(2)).count();
        assert_eq!(held, mapped.len() - freed, "a share was dropped that the copy had not");
        let changed = clear(&first, &arena, &pin, Pages { first: page, last: page }).unwrap();
        arena.free_changed(&pin, changed);
    }
    let second = new();
    copy_to(&table, &arena, &second).unwrap();
    assert_eq!(look(&second, &arena, ALL), look(&table, &arena, ALL));
    dismantle(second);
    dismantle(first);
    assert_eq!(arena.allocated(), frames);
    assert!(mapped.iter().all(|&page| holders(page) == Some(1)));
    let changed = clear(&table, &arena, &pin, all).unwrap();
    arena.free_changed(&pin, changed);
    assert_eq!(arena.allocated(), 1);
}

#[test]
fn a_change_ends_at_a_vacant_page() {
    let arena = Arena::new(100);
    let table = Table::new(&arena, &pin(0), RootEntries::Own).unwrap();
    rewrite(&table, &arena, pages(FIRST, 10), Mark(region(1))).unwrap().unwrap();
    rewrite(&table, &arena, pages(FIRST + 12, 800), Mark(region(1))).unwrap().unwrap();
    for page in [2, 3, 5, 9, 12, 13, 600] {
        map_page(&table, &arena, FIRST + page).unwrap();
    }
    assert_eq!(rewrite(&table, &arena, pages(FIRST + 3, 800), Rename(region(2))), Ok(Err(FIRST + 10)));
    let seen = look(&table, &arena, pages(FIRST, 820));
    for (part, found) in seen {
        let expected = match part.first - FIRST {
            0..3 | 12..812 => Some(region(1)),
            3..10 => Some(region(2)),
            _ => None,
        };
        assert_eq!(found.region(), expected, "{part:?}");
    }
    // At once beyond 2 MiB, and from a hole of 1 GiB on.
    assert_eq!(rewrite(&table, &arena, pages(FIRST + 12, 900), Rename(region(3))), Ok(Err(FIRST + 812)));
    let far = (1 << 18) * 5 + 7;
    assert_eq!(rewrite(&table, &arena, pages(far, 1 << 19), Rename(region(3))), Ok(Err(far)));
    finish(&table, &arena);
}
