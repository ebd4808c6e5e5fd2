//! Faults counted for regions.
#![cfg(not(miri))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use topomem::object::{MemoryObject, ObjectMapping};
use topomem::region::{
    AssignError, FaultAccess, FaultCounting, FaultCounts, FaultError, ForkError, Kind, MapRequest, PageFault,
    Placement, RegionName, Relocation, Resolved, Sharing,
};
use topomem::sim::{Sim, SimService};
use topomem::{Access, CpuId, CpuPin, FrameRequest, Order, Policy};

#[path = "../objects/object_support/mod.rs"]
mod object_support;
use object_support::{Bench, PagerFile, Space, at, run_pending_work};

const FIRST: u64 = (1 << 18) - 4;

fn counts(minor: u64, major: u64) -> Option<FaultCounts> {
    Some(FaultCounts { minor, major })
}

/// Where each region begins, and what it has counted.
fn listed(space: &Space, pin: &CpuPin) -> Vec<(u64, Option<FaultCounts>)> {
    let mut regions = Vec::new();
    space.for_each_region(pin, |region| regions.push((region.start().as_u64() >> 12, region.faults())));
    regions
}

fn map(space: &Space, pin: &CpuPin, first: u64, count: u64) {
    space.mmap(pin, &MapRequest::anonymous(count << 12).placed(Placement::Fixed(at(first)))).unwrap();
}

fn count(space: &Space, pin: &CpuPin, first: u64, pages: u64) {
    space.set_fault_counting(pin, at(first), pages << 12, FaultCounting::On).unwrap();
}

fn write(space: &Space, pin: &CpuPin, page: u64) -> Resolved {
    space.on_page_fault(pin, PageFault::new(at(page), FaultAccess::Write)).unwrap()
}

fn read(space: &Space, pin: &CpuPin, page: u64) -> Resolved {
    space.on_page_fault(pin, PageFault::new(at(page), FaultAccess::Read)).unwrap()
}

#[test]
fn regions_count_their_own_faults() {
    let bench = Bench::new(1);
    bench.on(|pin| {
        let space = bench.space(pin);
        map(&space, pin, FIRST, 12);
        write(&space, pin, FIRST);
        count(&space, pin, FIRST, 4);
        count(&space, pin, FIRST + 4, 4);
        let expect = |space: &Space, one, two| {
            assert_eq!(
                listed(space, pin),
                [(FIRST, counts(one, 0)), (FIRST + 4, counts(two, 0)), (FIRST + 8, None)]
            );
        };
        expect(&space, 0, 0);
        // First accesses, to the frame of zeros and to one of the page's own, and one that was permitted.
        assert_eq!(read(&space, pin, FIRST + 1), Resolved::ZeroPage);
        assert_eq!(write(&space, pin, FIRST + 1), Resolved::Zeroed);
        assert_eq!(write(&space, pin, FIRST + 1), Resolved::Spurious);
        assert_eq!(write(&space, pin, FIRST + 5), Resolved::Zeroed);
        assert_eq!(write(&space, pin, FIRST + 9), Resolved::Zeroed);
        expect(&space, 3, 1);
        assert_eq!(space.minor_faults(), 6);
        // What is refused does not count, as for the space.
        let fetch = PageFault::new(at(FIRST + 5), FaultAccess::Execute);
        assert_eq!(space.on_page_fault(pin, fetch), Err(FaultError::Denied));
        expect(&space, 3, 1);
        // A copy counts for itself. Its parent counts on.
        let child = space.fork(pin).unwrap();
        expect(&child, 0, 0);
        assert_eq!(write(&child, pin, FIRST + 5), Resolved::Copied);
        assert_eq!(write(&space, pin, FIRST + 1), Resolved::Copied);
        expect(&child, 0, 1);
        expect(&space, 4, 1);
        drop(child);
        run_pending_work(bench.sim, bench.service, pin);
        // As people read it, for regions that count alone.
        let smaps = space.smaps(pin).to_string();
        assert!(smaps.contains("\nMinor_Faults:          4\nMajor_Faults:          0\n"), "{smaps}");
        assert_eq!(smaps.matches("Minor_Faults:").count(), 2, "{smaps}");
        space.set_fault_counting(pin, at(FIRST), 8 << 12, FaultCounting::Off).unwrap();
        assert_eq!(listed(&space, pin), [(FIRST, None)], "one region again");
        bench.finish(pin, [space], []);
    });
}

