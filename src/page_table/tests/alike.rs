//! Pages that are changed as the one before them was come to what each comes to by itself.

use std::vec::Vec;

use super::marks::{mark, marks};
use super::*;

/// Permits pages an access; whether pages that are alike are found to be so does not matter.
struct Permit<const ALIKE: bool>(Access);

impl<const ALIKE: bool> Rewrite for Permit<ALIKE> {
    type Stop = u64;
    const CHECKS: bool = false;
    const UNMAPS: bool = false;
    const ALIKE: bool = ALIKE;

    fn gives_regions(&self) -> bool {
        true
    }

    fn check(&self, _: Found, _: Pages) -> Result<bool, u64> {
        Ok(true)
    }

    fn rewrite(&mut self, found: Found, pages: Pages) -> Result<Becomes, u64> {
        // Regions and what owned frames permit depend on what was there.
        let renamed = |region: RegionId| RegionId::new(region.get() + 8).unwrap();
        match found {
            Found::Reserved(region) => Ok(Becomes::Reserved(renamed(region))),
            Found::Mapped(leaf, Some(region)) => {
                let access = match leaf.ownership {
                    Ownership::Owned => self.0,
                    _ => self.0.without_writes(),
                };
                Ok(Becomes::Mapped(Protection::user(access), renamed(region)))
            }
            Found::Vacant | Found::Mapped(_, None) => Err(pages.first),
        }
    }
}

const FIRST: u64 = 512 * 7 + 100;
const COUNT: u64 = 80;

/// What can be told apart of the pages' leaves, but for their frames.
type Seen = Vec<(Option<(Protection, Ownership)>, Option<RegionId>, u64)>;

fn look(table: &Table, arena: &Arena) -> Seen {
    let mut seen = Vec::new();
    table.visit(arena.by(&pin(0)), pages(FIRST, COUNT), |part, found| {
        seen.extend((part.first..=part.last).map(|page| match found {
            Found::Vacant => (None, None, 0),
            Found::Reserved(region) => (None, Some(region), 0),
            Found::Mapped(leaf, region) => {
                let noted = marks(table, arena, page, Level::PAGE);
                (Some((leaf.protection, leaf.ownership)), region, noted)
            }
        }));
        core::ops::ControlFlow::Continue(())
    });
    seen
}

fn permit<const ALIKE: bool>(
    table: &Table,
    arena: &Arena,
    pages: Pages,
    access: Access,
) -> (Result<(), u64>, Option<Pages>) {
    let (pin, mut changed, mut permit) = (pin(0), Changed::NOTHING, Permit::<ALIKE>(access));
    let mut reserve = Reserve::new(arena, &pin);
    let by = arena.by(&pin);
    let done = match table.rewrite_at_once(by, pages, &mut permit, &mut changed, |_| ()) {
        Some(done) => done.unwrap(),
        None => table.rewrite(by, &mut reserve, pages, &mut permit, &mut changed, |_| ()).unwrap(),
    };
    (done.end, changed.stale)
}

/// Maps some of the pages, to frames that follow each other or not, marked by the hardware or not.
fn fill(table: &Table, arena: &Arena, mut random: impl FnMut(u64) -> u64) {
    for page in FIRST..FIRST + COUNT {
        let ownership = if random(4) == 0 { Ownership::Borrowed } else { Ownership::Owned };
        let protection =
            if ownership == Ownership::Owned { Protection::USER_DATA } else { Protection::USER_READ_ONLY };
        let frame = foreign(0x10_0000 + random(1 << 16));
        let leaf = Leaf { frame, protection, reach: Reach::Space, ownership };
        if random(6) != 0 {
            assert!(table.map_marked(arena.by(&pin(0)), page, |_| Some(leaf)));
        }
        if random(3) == 0 && look(table, arena)[(page - FIRST) as usize].0.is_some() {
            mark(table, arena, page, Level::PAGE, if random(2) == 0 { 1 << 5 } else { 1 << 5 | 1 << 6 });
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "many changes of many pages: minutes")]
fn pages_come_to_the_same_one_by_one_and_as_the_one_before() {
    let accesses = [Access::READ, Access::NONE, Access::WRITE, Access::EXECUTE, Access::NONE, Access::WRITE];
    for seed in 1..40 {
        let (arena, pin) = (Arena::new(100), pin(0));
        let new = || {
            let table = Table::new(&arena, &pin, RootEntries::Own).unwrap();
            let mut reserve = Reserve::new(&arena, &pin);
            let mut changed = Changed::NOTHING;
            let (all, mut first) = (pages(FIRST, COUNT), rewrite::Mark(RegionId::new(1).unwrap()));
            table.rewrite(arena.by(&pin), &mut reserve, all, &mut first, &mut changed, |_| ()).unwrap();
            drop(reserve);
            let mut state = seed;
            fill(&table, &arena, |below| {
                state = u64::wrapping_mul(state, 6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) % below
            });
            table
        };
        let (alike, single) = (new(), new());
        assert_eq!(look(&alike, &arena), look(&single, &arena));
        for (turn, access) in (seed..).zip(accesses) {
            let part = pages(FIRST + turn % 5 * 7, COUNT - turn % 5 * 7 - turn % 11);
            let made = permit::<true>(&alike, &arena, part, access);
            assert_eq!(made, permit::<false>(&single, &arena, part, access), "seed {seed}, {access:?}");
            assert_eq!(look(&alike, &arena), look(&single, &arena), "seed {seed}, {access:?}");
        }
    }
}
