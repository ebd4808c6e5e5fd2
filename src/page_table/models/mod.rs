//! loom models of page tables: of cursors that meet in each other's entries, beside, above and below
//! each other, and of walks that no claim stops. Tables have two entries here, so a directory has
//! two: pages 0 and 1, and pages 2 and 3.

mod arena;
mod cursors;
mod faults;
mod levels;
mod marks;
mod objects;
mod promotion;
mod reclaiming;
mod records;
mod tables;
mod walks;
mod writes;

use arena::{Arena, Empty};
use loom::sync::Arc;
use loom::thread;
use topomem_percpu::{CpuId, CpuPin, PhysAddr, PhysFrame};

use super::tables::table::Table as TablePage;
use super::*;
use crate::budget::Budget;

fn frame(number: u64) -> PhysFrame {
    PhysFrame::containing_address(PhysAddr::new(number * 4096))
}

fn number(frame: PhysFrame) -> u64 {
    frame.start_address().as_u64() / 4096
}

fn pin(cpu: usize) -> CpuPin {
    // SAFETY: each thread of a model plays one CPU, and no other plays the same.
    unsafe { CpuPin::new(CpuId::new(cpu).unwrap()) }
}

/// A page table and its memory, shared by a model's threads.
struct Space {
    memory: Arena,
    table: PageTable<X64<4>>,
}

/// Enough for all tables of a model.
const FRAMES: u64 = 12;

const ATTRIBUTES: Attributes =
    Attributes { protection: Protection::USER_DATA, reach: Reach::Space, ownership: Ownership::Borrowed };

/// The frame that page 0 is mapped to; the others follow.
const BASE: u64 = 64;

impl Space {
    /// One with nothing but a root.
    fn bare() -> Arc<Space> {
        let memory = Arena::new(FRAMES);
        let table = PageTable::new(&memory, &pin(0), RootEntries::Own).unwrap();
        Arc::new(Space { memory, table })
    }

    /// One whose directory is there.
    fn new() -> Arc<Space> {
        let space = Space::bare();
        assert!(space.map(0, 2, 3, Level::HUGE));
        space.clear(0, 2, 3);
        assert_eq!(space.memory.allocated(), 3);
        space
    }

    /// Maps pages `first..=last` with leaves up to `largest`, unless one is mapped.
    fn map(&self, cpu: usize, first: u64, last: u64, largest: Level) -> bool {
        let mut backing =
            Contiguous { first_page: first, frame: frame(BASE + first), largest, attributes: ATTRIBUTES };
        let pin = pin(cpu);
        let mut reserve = Reserve::new(&self.memory, &pin);
        let access = self.memory.by(&pin);
        match self.table.fill(access, &mut reserve, Pages { first, last }, &mut backing, |replaced| replaced)
        {
            Ok(replaced) => {
                self.memory.retire(&pin, replaced);
                true
            }
            Err(FillError::Occupied { .. }) => false,
            Err(FillError::Tables(Empty)) => panic!("too few frames for the model"),
        }
    }

    /// Unmaps pages `first..=last`: how many were mapped, and the tables that were unlinked.
    fn unlink(&self, cpu: usize, first: u64, last: u64) -> (u64, Chain) {
        let pin = pin(cpu);
        let mut changed = Changed::NOTHING;
        let mut reserve = Reserve::new(&self.memory, &pin);
        let (access, pages) = (self.memory.by(&pin), Pages { first, last });
        self.table.clear(access, &mut reserve, pages, &mut changed, |_, _| {}, |_| ()).unwrap();
        (changed.pages, changed.retired.tables)
    }

    /// The same; the tables are freed once no cursor walks through them.
    fn clear(&self, cpu: usize, first: u64, last: u64) -> u64 {
        let (pages, tables) = self.unlink(cpu, first, last);
        self.memory.retire(&pin(cpu), tables);
        pages
    }

    /// Moves pages `first..=last` to the pages from `to` on.
    fn relocate(&self, cpu: usize, first: u64, last: u64, to: u64) {
        let pin = pin(cpu);
        let mut reserve = Reserve::new(&self.memory, &pin);
        let (from, to) = (Pages { first, last }, Pages { first: to, last: to + last - first });
        let moved = self.table.relocate(
            self.memory.by(&pin),
            &mut reserve,
            from,
            to,
            MovedRegions::default(),
            |changed| changed,
        );
        self.memory.retire(&pin, moved.unwrap().retired.tables);
    }

