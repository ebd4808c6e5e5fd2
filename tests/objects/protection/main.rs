//! An object's frames are writable nowhere while they are executable anywhere; and who may read an object
//! alone cannot come to write to it.
#![cfg(not(miri))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../object_support/mod.rs"]
mod object_support;
mod races;

use std::sync::atomic::{AtomicU64, Ordering};

use Sharing::{Private, Shared};
use object_support::{Bench, Object, Space, at, run_pending_work, touch};
use topomem::address_space::WritableCode;
use topomem::object::{MemoryObject, ObjectMapping, SharedWrites};
use topomem::region::{
    FaultAccess, FaultError, MapRequest, MmapError, MprotectError, PageFault, Placement, RegionName,
    Relocation, Sharing,
};
use topomem::sim::{Access as Accessed, Privilege};
use topomem::{Access, CpuPin, FrameRequest, PageRange, PageSize, Protection, VirtAddr, WriteExecute};

/// Where regions are mapped: across an end of 2 MiB.
const FIRST: u64 = (1 << 18) - 2;
/// Where second mappings are.
const OTHER: u64 = FIRST + 1000;

fn map(
    pin: &CpuPin,
    space: &Space,
    object: &Object,
    first: u64,
    (access, sharing): (Access, Sharing),
) -> Result<(), MmapError> {
    let request = MapRequest::anonymous(4 << 12).access(access).placed(Placement::FixedNoReplace(at(first)));
    space.mmap_object(pin, &request, ObjectMapping::new(object, 0, sharing)).map(drop)
}

fn protect(pin: &CpuPin, space: &Space, first: u64, count: u64, access: Access) -> Result<(), MprotectError> {
    space.mprotect(pin, at(first), count << 12, access).map(|unmapping| unmapping.wait(pin))
}

fn unmap(pin: &CpuPin, space: &Space, first: u64) {
    space.munmap(pin, at(first), 4 << 12).unwrap().wait(pin);
}

/// Fetches from a page as a program does, faults included.
fn fetch(bench: &Bench, pin: &CpuPin, space: &Space, page: u64) -> Result<(), FaultError> {
    // SAFETY: the CPU is online, and this is no handler.
    unsafe { space.activate(pin) };
    while bench.sim.probe(at(page), Accessed::Execute, Privilege::User).is_err() {
        space.on_page_fault(pin, PageFault::new(at(page), FaultAccess::Execute))?;
    }
    Ok(())
}

/// The regions of a space: first page, pages, access.
fn regions(pin: &CpuPin, space: &Space) -> Vec<(u64, u64, Access)> {
    let mut found = Vec::new();
    space.for_each_region(pin, |range| {
        found.push((range.start().as_u64() >> 12, range.length() >> 12, range.region().access()));
    });
    found
}

#[test]
fn no_second_mapping_makes_a_frame_writable_and_executable() {
    let bench = Bench::new(1);
    bench.on(|pin| {
        let object = MemoryObject::anonymous(bench.service, pin, 4 << 12).unwrap();
        let (one, other) = (bench.space(pin), bench.space(pin));
        for sharing in [Private, Shared] {
            for space in [&one, &other] {
                map(pin, &one, &object, FIRST, (Access::WRITE, Shared)).unwrap();
                bench.store(pin, &one, FIRST, 7);
                let refused = map(pin, space, &object, OTHER, (Access::EXECUTE, sharing));
                assert_eq!(refused, Err(MmapError::WriteExecute));
                // Nothing has changed.
                assert_eq!(space.next_region(pin, at(OTHER)), None);
                map(pin, space, &object, OTHER, (Access::READ, sharing)).unwrap();
                let refused = protect(pin, space, OTHER, 4, Access::EXECUTE);
                assert_eq!(refused, Err(MprotectError::WriteExecute(at(OTHER))));
                assert_eq!(bench.load(pin, space, OTHER), 7);
                assert!(matches!(fetch(&bench, pin, space, OTHER), Err(FaultError::Denied)));
                // At once, without the service's help.
                unmap(pin, &one, FIRST);
                protect(pin, space, OTHER, 4, Access::EXECUTE).unwrap();
                fetch(&bench, pin, space, OTHER).unwrap();
                let refused = map(pin, &one, &object, FIRST, (Access::WRITE, Shared));
                assert_eq!(refused, Err(MmapError::WriteExecute));
                map(pin, &one, &object, FIRST, (Access::READ, Shared)).unwrap();
                let refused = protect(pin, &one, FIRST, 2, Access::WRITE);
                assert_eq!(refused, Err(MprotectError::WriteExecute(at(FIRST))));
                // What is written to a private mapping, nobody else executes.
                map(pin, &one, &object, FIRST + 8, (Access::WRITE, Private)).unwrap();
                bench.store(pin, &one, FIRST + 8, 8);
                assert_eq!(bench.load(pin, space, OTHER), 7);
                for (space, first) in [(space, OTHER), (&one, FIRST), (&one, FIRST + 8)] {
                    unmap(pin, space, first);
                }
            }
        }
        bench.finish(pin, [one, other], [object]);
    });
}

