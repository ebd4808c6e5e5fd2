//! What stepped operations on regions act on: a space that CPUs 0 and 2 use, another of CPU 1's that shares
//! frames with it, and a plain model of both.

use std::ops::Deref;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering::Relaxed};

use topomem::region::{FaultAccess, FaultError, Kind, MapRequest, PageFault, Placement};
use topomem::sim::Sim;
use topomem::{AddressSpace, VirtAddr};
use topomem_stepper::masked;

use super::computer::{CPUS, Computer, PLACES, PRESENT, WRITABLE, on};
use super::machine::Machine;

pub(crate) type Space = AddressSpace<&'static Computer>;

/// Pages that hold tags, and are the space's alone, or shared: the first [`TAGGED_PAGES`] are both.
pub(crate) const TAGGED: u64 = 0x1000_0000;
const TAGGED_PAGES: u64 = 3;
/// Pages of the same, which operations change.
pub(crate) const CHANGED: u64 = TAGGED + 4;
const CHANGED_PAGES: u64 = 4;
/// A page that maps the frame of zeros, and one that maps nothing.
pub(crate) const ZEROS: u64 = TAGGED + 10;
pub(crate) const UNTOUCHED: u64 = TAGGED + 11;
/// Vacant, in another table.
pub(crate) const MOVED: u64 = TAGGED + 512;
/// Vacant but for a neighbour that stays, in another table: for another CPU.
pub(crate) const ELSEWHERE: u64 = TAGGED + 1024;
/// 4 MiB that are untouched.
pub(crate) const WIDE: u64 = TAGGED + 2048;
pub(crate) const STACK: u64 = TAGGED + (1 << 18);
pub(crate) const HEAP: u64 = TAGGED + (2 << 18);

/// The pages that CPUs use.
const PAGES: [u64; PLACES - 1] = [
    TAGGED,
    TAGGED + 1,
    TAGGED + 2,
    CHANGED,
    CHANGED + 1,
    CHANGED + 2,
    CHANGED + 3,
    ZEROS,
    UNTOUCHED,
    MOVED,
    MOVED + 1,
    MOVED + 2,
    MOVED + 3,
    WIDE + 3,
    STACK - 2,
    HEAP,
];

pub(crate) fn at(page: u64) -> VirtAddr {
    VirtAddr::new_truncate(page << 12)
}

/// What a page must be at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Page {
    Vacant,
    Guard,
    /// Its first word is this.
    Holds(u64),
    /// The same, and it may not be written to.
    ReadOnly(u64),
}

impl Page {
    fn encode(self) -> u64 {
        match self {
            Page::Vacant => 0,
            Page::Guard => 1,
            Page::Holds(word) => word << 2 | 2,
            Page::ReadOnly(word) => word << 2 | 3,
        }
    }

    fn decode(bits: u64) -> Page {
        match (bits & 3, bits >> 2) {
            (0, _) => Page::Vacant,
            (1, _) => Page::Guard,
            (2, word) => Page::Holds(word),
            (_, word) => Page::ReadOnly(word),
        }
    }
}

/// What CPU 1 writes in the other space.
const SIBLING_TAG: u64 = 0x5b;

pub(crate) struct Scene {
    machine: Machine,
    spaces: [AtomicPtr<Space>; 2],
    expected: [[AtomicU64; PAGES.len()]; 2],
}

impl Scene {
    pub(crate) fn new() -> Scene {
        let machine = Machine::take(|| {
            // The last one is in the kernel's half, where nothing is mapped.
            let mut places = [Sim::WINDOW; PLACES];
            places.iter_mut().zip(PAGES).for_each(|(place, page)| *place = at(page));
            places
        });
        let mut scene = Scene { machine, spaces: Default::default(), expected: Default::default() };
        // The service and its heap keep some of what they make first.
        scene.fill();
        (0..CPUS).for_each(|cpu| scene.allocate(cpu));
        scene.end();
        scene.machine.note_allocated();
        scene
    }