    /// Unlinks the empty tables of pages 0 to 15, calls `announce` for each group with the claims
    /// still held, and returns them.
    fn reclaim(&self, cpu: usize, mut announce: impl FnMut()) -> Chain {
        let (pin, mut tables) = (pin(cpu), Chain::EMPTY);
        let mut budget = Budget::unlimited();
        self.table.reclaim(self.memory.by(&pin), Pages { first: 0, last: 15 }, &mut budget, |changed| {
            announce();
            tables.append(&self.memory, changed.retired.tables);
        });
        tables
    }

    /// Promotes pages 0 and 1, and calls `announce` before anybody changes the leaf.
    fn promote(&self, cpu: usize, announce: impl FnOnce()) -> bool {
        let pin = pin(cpu);
        let (access, pages) = (self.memory.by(&pin), Pages { first: 0, last: 1 });
        let mut reserve = Reserve::new(&self.memory, &pin);
        let promoted = self.table.promote(access, &mut reserve, pages, Level::HUGE, |changed| {
            announce();
            changed
        });
        promoted.is_ok_and(|changed| {
            self.memory.retire(&pin, changed.retired.tables);
            true
        })
    }

    /// The directory of pages 0 to 3.
    fn directory(&self) -> &TablePage {
        [Level::FOURTH, Level::GIANT].into_iter().fold(
            self.memory.table(self.table.root()),
            |table, level| match X64::<4>::decode(table.load(0), level) {
                Entry::Table(next) => self.memory.table(next),
                other => panic!("{other:?} on the way"),
            },
        )
    }

    /// The frame of the table of pages 0 and 1, if there is one.
    fn lowest(&self) -> Option<PhysFrame> {
        let levels = [Level::FOURTH, Level::GIANT, Level::HUGE];
        levels.into_iter().try_fold(self.table.root(), |frame, level| {
            match X64::<4>::decode(self.memory.table(frame).load(0), level) {
                Entry::Table(next) => Some(next),
                _ => None,
            }
        })
    }

    /// How many entries are claimed.
    fn claims(&self) -> usize {
        self.claims_below(self.table.root(), Level::FOURTH)
    }

    fn claims_below(&self, frame: PhysFrame, level: Level) -> usize {
        let of_entry = |index| {
            let raw = self.memory.table(frame).load(index);
            let below = match (X64::<4>::decode(raw, level), level.below()) {
                (Entry::Table(next), Some(below)) => self.claims_below(next, below),
                _ => 0,
            };
            usize::from(raw.0 & X64::<4>::CLAIM != 0) + below
        };
        (0..ENTRIES).map(of_entry).sum()
    }

    fn find(&self, page: u64) -> Option<(u64, Level)> {
        let walks = Walks::new();
        let pin = pin(0);
        let (leaf, level) = self.table.walk(&self.memory, &walks.enter(&pin), page)?;
        Some((number(leaf.frame) + page % level.pages(), level))
    }

    /// Nothing is left claimed or allocated, but for the root.
    fn finish(&self) {
        self.clear(0, 0, 15);
        assert_eq!(self.claims(), 0, "claims leaked");
        self.memory.free_unlinked(&pin(0));
        assert_eq!(self.memory.allocated(), 1, "tables leaked");
        self.memory.check_freed();
    }
}

/// Runs `first` and `second` on a CPU each.
fn race<A, B>(
    space: &Arc<Space>,
    first: impl FnOnce(&Space) -> A + 'static,
    second: impl FnOnce(&Space) -> B,
) -> (A, B)
where
    A: 'static,
{
    let other = Arc::clone(space);
    let thread = thread::spawn(move || first(&other));
    let second = second(space);
    (thread.join().unwrap(), second)
}

fn explore(model: impl Fn() + Send + Sync + 'static) {
    explore_up_to(4, model);
}

/// Explores `model` with at most `preemptions` switches of threads that do not wait.
fn explore_up_to(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}