#[test]
fn counts_go_with_their_pages() {
    let bench = Bench::new(1);
    bench.on(|pin| {
        let space = bench.space(pin);
        map(&space, pin, FIRST, 8);
        count(&space, pin, FIRST, 8);
        write(&space, pin, FIRST);
        // Other access, name and policy: other regions, counted together.
        space.mprotect(pin, at(FIRST + 2), 4096, Access::READ).unwrap().wait(pin);
        space.set_name(pin, at(FIRST + 4), 4096, Some(RegionName::new("name").unwrap())).unwrap();
        space.set_region_policy(pin, at(FIRST + 6), 4096, Some(Policy::Local)).unwrap();
        (4..8).for_each(|page| assert_eq!(write(&space, pin, FIRST + page), Resolved::Zeroed));
        let regions = listed(&space, pin);
        assert_eq!(regions.len(), 7);
        assert!(regions.iter().all(|region| region.1 == counts(5, 0)), "{regions:?}");
        // What is moved, and what is added to it.
        let target = at(FIRST + 100);
        space.mremap(pin, at(FIRST), 8192, 4 << 12, Relocation::Fixed(target)).unwrap();
        write(&space, pin, FIRST + 103);
        assert!(listed(&space, pin).contains(&(FIRST + 100, counts(6, 0))));
        // Where a stack grows.
        let stack = MapRequest::anonymous(4096).kind(Kind::Stack).placed(Placement::Fixed(at(1 << 20)));
        space.mmap(pin, &stack).unwrap();
        count(&space, pin, 1 << 20, 1);
        write(&space, pin, (1 << 20) - 3);
        assert_eq!(listed(&space, pin).last(), Some(&((1 << 20) - 3, counts(1, 0))));
        // The place of what was counted has no counts of its own.
        map(&space, pin, FIRST + 100, 4);
        assert!(listed(&space, pin).contains(&(FIRST + 100, None)));
        bench.finish(pin, [space], []);
    });
}

#[test]
fn faults_of_objects_count_as_minor_or_major() {
    let bench = Bench::new(2);
    let file = PagerFile::new(&bench, 4);
    bench.serve_while(&file, |pin| {
        let object = file.object(&bench, pin, 3 << 12);
        let memory = MemoryObject::anonymous(bench.service, pin, 64 << 12).unwrap();
        let space = bench.space(pin);
        bench.map(pin, &space, &object, FIRST, 3, 0, Sharing::Shared);
        let request = MapRequest::anonymous(64 << 12).placed(Placement::Fixed(at(1 << 20)));
        space.mmap_object(pin, &request, ObjectMapping::new(&memory, 0, Sharing::Shared)).unwrap();
        count(&space, pin, FIRST, 3);
        count(&space, pin, 1 << 20, 64);
        let fault = PageFault::new(at(FIRST + 1), FaultAccess::Read);
        let Err(FaultError::Waits(wait)) = space.on_page_fault(pin, fault) else {
            panic!("a page that has to be read in")
        };
        assert_eq!(wait.wait(|| bench.sim.take_interrupts()), Ok(()));
        assert_eq!(space.on_page_fault(pin, fault.after_wait()).map(|_| ()), Ok(()));
        write(&space, pin, FIRST + 1);
        // The first of its table, and one that the object has in memory.
        memory.try_write(pin, 32 << 12, &[1]).unwrap();
        write(&space, pin, 1 << 20);
        write(&space, pin, (1 << 20) + 32);
        assert_eq!(listed(&space, pin), [(FIRST, counts(1, 1)), (1 << 20, counts(2, 0))]);
        assert_eq!((space.minor_faults(), space.major_faults()), (3, 1));
        // Another claim on the object is another record of the same counts.
        space.mprotect(pin, at(1 << 20), 64 << 12, Access::READ).unwrap().wait(pin);
        assert_eq!(listed(&space, pin)[1], (1 << 20, counts(2, 0)));
        bench.finish(pin, [space], [object, memory]);
    });
}

