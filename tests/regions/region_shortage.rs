//! Memory that runs out at every allocation of every operation on regions: the operation says so, nothing has
//! changed, and nothing is lost.
//!
//! An operation is tried with no frame left, then with one, and so on, until it succeeds. So each of its
//! allocations is refused once.
#![cfg(not(miri))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use topomem::page_table::Ownership;
use topomem::region::{
    Advice, FaultAccess, FaultError, ForkError, Kind, MadviseError, MapRequest, MmapError, MprotectError,
    MremapError, MunmapError, PageFault, Placement, Populate, Relocation, Resolved,
};
use topomem::sim::{Sim, SimService};
use topomem::{
    Access, CpuId, CpuPin, FrameRequest, Order, PendingWork, PhysFrame, Platform, Protection, VirtAddr,
};

mod space_support;
use space_support::{Space, at};

/// Where the regions are that operations find: across 512 GiB, so that all tables are in two parts.
const FIRST: u64 = (1 << 27) - 8;
/// 2 GiB of it, untouched.
const WIDE: u64 = 1 << 28;
const WIDE_PAGES: u64 = 1 << 19;
/// A stack.
const STACK: u64 = 1 << 25;

/// A space in which something is mapped in each way, beside another that shares some of it.
struct World {
    service: &'static SimService,
    space: Space,
    other: Space,
}

/// What an operation can change: each region with its residents, each mapped page with what it is mapped to
/// and what it holds, and the program break.
#[derive(Debug, PartialEq, Eq)]
struct Snapshot {
    regions: Vec<(u64, u64, topomem::region::Region, u64)>,
    pages: Vec<(u64, PhysFrame, Protection, Ownership, u64)>,
    mapped: u64,
    heap: u64,
}

fn map(space: &Space, pin: &CpuPin, page: u64, request: MapRequest) {
    space.mmap(pin, &request.placed(Placement::FixedNoReplace(at(page)))).unwrap();
}

fn fault(space: &Space, pin: &CpuPin, page: u64, access: FaultAccess) -> Result<Resolved, FaultError> {
    space.on_page_fault(pin, PageFault::new(at(page), access))
}

impl World {
    fn new(service: &'static SimService, pin: &CpuPin) -> World {
        let space = service.create_space(pin).unwrap();
        map(&space, pin, FIRST, MapRequest::anonymous(16 << 12));
        map(&space, pin, WIDE, MapRequest::anonymous(WIDE_PAGES << 12));
        map(&space, pin, STACK, MapRequest::anonymous(1 << 12).kind(Kind::Stack));
        space.set_heap_start(at(1 << 20));
        for page in (FIRST..FIRST + 16).step_by(3) {
            fault(&space, pin, page, FaultAccess::Write).unwrap();
        }
        fault(&space, pin, FIRST + 1, FaultAccess::Read).unwrap();
        let other = space.fork(pin).unwrap();
        // Owned again, by both.
        fault(&space, pin, FIRST + 3, FaultAccess::Write).unwrap();
        fault(&other, pin, FIRST + 3, FaultAccess::Write).unwrap();
        let world = World { service, space, other };
        for page in (FIRST..FIRST + 16).step_by(3) {
            world.word(&world.space, pin, page).unwrap().store(page, std::sync::atomic::Ordering::Relaxed);
        }
        world
    }

    fn word(&self, space: &Space, pin: &CpuPin, page: u64) -> Option<&std::sync::atomic::AtomicU64> {
        let found = space.translate(pin, at(page))?;
        let place = self.service.platform().phys_to_virt(found.address);
        // SAFETY: the frame is mapped; all accesses to its first word are atomic.
        Some(unsafe { place.cast().as_ref() })
    }

    fn snapshot(&self, pin: &CpuPin) -> [Snapshot; 2] {
        [&self.space, &self.other].map(|space| {
            let mut regions = Vec::new();
            space.for_each_region(pin, |range| {
                let start = range.start().as_u64() >> 12;
                regions.push((start, range.length() >> 12, range.region(), range.resident_pages()));
            });
            let mut pages = Vec::new();
            for (start, count, ..) in &regions {
                // Of the wide region, the beginning.
                for page in *start..*start + (*count).min(64) {
                    if let Some(found) = space.translate(pin, at(page)) {
                        let leaf = found.leaf;
                        let word = self.word(space, pin, page).unwrap();
                        let word = word.load(std::sync::atomic::Ordering::Relaxed);
                        pages.push((page, leaf.frame, leaf.protection, leaf.ownership, word));
                    }
                }
            }
            let heap = space.brk(pin, VirtAddr::new(0).unwrap()).as_u64();
            Snapshot { regions, pages, mapped: space.mapped_pages(), heap }
        })
    }
}