/// A program may generate code by way of the only mapping.
#[test]
fn one_mapping_may_change_from_the_one_to_the_other() {
    let bench = Bench::new(1);
    bench.on(|pin| {
        let object = MemoryObject::anonymous(bench.service, pin, 4 << 12).unwrap();
        let space = bench.space(pin);
        map(pin, &space, &object, FIRST, (Access::WRITE, Shared)).unwrap();
        for value in 1..4 {
            bench.store(pin, &space, FIRST + 3, value);
            protect(pin, &space, FIRST, 4, Access::EXECUTE).unwrap();
            fetch(&bench, pin, &space, FIRST + 3).unwrap();
            assert!(matches!(touch(bench.sim, pin, &space, FIRST + 3, Some(9)), Err(FaultError::Denied)));
            assert_eq!(regions(pin, &space), [(FIRST, 4, Access::EXECUTE)]);
            protect(pin, &space, FIRST, 4, Access::WRITE).unwrap();
            assert_eq!(bench.load(pin, &space, FIRST + 3), value);
        }
        // A part of it would be executable while the rest is writable.
        let refused = protect(pin, &space, FIRST + 1, 2, Access::EXECUTE);
        assert_eq!(refused, Err(MprotectError::WriteExecute(at(FIRST + 1))));
        assert_eq!(regions(pin, &space), [(FIRST, 4, Access::WRITE)]);
        protect(pin, &space, FIRST + 1, 2, Access::NONE).unwrap();
        assert_eq!(regions(pin, &space).len(), 3);
        protect(pin, &space, FIRST, 4, Access::READ).unwrap();
        assert_eq!(regions(pin, &space), [(FIRST, 4, Access::READ)]);
        bench.finish(pin, [space], [object]);
    });
}

#[test]
fn a_range_changes_up_to_what_is_refused() {
    let bench = Bench::new(1);
    bench.on(|pin| {
        let object = MemoryObject::anonymous(bench.service, pin, 4 << 12).unwrap();
        let space = bench.space(pin);
        let plain = |first| {
            let request = MapRequest::anonymous(2 << 12).placed(Placement::FixedNoReplace(at(first)));
            space.mmap(pin, &request).unwrap();
            bench.store(pin, &space, first, first);
        };
        plain(FIRST - 2);
        map(pin, &space, &object, FIRST, (Access::WRITE, Private)).unwrap();
        bench.store(pin, &space, FIRST, 1);
        plain(FIRST + 4);
        map(pin, &space, &object, FIRST + 6, (Access::READ, Shared)).unwrap();
        protect(pin, &space, FIRST - 2, 12, Access::EXECUTE).unwrap();
        assert!(regions(pin, &space).iter().all(|region| region.2 == Access::EXECUTE));
        protect(pin, &space, FIRST - 2, 12, Access::READ).unwrap();
        map(pin, &space, &object, OTHER, (Access::WRITE, Shared)).unwrap();
        let refused = protect(pin, &space, FIRST - 2, 12, Access::EXECUTE);
        assert_eq!(refused, Err(MprotectError::WriteExecute(at(FIRST))));
        let found = regions(pin, &space);
        assert_eq!(found[0], (FIRST - 2, 2, Access::EXECUTE));
        assert!(found[1..4].iter().all(|region| region.2 == Access::READ));
        assert_eq!(bench.load(pin, &space, FIRST - 2), FIRST - 2);
        assert_eq!(bench.load(pin, &space, FIRST), 1);
        let refused = protect(pin, &space, FIRST + 9, 4, Access::NONE);
        assert_eq!(refused, Err(MprotectError::NoRegion(at(FIRST + 10))));
        bench.finish(pin, [space], [object]);
    });
}

