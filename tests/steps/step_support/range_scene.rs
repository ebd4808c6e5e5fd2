//! What a stepped operation on kernel ranges acts on: a few addresses, all of whose highest pages three CPUs use.

use std::array;
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use topomem::ranges::{KernelRanges, RangeError, RangeRequest, RangesConfig};
use topomem::sim::Sim;
use topomem::{CpuPin, PageRange, PageSize, VirtAddr};
use topomem_stepper::masked;

use super::computer::{CPUS, Computer, KERNEL, PLACES, on};
use super::machine::Machine;

type Ranges = KernelRanges<&'static Computer>;

/// Pages of addresses; the last one is none's. Short ranges lie at the high end.
const ADDRESSES: u64 = 1024;
/// The first of the pages that CPUs use.
const USED: u64 = ADDRESSES - PLACES as u64;

fn addresses() -> PageRange {
    let start = VirtAddr::new_truncate(Sim::WINDOW.as_u64() + (256 << 30));
    PageRange::new(start, ADDRESSES / 512, PageSize::Size2MiB).unwrap()
}

fn page(index: u64) -> VirtAddr {
    VirtAddr::new_truncate(addresses().start().as_u64() + index * 4096)
}

/// A range that somebody holds.
#[derive(Clone, Copy)]
struct Owned {
    /// Its first page, counted from the first address.
    first: u64,
    pages: u64,
    /// What its pages say, beside their place in the range.
    name: u64,
}

/// Ranges that somebody holds, in a fixed place.
#[derive(Default)]
pub(crate) struct Held {
    ranges: [AtomicU64; 16],
    count: AtomicUsize,
}

impl Held {
    fn push(&self, range: Owned) {
        let count = self.count.load(Relaxed);
        self.ranges[count].store(range.first << 48 | range.pages << 32 | range.name, Relaxed);
        self.count.store(count + 1, Relaxed);
    }

    fn pop(&self) -> Option<Owned> {
        let count = self.count.load(Relaxed).checked_sub(1)?;
        self.count.store(count, Relaxed);
        let word = self.ranges[count].load(Relaxed);
        Some(Owned { first: word >> 48, pages: word >> 32 & 0xffff, name: word & 0xffff_ffff })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count.load(Relaxed) == 0
    }

    /// Returns the number of pages of the ranges.
    pub(crate) fn pages(&self) -> u64 {
        let words = &self.ranges[..self.count.load(Relaxed)];
        words.iter().map(|word| word.load(Relaxed) >> 32 & 0xffff).sum()
    }
}

pub(crate) struct Scene {
    machine: Machine,
    pub(crate) ranges: &'static Ranges,
    /// What the operation allocated.
    pub(crate) ours: Held,
    /// What the operation is to free or to change.
    pub(crate) ready: Held,
    /// What the context allocated.
    pub(crate) theirs: Held,
    /// What the context may free.
    pub(crate) spare: Held,
    /// What takes the other addresses, for as long as the scene is there.
    filler: Held,
    names: AtomicU64,
    vacant: Option<u64>,
}

impl Scene {
    pub(crate) fn new() -> Scene {
        let machine = Machine::take(|| {
            // The last place is not one of the addresses.
            array::from_fn(|place| if place == KERNEL { Sim::WINDOW } else { page(USED + place as u64) })
        });
        let ranges = machine.service.kernel_ranges().unwrap_or_else(|| {
            on(0, |pin| machine.service.add_kernel_ranges(pin, &RangesConfig::of(addresses())).unwrap())
        });
        let held = Held::default;
        let mut scene = Scene {
            machine,
            ranges,
            ours: held(),
            ready: held(),
            theirs: held(),
            spare: held(),
            filler: held(),
            names: AtomicU64::new(0),
            vacant: None,
        };
        // The service keeps some of what it makes first, page tables among it.
        scene.fill();
        scene.empty(&scene.filler);
        scene.end();
        for _ in 0..2 {
            (0..CPUS).for_each(|cpu| {
                scene.take(cpu, 3, &scene.ours);
                scene.allocate(cpu);
            });
            scene.end();
        }
        scene.vacant = scene.ranges.stats().vacant_pages;
        scene.machine.note_allocated();
        scene
    }