#[test]
fn cpus_count_at_once() {
    const PAGES: u64 = 2000;
    let bench = Bench::new(4);
    let space = bench.on(|pin| {
        let space = bench.space(pin);
        map(&space, pin, FIRST, PAGES);
        count(&space, pin, FIRST, PAGES);
        space
    });
    std::thread::scope(|scope| {
        for cpu in 0..4 {
            let space = &space;
            scope.spawn(move || {
                let work = |pin: &CpuPin| {
                    for page in (cpu..PAGES).step_by(4) {
                        write(space, pin, FIRST + page);
                    }
                };
                bench.sim.on(CpuId::new(cpu as usize).unwrap(), work);
            });
        }
    });
    bench.on(|pin| {
        assert_eq!(listed(&space, pin), [(FIRST, counts(PAGES, 0))]);
        bench.finish(pin, [space], []);
    });
}

/// Calls `operation` with no frame left, with one, and so on, until it succeeds; `check` sees the space after each
/// failure. Returns how many frames it took.
fn run_short_of_memory(
    service: &'static SimService,
    pin: &CpuPin,
    mut operation: impl FnMut() -> bool,
    mut check: impl FnMut(),
) -> usize {
    for left in 0..64 {
        let mut taken: Vec<_> =
            std::iter::from_fn(|| service.frames().alloc(pin, &FrameRequest::frame()).ok()).collect();
        let give_back = |frame| {
            // SAFETY: it was allocated above.
            unsafe { service.frames().free(pin, frame, Order::FRAME) }.unwrap();
        };
        taken.split_off(taken.len() - left).into_iter().for_each(give_back);
        let succeeded = operation();
        taken.into_iter().for_each(give_back);
        if succeeded {
            return left;
        }
        check();
    }
    panic!("it never succeeds");
}

#[test]
fn without_memory_nothing_is_counted_and_nothing_lost() {
    let sim: &'static Sim = Sim::builder().cpus(1).memory(8 << 20).build().unwrap();
    let service = sim.boot_service().unwrap();
    sim.on(CpuId::BOOT, |pin| {
        let allocated = || {
            run_pending_work(sim, service, pin);
            service.frames().validate().unwrap().allocated
        };
        let at_first = allocated();
        let space = service.create_space(pin).unwrap();
        map(&space, pin, FIRST, 8);
        // The space has its table of records.
        space.set_name(pin, at(FIRST), 4096, Some(RegionName::new("name").unwrap())).unwrap();
        let before = allocated();
        let operation = || match space.set_fault_counting(pin, at(FIRST), 8 << 12, FaultCounting::On) {
            Ok(()) => true,
            Err(AssignError::OutOfFrames(_)) => false,
            Err(error) => panic!("{error}"),
        };
        let took = run_short_of_memory(service, pin, operation, || {
            assert_eq!(listed(&space, pin), [(FIRST, None), (FIRST + 1, None)]);
            assert_eq!(allocated(), before);
        });
        assert!(took > 0);
        assert_eq!(allocated(), before + 1);
        // It is freed with the last of the pages.
        space.munmap(pin, at(FIRST), 7 << 12).unwrap().wait(pin);
        assert_eq!(allocated(), before + 1);
        space.munmap(pin, at(FIRST + 7), 4096).unwrap().wait(pin);
        assert_eq!(allocated(), before);
        // A fork needs one for the copy.
        map(&space, pin, FIRST, 8);
        count(&space, pin, FIRST, 8);
        write(&space, pin, FIRST);
        let before = allocated();
        let mut child = None;
        let took = run_short_of_memory(
            service,
            pin,
            || match space.fork(pin) {
                Ok(forked) => child.insert(forked).minor_faults() == 0,
                Err(ForkError::OutOfFrames(_)) => false,
                Err(error) => panic!("{error}"),
            },
            || {
                assert_eq!(listed(&space, pin), [(FIRST, counts(1, 0))]);
                assert_eq!(allocated(), before);
            },
        );
        assert!(took > 4, "the space, its root, the table of records, the counts: {took}");
        assert_eq!(listed(child.as_ref().unwrap(), pin), [(FIRST, counts(0, 0))]);
        drop((space, child));
        assert_eq!(allocated(), at_first, "frames leaked");
    });
}