#[test]
fn copies_and_moved_mappings_count_too() {
    let bench = Bench::new(1);
    bench.on(|pin| {
        let object = MemoryObject::anonymous(bench.service, pin, 4 << 12).unwrap();
        let parent = bench.space(pin);
        map(pin, &parent, &object, FIRST, (Access::WRITE, Shared)).unwrap();
        let child = parent.fork(pin).unwrap();
        unmap(pin, &parent, FIRST);
        let runs = (Access::EXECUTE, Private);
        assert_eq!(map(pin, &parent, &object, FIRST, runs), Err(MmapError::WriteExecute));
        let moved = child.mremap(pin, at(FIRST), 4 << 12, 5 << 12, Relocation::Fixed(at(OTHER))).unwrap();
        let named = RegionName::new("shared").unwrap();
        child.set_name(pin, moved, 5 << 12, Some(named)).unwrap();
        assert_eq!(map(pin, &parent, &object, FIRST, runs), Err(MmapError::WriteExecute));
        let again = child.mremap(pin, moved, 0, 2 << 12, Relocation::MayMove).unwrap();
        child.munmap(pin, moved, 5 << 12).unwrap().wait(pin);
        assert_eq!(map(pin, &parent, &object, FIRST, runs), Err(MmapError::WriteExecute));
        child.munmap(pin, again, 2 << 12).unwrap().wait(pin);
        map(pin, &parent, &object, FIRST, runs).unwrap();
        // What the child of a space that has ended had counts until that has been taken apart.
        let grandchild = parent.fork(pin).unwrap();
        unmap(pin, &parent, FIRST);
        drop(grandchild);
        run_pending_work(bench.sim, bench.service, pin);
        map(pin, &parent, &object, FIRST, (Access::WRITE, Shared)).unwrap();
        bench.finish(pin, [parent, child], [object]);
    });
}

#[test]
fn the_capability_says_otherwise() {
    let bench = Bench::new(1);
    bench.on(|pin| {
        // SAFETY: no program runs.
        let capability = unsafe { WriteExecute::new() };
        let object = MemoryObject::anonymous(bench.service, pin, 4 << 12).unwrap();
        let space = bench.space(pin);
        let both = (Access::write_execute(&capability), Shared);
        map(pin, &space, &object, FIRST, (Access::WRITE, Shared)).unwrap();
        map(pin, &space, &object, OTHER, both).unwrap();
        bench.store(pin, &space, OTHER, 5);
        fetch(&bench, pin, &space, OTHER).unwrap();
        // The others have no capability.
        for access in [Access::WRITE, Access::EXECUTE] {
            let refused = map(pin, &space, &object, FIRST + 8, (access, Shared));
            assert_eq!(refused, Err(MmapError::WriteExecute));
        }
        object.permit_write_execute(&capability);
        map(pin, &space, &object, FIRST + 8, (Access::EXECUTE, Shared)).unwrap();
        fetch(&bench, pin, &space, FIRST + 8).unwrap();
        bench.store(pin, &space, FIRST, 6);
        assert_eq!(bench.load(pin, &space, FIRST + 8), 6);
        bench.finish(pin, [space], [object]);
    });
}