    /// The same, with addresses for four ranges of three pages, which are those that CPUs use.
    pub(crate) fn crowded() -> Scene {
        let mut scene = Scene::new();
        scene.fill();
        scene.vacant = scene.ranges.stats().vacant_pages;
        assert_eq!(scene.vacant, Some(4 * 4));
        scene.machine.note_allocated();
        scene
    }

    /// Takes all addresses but those of four ranges of three pages.
    fn fill(&self) {
        (0..4).for_each(|_| self.take(0, 3, &self.ours));
        // What is left below, in two ranges without pages of 2 MiB.
        self.take(0, 500, &self.filler);
        self.take(0, 505, &self.filler);
        self.end();
    }

    /// The address of RAM behind a page of the addresses.
    fn behind(&self, pin: &CpuPin, index: u64) -> u64 {
        let space = self.service.kernel_space().unwrap();
        space.translate(pin, page(index)).unwrap().address.as_u64()
    }

    /// The range is the caller's: all of its pages are mapped, and no CPU has an older translation of them. Writes
    /// the range's name to it, and returns it.
    fn name(&self, pin: &CpuPin, first: u64, pages: u64) -> Owned {
        let name = self.names.fetch_add(1, Relaxed) & 0xffff_ffff;
        masked(|| {
            for index in 0..pages {
                self.assert_fresh(first + index);
                self.computer.word(self.behind(pin, first + index) + 64).store(name << 16 | index, Relaxed);
            }
        });
        Owned { first, pages, name }
    }

    /// Checks that each CPU has no translation of the page but what is mapped now.
    fn assert_fresh(&self, index: u64) {
        let Some(place) = index.checked_sub(USED).filter(|&place| place < KERNEL as u64) else { return };
        for cpu in 0..CPUS {
            let (cached, mapped) =
                (self.computer.cached(cpu, place as usize), self.computer.walk(cpu, place as usize));
            assert!(
                cached == 0 || cached == mapped,
                "cpu{cpu} has {cached:#x} for page {index}, not {mapped:#x}"
            );
        }
    }

    /// Checks that the first `pages` pages are what their owner wrote.
    fn check(&self, pin: &CpuPin, range: Owned, first: u64, pages: u64) {
        masked(|| {
            for index in 0..pages {
                let found = self.computer.word(self.behind(pin, first + index) + 64).load(Relaxed);
                assert_eq!(
                    found,
                    range.name << 16 | index,
                    "page {index} of a range changed under its owner"
                );
            }
        });
    }

    /// Allocates a range as `request` says.
    pub(crate) fn try_take(
        &self,
        cpu: usize,
        request: &RangeRequest,
        pages: u64,
        held: &Held,
    ) -> Result<(), RangeError> {
        on(cpu, |pin| {
            let start = self.ranges.allocate(pin, request)?.into_start();
            held.push(self.name(pin, index_of(start), pages));
            Ok(())
        })
    }

    /// Allocates a range where nothing can be in the way.
    pub(crate) fn take(&self, cpu: usize, pages: u64, held: &Held) {
        self.try_take(cpu, &RangeRequest::pages(pages), pages, held).unwrap();
    }

    /// The same zeroed: no word that no CPU uses is anything else.
    pub(crate) fn take_zeroed(&self, cpu: usize, pages: u64, held: &Held) {
        on(cpu, |pin| {
            let start = self.ranges.allocate(pin, &RangeRequest::pages(pages).zeroed()).unwrap().into_start();
            masked(|| {
                for index in index_of(start)..index_of(start) + pages {
                    let frame = self.behind(pin, index);
                    let zero = |word: u64| self.computer.word(frame + 8 * word).load(Relaxed) == 0;
                    assert!((8..512).all(zero), "page {index} is not zero");
                }
            });
            held.push(self.name(pin, index_of(start), pages));
        });
    }

