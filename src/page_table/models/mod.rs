//! loom models of cursors that meet: in each other's entries, beside each other, and with walks.
//! Tables have two entries here, so a directory has two: pages 0 and 1, and pages 2 and 3.

mod cursors;
mod promotion;

use core::ptr::NonNull;
use std::boxed::Box;
use std::vec::Vec;

use loom::sync::{Arc, Mutex};
use loom::thread;
use topomem_percpu::sync::atomic::{AtomicU32, Ordering};
use topomem_percpu::{CpuId, CpuPin};
use x86_64::PhysAddr;
use x86_64::structures::paging::PhysFrame;

use super::table::Table as TablePage;
use super::*;

const FRAMES: usize = 8;

/// What an entry of a free frame says: a leaf that nobody maps.
const POISON: RawEntry = RawEntry(0xdead_d001);

/// Tables that loom knows. Frames 1 to `FRAMES`.
struct Memory {
    tables: Box<[TablePage]>,
    aux: Box<[AtomicU32]>,
    free: Mutex<Vec<u64>>,
}

fn frame(number: u64) -> PhysFrame {
    PhysFrame::containing_address(PhysAddr::new(number * 4096))
}

fn number(frame: PhysFrame) -> usize {
    frame.start_address().as_u64() as usize / 4096
}

impl Memory {
    fn new() -> Memory {
        let memory = Memory {
            tables: (0..=FRAMES).map(|_| TablePage::new()).collect(),
            aux: (0..=FRAMES).map(|_| AtomicU32::new(0)).collect(),
            free: Mutex::new((1..=FRAMES as u64).rev().collect()),
        };
        memory.tables.iter().for_each(poison);
        memory
    }

    fn allocated(&self) -> usize {
        FRAMES - self.free.lock().unwrap().len()
    }
}

fn poison(table: &TablePage) {
    (0..ENTRIES).for_each(|index| table.store(index, POISON));
}

// SAFETY: a frame is in the free list or handed out once; the tables live as long as `self`.
unsafe impl TableMemory for Memory {
    type Error = core::convert::Infallible;

    fn allocate(&self, _: &CpuPin) -> Result<PhysFrame, Self::Error> {
        let frame = frame(self.free.lock().unwrap().pop().unwrap());
        let table = &self.tables[number(frame)];
        for index in 0..ENTRIES {
            assert_eq!(table.load(index), POISON, "somebody wrote into a free table");
            table.store(index, RawEntry::EMPTY);
        }
        assert_eq!(self.aux(frame).load(Ordering::Relaxed), 0, "freed with a lock or link");
        Ok(frame)
    }

    unsafe fn free(&self, _: &CpuPin, frame: PhysFrame) {
        poison(&self.tables[number(frame)]);
        self.free.lock().unwrap().push(number(frame) as u64);
    }

    fn direct_map(&self, frame: PhysFrame) -> NonNull<u8> {
        NonNull::from(&self.tables[number(frame)]).cast()
    }

    fn aux(&self, frame: PhysFrame) -> &AtomicU32 {
        &self.aux[number(frame)]
    }

    fn link(&self, frame: PhysFrame) -> u32 {
        number(frame) as u32
    }

    fn frame_of(&self, link: u32) -> PhysFrame {
        frame(u64::from(link))
    }

    fn split_run(&self, _: PhysFrame) {}

    fn join_run(&self, _: PhysFrame) {}

    fn relax(&self) {
        thread::yield_now();
    }
}

fn pin(cpu: usize) -> CpuPin {
    // SAFETY: each thread of a model plays one CPU, and no other plays the same.
    unsafe { CpuPin::new(CpuId::new(cpu).unwrap()) }
}

/// A page table and its memory, shared by a model's threads.
struct Space {
    memory: Memory,
    table: PageTable<X64<4>>,
}

const ATTRIBUTES: Attributes =
    Attributes { protection: Protection::USER_DATA, reach: Reach::Space, ownership: Ownership::Borrowed };

/// The frame that page 0 is mapped to; the others follow.
const BASE: u64 = 64;

impl Space {
    /// One whose directory is there.
    fn new() -> Arc<Space> {
        let memory = Memory::new();
        let table = PageTable::new(&memory, &pin(0), RootEntries::Own).unwrap();
        let space = Space { memory, table };
        assert!(space.map(0, 2, 3, Level::HUGE));
        space.clear(0, 2, 3);
        assert_eq!(space.memory.allocated(), 3);
        Arc::new(space)
    }

    /// Maps pages `first..=last` with leaves up to `largest`, unless one is mapped.
    fn map(&self, cpu: usize, first: u64, last: u64, largest: Level) -> bool {
        let mut backing =
            Contiguous { first_page: first, frame: frame(BASE + first), largest, attributes: ATTRIBUTES };
        let pin = pin(cpu);
        let mut reserve = Reserve::new(&self.memory, &pin);
        match self.table.fill(&self.memory, &mut reserve, Pages { first, last }, &mut backing) {
            Ok(replaced) => {
                self.free(&pin, replaced);
                true
            }
            Err(FillError::Occupied { .. }) => false,
            Err(FillError::Tables(never)) => match never {},
        }
    }

    /// Unmaps pages `first..=last`; how many were mapped.
    fn clear(&self, cpu: usize, first: u64, last: u64) -> u64 {
        let pin = pin(cpu);
        let mut changed = Changed::NOTHING;
        let mut reserve = Reserve::new(&self.memory, &pin);
        let Ok(()) = self.table.clear(&self.memory, &mut reserve, Pages { first, last }, &mut changed);
        self.free(&pin, changed.retired.tables);
        changed.pages
    }

    /// Promotes pages 0 and 1, and calls `announce` before anybody changes the leaf.
    fn promote(&self, cpu: usize, announce: impl FnOnce()) -> bool {
        let promoted =
            self.table.promote(&self.memory, Pages { first: 0, last: 1 }, Level::HUGE, |changed| {
                announce();
                changed
            });
        promoted.is_ok_and(|changed| {
            self.free(&pin(cpu), changed.retired.tables);
            true
        })
    }

    /// Nobody walks: they are free at once.
    fn free(&self, pin: &CpuPin, mut chain: Chain) {
        while let Some(frame) = chain.pop(&self.memory) {
            // SAFETY: it was unlinked, and nobody walks.
            unsafe { self.memory.free(pin, frame) };
        }
    }

    /// The directory of pages 0 to 3.
    fn directory(&self) -> &TablePage {
        [Level::FOURTH, Level::GIANT].into_iter().fold(
            &self.memory.tables[number(self.table.root())],
            |table, level| match X64::<4>::decode(table.load(0), level) {
                Entry::Table(next) => &self.memory.tables[number(next)],
                other => panic!("{other:?} on the way"),
            },
        )
    }

    fn find(&self, page: u64) -> Option<(u64, Level)> {
        let walks = Walks::new();
        let pin = pin(0);
        let (leaf, level) = self.table.walk(&self.memory, &walks.enter(&pin), page)?;
        Some((number(leaf.frame) as u64 + page % level.pages(), level))
    }

    /// Nothing is left claimed, locked or allocated, but for the root.
    fn finish(&self) {
        self.clear(0, 0, 15);
        assert_eq!(self.memory.allocated(), 1, "tables leaked");
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
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(model);
}