#[test]
fn a_file_open_for_reading_does_not_become_writable() {
    let bench = Bench::new(1);
    bench.on(|pin| {
        let object = MemoryObject::anonymous(bench.service, pin, 4 << 12).unwrap();
        let space = bench.space(pin);
        let read_only = |first, access, sharing| {
            let request = MapRequest::anonymous(2 << 12).access(access);
            let request = request.placed(Placement::FixedNoReplace(at(first)));
            space.mmap_object(pin, &request, ObjectMapping::new(&object, 0, sharing).deny_writes())
        };
        assert_eq!(read_only(FIRST, Access::WRITE, Shared), Err(MmapError::Denied));
        read_only(FIRST, Access::READ, Shared).unwrap();
        read_only(FIRST + 2, Access::WRITE, Private).unwrap();
        bench.store(pin, &space, FIRST + 2, 3);
        bench.load(pin, &space, FIRST);
        let refused = protect(pin, &space, FIRST, 1, Access::WRITE);
        assert_eq!(refused, Err(MprotectError::Denied(at(FIRST))));
        protect(pin, &space, FIRST, 4, Access::NONE).unwrap();
        let refused = protect(pin, &space, FIRST, 4, Access::WRITE);
        assert_eq!(refused, Err(MprotectError::Denied(at(FIRST))));
        protect(pin, &space, FIRST + 2, 2, Access::WRITE).unwrap();
        assert_eq!(space.object_at(pin, at(FIRST)).unwrap().writes, SharedWrites::Denied);
        // Nor after a move, a second mapping, a name or a fork.
        let moved = space.mremap(pin, at(FIRST), 2 << 12, 2 << 12, Relocation::Fixed(at(OTHER))).unwrap();
        let again = space.mremap(pin, moved, 0, 1 << 12, Relocation::MayMove).unwrap();
        space.set_name(pin, moved, 1 << 12, Some(RegionName::new("file").unwrap())).unwrap();
        let child = space.fork(pin).unwrap();
        for space in [&space, &child] {
            for start in [moved, VirtAddr::new(moved.as_u64() + 4096).unwrap(), again] {
                let refused = space.mprotect(pin, start, 4096, Access::WRITE).map(drop);
                assert_eq!(refused, Err(MprotectError::Denied(start)));
            }
        }
        bench.finish(pin, [space, child], [object]);
    });
}

/// Kernel mappings of the low-level interface are the kernel's own affair; regions are not.
#[test]
fn private_memory_needs_no_claim() {
    let bench = Bench::new(1);
    bench.on(|pin| {
        let space = bench.space(pin);
        let request = MapRequest::anonymous(4 << 12).placed(Placement::FixedNoReplace(at(FIRST)));
        space.mmap(pin, &request).unwrap();
        bench.store(pin, &space, FIRST, 1);
        let child = space.fork(pin).unwrap();
        // The frame is writable in neither space.
        protect(pin, &child, FIRST, 4, Access::EXECUTE).unwrap();
        fetch(&bench, pin, &child, FIRST).unwrap();
        bench.store(pin, &space, FIRST, 2);
        assert_eq!(bench.load(pin, &child, FIRST), 1);
        let [one, other] = [&space, &child].map(|space| space.translate(pin, at(FIRST)).unwrap());
        assert_ne!(one.leaf.frame, other.leaf.frame);
        assert_eq!(one.leaf.protection, Protection::USER_DATA);
        bench.finish(pin, [space, child], []);
    });
}