    /// Frees the newest range of `held`, if there is one.
    pub(crate) fn give(&self, cpu: usize, held: &Held) {
        let Some(range) = held.pop() else { return };
        on(cpu, |pin| {
            self.check(pin, range, range.first, range.pages);
            // SAFETY: it is the caller's, who uses it no more.
            unsafe { self.ranges.free_at(pin, page(range.first)) }.unwrap();
        });
    }

    /// Gives the newest range of `held` another length. It keeps what it had.
    pub(crate) fn resize(&self, cpu: usize, held: &Held, pages: u64) -> Result<(), RangeError> {
        let Some(range) = held.pop() else { return Ok(()) };
        on(cpu, |pin| {
            // SAFETY: it is the caller's; what is given up is not used any more.
            let resized =
                unsafe { self.ranges.resize_at(pin, page(range.first), &RangeRequest::pages(pages)) };
            let start = match resized {
                Ok(start) => start,
                Err(error) => {
                    held.push(range);
                    return Err(error);
                }
            };
            let first = index_of(start);
            self.check(pin, range, first, range.pages.min(pages));
            held.push(self.name(pin, first, pages));
            Ok(())
        })
    }

    /// In a crowded scene, takes the addresses that are left, and frees a range that every CPU has used.
    pub(crate) fn crowd(&self) {
        (0..3).for_each(|_| self.take(0, 3, &self.spare));
        self.take(0, 3, &self.ready);
        self.use_all();
        self.give(0, &self.ready);
        assert_eq!(self.ranges.stats().vacant_pages, Some(0));
    }

    /// Every CPU reads and writes all that is mapped of the pages they use.
    pub(crate) fn use_all(&self) {
        (0..CPUS).for_each(|cpu| self.access(cpu));
    }

    /// Unmaps what was freed, as `cpu`.
    pub(crate) fn flush(&self, cpu: usize) {
        on(cpu, |pin| _ = self.ranges.flush(pin));
    }

    /// Frees everything, and checks that all frames and addresses are there, and no translation.
    pub(crate) fn settle(&self) {
        self.end();
        assert_eq!(self.ranges.stats().vacant_pages, self.vacant);
        self.machine.assert_allocated();
    }

    /// Frees all ranges of `held`.
    fn empty(&self, held: &Held) {
        while !held.is_empty() {
            self.give(1, held);
        }
    }

    fn end(&self) {
        [&self.ours, &self.ready, &self.theirs, &self.spare].into_iter().for_each(|held| self.empty(held));
        for _ in 0..2 {
            (0..CPUS).for_each(|cpu| {
                self.computer.deliver(cpu);
                self.flush(cpu);
            });
        }
        (0..CPUS).for_each(|cpu| self.computer.deliver(cpu));
        assert!(on(0, |pin| !self.ranges.flush(pin).waiting));
        on(0, |pin| self.ranges.validate(pin)).unwrap();
        let stats = self.ranges.stats();
        assert_eq!((stats.live_pages, stats.freed_pages), (self.filler.pages(), 0));
        for (cpu, place) in (0..CPUS).flat_map(|cpu| (0..KERNEL).map(move |place| (cpu, place))) {
            let found = (self.computer.cached(cpu, place), self.computer.walk(cpu, place));
            assert_eq!(found, (0, 0), "cpu{cpu}, place {place}: a freed page");
        }
        self.give_all_back();
    }
}

/// Which page of the addresses begins at `start`.
fn index_of(start: VirtAddr) -> u64 {
    (start.as_u64() - addresses().start().as_u64()) / 4096
}

impl Drop for Scene {
    /// Leaves the addresses to the machine's next scene.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.empty(&self.filler);
            self.end();
        }
    }
}

impl Deref for Scene {
    type Target = Machine;

    fn deref(&self) -> &Machine {
        &self.machine
    }
}