/// Takes all frames that the allocator has, but for `left`.
fn take_all_but(service: &SimService, pin: &CpuPin, left: usize) -> Vec<PhysFrame> {
    let mut taken: Vec<PhysFrame> =
        std::iter::from_fn(|| service.frames().alloc(pin, &FrameRequest::frame()).ok()).collect();
    give_back(service, pin, taken.split_off(taken.len() - left));
    taken
}

fn give_back(service: &SimService, pin: &CpuPin, frames: Vec<PhysFrame>) {
    for frame in frames {
        // SAFETY: `take_all_but` allocated it.
        unsafe { service.frames().free(pin, frame, Order::FRAME) }.unwrap();
    }
}

/// Did the operation succeed? Errors other than of memory are failures of the test.
type Operation = fn(&World, &CpuPin) -> bool;

/// Tries `operation` with no frame left, with one, and so on. Returns how many allocations it makes.
fn run_short_of_memory(name: &str, operation: Operation) -> usize {
    let sim = Sim::builder().cpus(1).memory(8 << 20).build().unwrap();
    let service = sim.boot_service().unwrap();
    sim.on(CpuId::BOOT, |pin| {
        let allocated = || service.frames().validate().unwrap().allocated;
        let settle = || assert_eq!(service.run_pending_work(pin), PendingWork::Done);
        let at_first = allocated();
        for left in 0..64 {
            let world = World::new(service, pin);
            settle();
            let (before, frames) = (world.snapshot(pin), allocated());
            let taken = take_all_but(service, pin, left);
            let succeeded = operation(&world, pin);
            let short = !succeeded;
            give_back(service, pin, taken);
            settle();
            if short {
                assert_eq!(world.snapshot(pin), before, "{name} with {left} frames has changed something");
                // Empty tables may have been freed to serve the operation.
                assert!(allocated() <= frames, "{name} with {left} frames keeps some");
                assert!(operation(&world, pin), "{name} fails although there is memory");
            }
            drop(world);
            settle();
            assert_eq!(allocated(), at_first, "{name} with {left} frames has lost some");
            if succeeded {
                return left;
            }
        }
        panic!("{name} never succeeds");
    })
}

fn mmap(world: &World, pin: &CpuPin, request: &MapRequest) -> bool {
    match world.space.mmap(pin, request) {
        Ok(_) => true,
        Err(MmapError::OutOfFrames(_)) => false,
        Err(error) => panic!("{error}"),
    }
}

fn munmap(world: &World, pin: &CpuPin, page: u64, count: u64) -> bool {
    match world.space.munmap(pin, at(page), count << 12) {
        Ok(unmapping) => {
            unmapping.wait(pin);
            true
        }
        Err(MunmapError::OutOfFrames(_)) => false,
        Err(error) => panic!("{error}"),
    }
}

fn mprotect(world: &World, pin: &CpuPin, page: u64, count: u64) -> bool {
    match world.space.mprotect(pin, at(page), count << 12, Access::READ) {
        Ok(protected) => {
            protected.wait(pin);
            true
        }
        Err(MprotectError::OutOfFrames(_)) => false,
        Err(error) => panic!("{error}"),
    }
}

fn madvise(world: &World, pin: &CpuPin, page: u64, count: u64, advice: Advice) -> bool {
    match world.space.madvise(pin, at(page), count << 12, advice) {
        Ok(advised) => {
            advised.wait(pin);
            true
        }
        Err(MadviseError::OutOfFrames(_)) => false,
        Err(error) => panic!("{error}"),
    }
}

fn mremap(world: &World, pin: &CpuPin, from: u64, old: u64, new: u64, relocation: Relocation) -> bool {
    match world.space.mremap(pin, at(from), old << 12, new << 12, relocation) {
        Ok(_) => true,
        Err(MremapError::OutOfFrames(_)) => false,
        Err(error) => panic!("{error}"),
    }
}

fn touch(world: &World, pin: &CpuPin, page: u64, access: FaultAccess) -> bool {
    match fault(&world.space, pin, page, access) {
        Ok(_) => true,
        Err(FaultError::OutOfFrames(_)) => false,
        Err(error) => panic!("{error}"),
    }
}

/// Runs each, and compares how many allocations it makes with what is expected at least: else the test would
/// show nothing.
fn run_all(operations: &[(&str, usize, Operation)]) {
    for &(name, at_least, operation) in operations {
        let allocations = run_short_of_memory(name, operation);
        println!("{name}: {allocations} allocations");
        assert!(allocations >= at_least, "{name} makes {allocations} allocations");
    }
}