    fn get(&self, index: usize) -> &'static Space {
        // SAFETY: it was made from a `Box` that stays until `end`, when nobody uses it any more.
        unsafe { self.spaces[index].load(Relaxed).as_ref() }.unwrap()
    }

    pub(crate) fn space(&self) -> &'static Space {
        self.get(0)
    }

    pub(crate) fn sibling(&self) -> &'static Space {
        self.get(1)
    }

    fn set(&self, index: usize, space: Space) {
        self.spaces[index].store(Box::into_raw(Box::new(space)), Relaxed);
    }

    /// Makes the two spaces.
    pub(crate) fn fill(&self) {
        on(0, |pin| {
            let space = self.service.create_space(pin).unwrap();
            let map = |page: u64, pages: u64, kind: Kind| {
                let placed = Placement::FixedNoReplace(at(page));
                space.mmap(pin, &MapRequest::anonymous(pages << 12).kind(kind).placed(placed)).unwrap();
            };
            map(TAGGED, 12, Kind::Anonymous);
            map(MOVED + 100, 1, Kind::Anonymous);
            map(ELSEWHERE + 100, 1, Kind::Anonymous);
            map(WIDE, 1024, Kind::Data);
            map(STACK, 1, Kind::Stack);
            space.set_heap_start(at(HEAP));
            self.set(0, space);
        });
        self.enter(0, 0);
        for page in (TAGGED..TAGGED + TAGGED_PAGES).chain(CHANGED..CHANGED + CHANGED_PAGES) {
            self.write(0, 0, page, page).unwrap();
        }
        self.read(0, 0, ZEROS).unwrap();
        for page in [MOVED + 100, ELSEWHERE + 100, STACK] {
            let write = PageFault::new(at(page), FaultAccess::Write);
            on(0, |pin| self.space().on_page_fault(pin, write)).unwrap();
        }
        self.set(1, on(0, |pin| self.space().fork(pin)).unwrap());
        // Owned again.
        self.write(0, 0, CHANGED, CHANGED).unwrap();
        self.enter(1, 1);
        self.enter(2, 0);
        for index in [0, 1] {
            self.expected[index].iter().for_each(|page| page.store(Page::Vacant.encode(), Relaxed));
            self.expect_in(index, TAGGED, 12, Page::Holds(0));
            for page in (TAGGED..TAGGED + TAGGED_PAGES).chain(CHANGED..CHANGED + CHANGED_PAGES) {
                self.expect_in(index, page, 1, Page::Holds(page));
            }
            self.expect_in(index, WIDE, 1024, Page::Holds(0));
            // An access lets the stack grow.
            self.expect_in(index, STACK - 2, 1, Page::Holds(0));
        }
        (0..CPUS).for_each(|cpu| self.access(cpu));
    }

    fn enter(&self, cpu: usize, index: usize) {
        // SAFETY: the CPU is online, and no call of the service is interrupted on it.
        on(cpu, |pin| _ = unsafe { self.get(index).activate(pin) });
    }

    fn expect_in(&self, index: usize, first: u64, pages: u64, page: Page) {
        let expected = PAGES.iter().zip(&self.expected[index]);
        expected
            .filter(|(number, _)| (first..first + pages).contains(number))
            .for_each(|(_, expected)| expected.store(page.encode(), Relaxed));
    }

    /// The `pages` from `first` on are to be `page` in the space.
    pub(crate) fn expect(&self, first: u64, pages: u64, page: Page) {
        self.expect_in(0, first, pages, page);
    }

    fn expected(&self, index: usize, page: u64) -> Page {
        let place = PAGES.iter().position(|&number| number == page).unwrap();
        Page::decode(self.expected[index][place].load(Relaxed))
    }

    /// The `pages` from `first` on are to be as they are, and not writable.
    pub(crate) fn expect_read_only(&self, first: u64, pages: u64) {
        for page in first..first + pages {
            if let Page::Holds(word) = self.expected(0, page) {
                self.expect(page, 1, Page::ReadOnly(word));
            }
        }
    }

    /// What is expected of the `pages` from `from` on is expected from `to` on.
    pub(crate) fn expect_moved(&self, from: u64, to: u64, pages: u64) {
        for page in 0..pages {
            self.expect(to + page, 1, self.expected(0, from + page));
            self.expect(from + page, 1, Page::Vacant);
        }
    }

    /// Accesses the first word of `page`, which must be one that CPUs use, as a program of `cpu` in the space
    /// `index` does.
    fn access_word(
        &self,
        cpu: usize,
        index: usize,
        page: u64,
        write: Option<u64>,
    ) -> Result<u64, FaultError> {
        let place = PAGES.iter().position(|&number| number == page).unwrap();
        let tried = if write.is_some() { FaultAccess::Write } else { FaultAccess::Read };
        loop {
            if let Some(address) = self.computer.access(cpu, place, write.is_some()) {
                let word = self.computer.word(address.as_u64());
                if let Some(value) = write {
                    word.store(value, Relaxed);
                }
                return Ok(word.load(Relaxed));
            }
            on(cpu, |pin| self.get(index).on_page_fault(pin, PageFault::new(at(page), tried)))?;
        }
    }

    fn read(&self, cpu: usize, index: usize, page: u64) -> Result<u64, FaultError> {
        self.access_word(cpu, index, page, None)
    }

    fn write(&self, cpu: usize, index: usize, page: u64, value: u64) -> Result<u64, FaultError> {
        self.access_word(cpu, index, page, Some(value))
    }

    /// CPU 1 writes to all that the other space has.
    pub(crate) fn write_in_sibling(&self) {
        for page in (TAGGED..TAGGED + TAGGED_PAGES).chain(CHANGED..CHANGED + CHANGED_PAGES).chain([ZEROS]) {
            self.write(1, 1, page, SIBLING_TAG).unwrap();
            self.expect_in(1, page, 1, Page::Holds(SIBLING_TAG));
        }
    }

    /// CPU 1 unmaps all that the other space has.
    pub(crate) fn clear_sibling(&self) {
        on(1, |pin| self.sibling().munmap(pin, at(TAGGED), 12 << 12).unwrap().wait(pin));
        self.expect_in(1, TAGGED, 12, Page::Vacant);
    }

    /// What was changed is complete: no CPU of the space permits what the page tables do not.
    pub(crate) fn assert_coherent(&self) {
        masked(|| {
            let places = [0, 2].into_iter().flat_map(|cpu| (0..PAGES.len()).map(move |place| (cpu, place)));
            for (cpu, place) in places {
                let cached = self.computer.cached(cpu, place);
                if cached & PRESENT == 0 {
                    continue;
                }
                let walked = self.computer.walk(cpu, place);
                let same = cached & !WRITABLE == walked & !WRITABLE;
                let narrow = cached & WRITABLE <= walked & WRITABLE;
                let page = PAGES[place];
                assert!(same && narrow, "cpu{cpu} has {cached:#x} of page {page:#x}, which is {walked:#x}");
            }
        });
    }

    /// All interrupts arrive: everything is as the model says. Then the spaces go, and all that they had.
    pub(crate) fn settle(&self) {
        self.end();
        self.machine.assert_allocated();
    }

    fn end(&self) {
        (0..2 * CPUS).for_each(|cpu| self.computer.deliver(cpu % CPUS));
        self.assert_coherent();
        for (cpu, index) in [(0, 0), (2, 0), (1, 1)] {
            for (place, page) in PAGES.into_iter().enumerate() {
                let expected = Page::decode(self.expected[index][place].load(Relaxed));
                let found = match (self.read(cpu, index, page), expected) {
                    (Ok(word), Page::ReadOnly(_)) => Page::ReadOnly(word),
                    (Ok(word), _) => Page::Holds(word),
                    (Err(FaultError::NotMapped), _) => Page::Vacant,
                    (Err(FaultError::Guarded), _) => Page::Guard,
                    (Err(error), _) => panic!("{error}"),
                };
                assert_eq!(found, expected, "cpu{cpu}, page {page:#x}");
                if let Page::ReadOnly(_) = expected {
                    assert_eq!(self.write(cpu, index, page, 0), Err(FaultError::Denied));
                }
            }
        }
        let kernel = self.service.kernel_space().unwrap();
        // SAFETY: as in `enter`.
        (0..CPUS).for_each(|cpu| on(cpu, |pin| _ = unsafe { kernel.activate(pin) }));
        for space in &self.spaces {
            let space = space.swap(ptr::null_mut(), Relaxed);
            if !space.is_null() {
                // SAFETY: it came from `set`, and nobody uses it any more.
                drop(unsafe { Box::from_raw(space) });
            }
        }
        self.machine.give_all_back();
    }
}

impl Deref for Scene {
    type Target = Machine;

    fn deref(&self) -> &Machine {
        &self.machine
    }
}