/// The one CPU makes a region longer while the other changes what its pages permit: all of them permit the new
/// access afterwards, whichever CPU is first.
#[test]
fn added_pages_permit_what_the_region_permits_by_then() {
    let bench = Bench::new(2);
    let space = bench.on(|pin| bench.space(pin));
    let turns = [const { AtomicU64::new(0) }; 2];
    let mixed = AtomicU64::new(0);
    let rounds = 600;
    bench.sim.run(|pin| {
        let me = pin.cpu().index();
        // Nobody panics meanwhile: the other one would wait.
        for round in 1..=rounds {
            if me == 0 {
                let request = MapRequest::anonymous(2 << 12).placed(Placement::Fixed(at(FIRST)));
                space.mmap(pin, &request).unwrap();
                if round % 2 == 0 {
                    // So the region has to move.
                    let request = MapRequest::anonymous(4096).placed(Placement::Fixed(at(FIRST + 2)));
                    space.mmap(pin, &request.access(Access::NONE)).unwrap();
                }
            }
            // Both begin at the same time, as far as that goes.
            turns[me].store(2 * round, Ordering::SeqCst);
            while turns[1 - me].load(Ordering::SeqCst) < 2 * round {
                bench.sim.take_interrupts();
                std::hint::spin_loop();
            }
            let mut moved = at(FIRST);
            if me == 0 {
                moved = space.mremap(pin, at(FIRST), 2 << 12, 3 << 12, Relocation::MayMove).unwrap();
            } else {
                // Somewhere in the course of the other operation.
                (0..round % 150).for_each(|_| std::hint::spin_loop());
                // Of two pages or three, or none any more.
                let _ = space.mprotect(pin, at(FIRST), 3 << 12, Access::READ).map(|done| done.wait(pin));
            }
            turns[me].store(2 * round + 1, Ordering::SeqCst);
            while turns[1 - me].load(Ordering::SeqCst) < 2 * round + 1 {
                bench.sim.take_interrupts();
                std::hint::spin_loop();
            }
            if me == 0 {
                let range = space.next_region(pin, moved).unwrap();
                mixed.fetch_add(u64::from(range.length() >> 12 != 3), Ordering::Relaxed);
                space.munmap(pin, moved, 3 << 12).unwrap().wait(pin);
                space.munmap(pin, at(FIRST), 3 << 12).unwrap().wait(pin);
            }
        }
        bench.leave(pin);
    });
    assert_eq!(mixed.load(Ordering::Relaxed), 0, "pages that were added differ from the others");
    bench.on(|pin| bench.finish(pin, [space], []));
}

#[test]
fn writable_code_is_found_in_a_space() {
    let bench = Bench::new(1);
    bench.on(|pin| {
        let space = bench.space(pin);
        let pages = |first, count| PageRange::new(at(first), count, PageSize::Size4KiB).unwrap();
        assert_eq!(bench.service.kernel_space().unwrap().find_writable_code(pin), None);
        let map = |first, protection| {
            space.map(pin, pages(first, 4), FrameRequest::frame(), protection).unwrap();
        };
        map(FIRST, Protection::USER_DATA);
        map(FIRST + 10, Protection::USER_CODE);
        map(FIRST + 20, Protection::USER_CODE);
        assert_eq!(space.find_writable_code(pin), None);
        // The third frame of the data, at another place.
        space.share(pin, pages(FIRST + 2, 1), &space, at(OTHER), Protection::USER_CODE).unwrap();
        let found = WritableCode { executable: at(OTHER), writable: at(FIRST + 2) };
        assert_eq!(space.find_writable_code(pin), Some(found));
        space.protect(pin, pages(FIRST + 2, 1), Protection::USER_READ_ONLY).unwrap().wait(pin);
        assert_eq!(space.find_writable_code(pin), None);
        // One page that is both.
        // SAFETY: nobody runs there.
        let capability = unsafe { WriteExecute::new() };
        let both = Protection::user(Access::write_execute(&capability));
        space.protect(pin, pages(FIRST + 11, 1), both).unwrap().wait(pin);
        let found = WritableCode { executable: at(FIRST + 11), writable: at(FIRST + 11) };
        assert_eq!(space.find_writable_code(pin), Some(found));
        bench.finish(pin, [space], []);
    });
}