#[test]
fn making_and_removing_regions() {
    run_all(&[
        ("mmap under new tables", 3, |world, pin| {
            let placement = Placement::FixedNoReplace(at(WIDE * 3 + 5));
            mmap(world, pin, &MapRequest::anonymous(2 << 12).placed(placement))
        }),
        ("mmap anywhere", 3, |world, pin| mmap(world, pin, &MapRequest::anonymous(2 << 12))),
        ("mmap in the place of a part of a region", 2, |world, pin| {
            let placement = Placement::Fixed(at(WIDE + 777));
            mmap(world, pin, &MapRequest::anonymous(2 << 12).kind(Kind::Data).placed(placement))
        }),
        ("mmap in the place of shared pages", 1, |world, pin| {
            mmap(world, pin, &MapRequest::anonymous(16 << 12).placed(Placement::Fixed(at(FIRST))))
        }),
        ("mmap of pages that are mapped now", 3, |world, pin| {
            let placement = Placement::FixedNoReplace(at(WIDE * 3 + 5));
            // It succeeds, mapped or not, once there are tables.
            let request = MapRequest::anonymous(2 << 12).populate(Populate::Now);
            mmap(world, pin, &request.placed(placement))
        }),
        ("munmap of a part of a region", 2, |world, pin| munmap(world, pin, WIDE + 777, 5)),
        ("munmap across tables", 4, |world, pin| munmap(world, pin, WIDE + 777, WIDE_PAGES - 2000)),
        ("munmap of shared pages", 1, |world, pin| munmap(world, pin, FIRST, 16)),
        ("brk", 2, |world, pin| {
            let end = at((1 << 20) + 4);
            world.space.brk(pin, end) == end
        }),
    ]);
}

#[test]
fn changing_regions() {
    run_all(&[
        ("mprotect of a part of an untouched region", 2, |world, pin| mprotect(world, pin, WIDE + 777, 5)),
        ("mprotect across tables", 4, |world, pin| mprotect(world, pin, WIDE + 777, WIDE_PAGES - 2000)),
        ("mprotect of mapped pages", 1, |world, pin| mprotect(world, pin, FIRST + 2, 3)),
        ("mprotect of mapped pages across 512 GiB", 1, |world, pin| mprotect(world, pin, FIRST + 5, 6)),
        ("madvise(DONTNEED) of shared pages", 1, |world, pin| {
            madvise(world, pin, FIRST, 16, Advice::DontNeed)
        }),
        ("madvise(DONTFORK) of a part", 2, |world, pin| madvise(world, pin, WIDE + 777, 5, Advice::DontFork)),
        ("madvise(WIPEONFORK) of mapped pages", 1, |world, pin| {
            madvise(world, pin, FIRST + 2, 3, Advice::WipeOnFork)
        }),
        ("madvise(GUARD_INSTALL) of a part", 2, |world, pin| {
            madvise(world, pin, WIDE + 777, 5, Advice::GuardInstall)
        }),
        // What is unmapped has its region in its entry.
        ("madvise(GUARD_INSTALL) of mapped pages", 0, |world, pin| {
            madvise(world, pin, FIRST + 2, 3, Advice::GuardInstall)
        }),
    ]);
}

#[test]
fn moving_regions() {
    run_all(&[
        ("mremap to fewer pages", 1, |world, pin| {
            mremap(world, pin, WIDE, WIDE_PAGES, 700, Relocation::InPlace)
        }),
        ("mremap in place", 0, |world, pin| mremap(world, pin, FIRST, 16, 30, Relocation::InPlace)),
        ("mremap to another place", 3, |world, pin| {
            mremap(world, pin, FIRST, 16, 16, Relocation::Fixed(at(WIDE * 3 + 5)))
        }),
        ("mremap of shared pages across tables", 3, |world, pin| {
            mremap(world, pin, FIRST, 16, 16, Relocation::Fixed(at((1 << 29) - 3)))
        }),
        ("mremap to more pages elsewhere", 3, |world, pin| {
            mremap(world, pin, FIRST, 16, 1000, Relocation::Fixed(at(WIDE * 3 + 5)))
        }),
    ]);
}

#[test]
fn faults() {
    run_all(&[
        ("a read", 2, |world, pin| touch(world, pin, WIDE + 777, FaultAccess::Read)),
        ("a write", 3, |world, pin| touch(world, pin, WIDE + 777, FaultAccess::Write)),
        ("a write in a table that is there", 1, |world, pin| {
            touch(world, pin, FIRST + 2, FaultAccess::Write)
        }),
        ("a write to the page of zeros", 1, |world, pin| touch(world, pin, FIRST + 1, FaultAccess::Write)),
        ("a write to a shared page", 1, |world, pin| touch(world, pin, FIRST + 6, FaultAccess::Write)),
        ("a write below a stack", 1, |world, pin| touch(world, pin, STACK - 20, FaultAccess::Write)),
    ]);
}

#[test]
fn forks() {
    run_all(&[("fork", 9, |world, pin| match world.space.fork(pin) {
        Ok(_) => true,
        Err(ForkError::OutOfFrames(_)) => false,
        Err(error) => panic!("{error}"),
    })]);
}
