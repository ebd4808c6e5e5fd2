//! Memory objects on a simulated machine: cases by hand, and random operations of several spaces against a
//! plain model.
#![cfg(not(miri))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../object_support/mod.rs"]
mod object_support;
mod pagers;
mod writeback;

use std::sync::atomic::{AtomicBool, Ordering};

use object_support::{Bench, PagerFile, at, touch};
use topomem::object::{MemoryObject, ObjectError, ObjectMapping, Residency};
use topomem::region::{
    CollapseError, FaultAccess, FaultError, HugePages, MapRequest, PageFault, Placement, RegionName,
    Relocation, Resolved, Sharing,
};
use topomem::{CpuId, VirtAddr};

/// Where regions are mapped: across an end of 2 MiB.
const FIRST: u64 = (1 << 18) - 2;

fn write(page: u64) -> PageFault {
    PageFault::new(at(page), FaultAccess::Write)
}

fn read(page: u64) -> PageFault {
    PageFault::new(at(page), FaultAccess::Read)
}

/// The second word of a page.
fn word_behind(page: u64) -> VirtAddr {
    VirtAddr::new((page << 12) + 8).unwrap()
}

#[test]
fn spaces_share_an_anonymous_object() {
    let bench = Bench::new(1);
    bench.on(|pin| {
        let object = MemoryObject::anonymous(bench.service, pin, 4 << 12).unwrap();
        let (one, other) = (bench.space(pin), bench.space(pin));
        bench.map(pin, &one, &object, FIRST, 4, 0, Sharing::Shared);
        bench.map(pin, &other, &object, FIRST + 100, 2, 2, Sharing::Shared);
        assert_eq!(one.on_page_fault(pin, write(FIRST + 2)).unwrap(), Resolved::ObjectPage);
        bench.store(pin, &one, FIRST + 2, 7);
        assert_eq!(bench.load(pin, &other, FIRST + 100), 7);
        bench.store(pin, &other, FIRST + 100, 8);
        assert_eq!(bench.load(pin, &one, FIRST + 2), 8);
        assert_eq!(bench.load(pin, &other, FIRST + 101), 0);
        assert_eq!(object.resident_pages(), 2);
        let mut bytes = [0; 8];
        assert_eq!(object.try_read(pin, 2 << 12, &mut bytes).unwrap(), 8);
        assert_eq!(u64::from_le_bytes(bytes), 8);
        object.try_write(pin, 2 << 12, &9_u64.to_le_bytes()).unwrap();
        assert_eq!(bench.load(pin, &one, FIRST + 2), 9);
        let part = one.object_at(pin, at(FIRST + 1)).unwrap();
        assert_eq!((part.object.id(), part.offset, part.length), (object.id(), 1 << 12, 3 << 12));
        bench.finish(pin, [one, other], [object]);
    });
}

/// What is not mapped of an object is not zero: no page of zeros takes its place, whatever the space asks for.
#[test]
fn large_pages_and_faults_around_leave_objects_alone() {
    const HUGE: u64 = 1 << 19;
    let bench = Bench::new(1);
    bench.on(|pin| {
        let object = MemoryObject::anonymous(bench.service, pin, 512 << 12).unwrap();
        for page in 0..20 {
            object.try_write(pin, page << 12, &(page + 1).to_le_bytes()).unwrap();
        }
        for sharing in [Sharing::Private, Sharing::Shared] {
            let space = bench.space(pin);
            space.set_huge_pages(HugePages::Always);
            space.set_fault_around(16);
            bench.map(pin, &space, &object, HUGE, 512, 0, sharing);
            space.on_page_fault(pin, write(HUGE + 3)).unwrap();
            bench.load(pin, &space, HUGE + 4);
            let collapsed = space.collapse(pin, at(HUGE), 512 << 12);
            assert_eq!(collapsed, Err(CollapseError::Unfit(at(HUGE))));
            for page in 0..20 {
                assert_eq!(bench.load(pin, &space, HUGE + page), page + 1);
            }
            bench.finish(pin, [space], []);
        }
        bench.finish(pin, [], [object]);
    });
}

/// A first access maps the pages around it that the object has in memory, up to those of an aligned group.
#[test]
fn a_first_access_maps_what_is_in_memory_around() {
    const START: u64 = 1 << 18;
    let bench = Bench::new(1);
    bench.on(|pin| {
        let object = MemoryObject::anonymous(bench.service, pin, 40 << 12).unwrap();
        for page in [3, 5, 15, 16] {
            object.try_write(pin, page << 12, &(page + 1).to_le_bytes()).unwrap();
        }
        let (shared, private) = (bench.space(pin), bench.space(pin));
        bench.map(pin, &shared, &object, START, 40, 0, Sharing::Shared);
        bench.map(pin, &private, &object, START, 40, 0, Sharing::Private);
        for space in [&shared, &private] {
            assert_eq!(space.on_page_fault(pin, read(START + 5)).unwrap(), Resolved::ObjectPage);
            assert_eq!((space.mapped_pages(), space.minor_faults()), (3, 1));
            assert_eq!(bench.load(pin, space, START + 15), 16);
        }
        assert_eq!(object.resident_pages(), 4, "nothing was read in");
        // What is mapped beside a page is as good as what is mapped by its own access.
        bench.store(pin, &shared, START + 3, 7);
        assert_eq!(bench.load(pin, &private, START + 3), 7);
        bench.store(pin, &private, START + 3, 8);
        assert_eq!(bench.load(pin, &shared, START + 3), 7);
        assert_eq!((shared.minor_faults(), private.minor_faults()), (1, 2));
        // A first write in a private mapping copies its page, and maps nothing beside.
        assert_eq!(private.on_page_fault(pin, write(START + 20)).unwrap(), Resolved::PrivateCopy);
        assert_eq!(private.mapped_pages(), 4);
        bench.finish(pin, [shared, private], [object]);
    });
}

#[test]
fn private_mappings_copy_on_write() {
    let bench = Bench::new(1);
    bench.on(|pin| {
        let object = MemoryObject::anonymous(bench.service, pin, 4 << 12).unwrap();
        object.try_write(pin, 0, &5_u64.to_le_bytes()).unwrap();
        let (one, other) = (bench.space(pin), bench.space(pin));
        bench.map(pin, &one, &object, FIRST, 4, 0, Sharing::Private);
        bench.map(pin, &other, &object, FIRST, 4, 0, Sharing::Shared);
        assert_eq!(bench.load(pin, &one, FIRST), 5);
        assert_eq!(one.on_page_fault(pin, write(FIRST)).unwrap(), Resolved::Copied);
        bench.store(pin, &one, FIRST, 6);
        assert_eq!(bench.load(pin, &other, FIRST), 5);
        // A first write copies without mapping the object's page before, and no neighbour is zeroed.
        one.set_fault_around(8);
        object.try_write(pin, 3 << 12, &3_u64.to_le_bytes()).unwrap();
        assert_eq!(one.on_page_fault(pin, write(FIRST + 2)).unwrap(), Resolved::PrivateCopy);
        assert_eq!(bench.load(pin, &one, FIRST + 3), 3);
        bench.store(pin, &other, FIRST + 2, 4);
        assert_eq!(bench.load(pin, &one, FIRST + 2), 0);
        bench.finish(pin, [one, other], [object]);
    });
}

#[test]
fn a_child_shares_what_is_shared_and_copies_what_is_private() {
    let bench = Bench::new(1);
    bench.on(|pin| {
        let object = MemoryObject::anonymous(bench.service, pin, 8 << 12).unwrap();
        let parent = bench.space(pin);
        bench.map(pin, &parent, &object, FIRST, 2, 0, Sharing::Shared);
        bench.map(pin, &parent, &object, FIRST + 2, 2, 2, Sharing::Private);
        for page in 0..4 {
            bench.store(pin, &parent, FIRST + page, page + 1);
        }
        let child = parent.fork(pin).unwrap();
        for page in 0..4 {
            assert_eq!(bench.load(pin, &child, FIRST + page), page + 1);
            bench.store(pin, &child, FIRST + page, 100 + page);
        }
        let seen: Vec<u64> = (0..4).map(|page| bench.load(pin, &parent, FIRST + page)).collect();
        assert_eq!(seen, [100, 101, 3, 4]);
        // Cutting the object reaches the child's mappings, too.
        object.set_size(pin, 0).unwrap();
        for page in 0..4 {
            assert_eq!(child.on_page_fault(pin, read(FIRST + page)), Err(FaultError::BeyondEnd));
            assert_eq!(parent.on_page_fault(pin, read(FIRST + page)), Err(FaultError::BeyondEnd));
        }
        bench.finish(pin, [parent, child], [object]);
    });
}

#[test]
fn cutting_takes_pages_out_of_all_mappings() {
    let bench = Bench::new(1);
    bench.on(|pin| {
        let object = MemoryObject::anonymous(bench.service, pin, (3 << 12) - 100).unwrap();
        let (shared, private) = (bench.space(pin), bench.space(pin));
        bench.map(pin, &shared, &object, FIRST, 4, 0, Sharing::Shared);
        bench.map(pin, &private, &object, FIRST, 4, 0, Sharing::Private);
        assert_eq!(shared.on_page_fault(pin, read(FIRST + 3)), Err(FaultError::BeyondEnd));
        for page in 0..3 {
            bench.store(pin, &shared, FIRST + page, page + 1);
            bench.store(pin, &private, FIRST + page, page + 11);
        }
        object.set_size(pin, 4096 + 8).unwrap();
        assert_eq!(object.resident_pages(), 2);
        assert_eq!(bench.load(pin, &shared, FIRST + 1), 2);
        for space in [&shared, &private] {
            assert_eq!(touch(bench.sim, pin, space, FIRST + 2, None), Err(FaultError::BeyondEnd));
        }
        // What lies behind the end on its page goes, when the object is cut or grows.
        bench.store_at(pin, &shared, word_behind(FIRST + 1), 77);
        object.set_size(pin, 3 << 12).unwrap();
        assert_eq!(bench.load_at(pin, &shared, word_behind(FIRST + 1)), 0);
        assert_eq!(bench.load(pin, &shared, FIRST + 2), 0);
        assert_eq!(bench.load(pin, &private, FIRST + 2), 0, "the private copy has gone");
        assert_eq!(bench.load(pin, &private, FIRST + 1), 12);
        assert_eq!(object.set_size(pin, u64::MAX), Err(ObjectError::TooLarge));
        bench.finish(pin, [shared, private], [object]);
    });
}

#[test]
fn a_hole_is_zero_and_the_pager_hears_of_it() {
    let bench = Bench::new(2);
    let file = PagerFile::new(&bench, 8);
    bench.serve_while(&file, |pin| {
        let object = file.object(&bench, pin, 8 << 12);
        let (shared, private) = (bench.space(pin), bench.space(pin));
        bench.map(pin, &shared, &object, FIRST, 8, 0, Sharing::Shared);
        bench.map(pin, &private, &object, FIRST, 8, 0, Sharing::Private);
        for page in 0..8 {
            assert_eq!(bench.load(pin, &shared, FIRST + page), file.initial(page));
        }
        bench.store(pin, &private, FIRST + 3, 33);
        assert_eq!(bench.load(pin, &private, FIRST + 4), file.initial(4));
        bench.block_on(object.punch_hole((2 << 12) + 8..(6 << 12) + 8)).unwrap();
        let seen: Vec<u64> = (0..8).map(|page| bench.load(pin, &shared, FIRST + page)).collect();
        assert_eq!(seen, [file.initial(0), file.initial(1), file.initial(2), 0, 0, 0, 0, file.initial(7)]);
        assert_eq!(file.discarded(), vec![(3 << 12, 6 << 12)]);
        assert_eq!(bench.load(pin, &private, FIRST + 3), 33, "its own copy");
        assert_eq!(bench.load(pin, &private, FIRST + 4), 0);
        bench.finish(pin, [shared, private], [object]);
    });
}

#[test]
fn faults_meet_cuts() {
    let bench = Bench::new(2);
    let done = AtomicBool::new(false);
    let object = bench.on(|pin| MemoryObject::anonymous(bench.service, pin, 4 << 12).unwrap());
    let rounds = 300;
    bench.sim.run(|pin| {
        let space = bench.space(pin);
        if pin.cpu() == CpuId::BOOT {
            for round in 0..rounds {
                object.set_size(pin, if round % 2 == 0 { 4096 } else { 4 << 12 }).unwrap();
                if round % 2 == 0 {
                    assert_eq!(object.resident_pages().min(1), object.resident_pages(), "cut off");
                }
            }
            done.store(true, Ordering::Release);
        } else {
            bench.map(pin, &space, &object, FIRST, 4, 0, Sharing::Shared);
            bench.map(pin, &space, &object, FIRST + 8, 4, 0, Sharing::Private);
            let mut value = 0;
            while !done.load(Ordering::Acquire) {
                for page in [FIRST + 3, FIRST + 11] {
                    value += 1;
                    match touch(bench.sim, pin, &space, page, Some(value)) {
                        Ok(_) | Err(FaultError::BeyondEnd) => {}
                        Err(other) => panic!("{other}"),
                    }
                }
            }
        }
        bench.leave(pin);
        drop(space);
    });
    bench.on(|pin| bench.finish(pin, [], [object]));
}

#[test]
fn moved_pages_show_what_they_showed() {
    let bench = Bench::new(1);
    bench.on(|pin| {
        let object = MemoryObject::anonymous(bench.service, pin, 8 << 12).unwrap();
        for page in 0..8_u64 {
            object.try_write(pin, page << 12, &(page + 1).to_le_bytes()).unwrap();
        }
        for sharing in [Sharing::Shared, Sharing::Private] {
            let space = bench.space(pin);
            bench.map(pin, &space, &object, FIRST, 4, 2, sharing);
            assert_eq!(bench.load(pin, &space, FIRST + 1), 4);
            // Half of it goes elsewhere, with its name, and grows there.
            let to = FIRST + 1000;
            let name = RegionName::new("half").unwrap();
            space.set_name(pin, at(FIRST), 2 << 12, Some(name)).unwrap();
            space.mremap(pin, at(FIRST), 2 << 12, 4 << 12, Relocation::Fixed(at(to))).unwrap();
            let seen: Vec<u64> = (0..4).map(|page| bench.load(pin, &space, to + page)).collect();
            assert_eq!(seen, [3, 4, 5, 6]);
            let named = space.next_region(pin, at(to)).unwrap();
            assert_eq!((named.length(), named.name()), (4 << 12, Some(name)));
            assert_eq!(bench.load(pin, &space, FIRST + 2), 5);
            assert_eq!(touch(bench.sim, pin, &space, FIRST, None), Err(FaultError::NotMapped));
            assert_eq!(space.object_at(pin, at(to + 1)).unwrap().offset, 3 << 12);
            let moved = space.move_contents(pin, at(to), 4 << 12, None).unwrap();
            let moved = moved.as_u64() >> 12;
            for page in 0..4 {
                assert_eq!(bench.load(pin, &space, moved + page), page + 3);
                assert_eq!(
                    bench.load(pin, &space, to + page),
                    page + 3,
                    "the old place reads the object again"
                );
            }
            let mut pages = [Residency::Absent; 4];
            space.residency(pin, at(moved), &mut pages).unwrap();
            assert_eq!(pages, [Residency::Dirty; 4]);
            assert_eq!(space.residency(pin, at(FIRST + 3), &mut pages), Err(at(FIRST + 4)));
            object.set_size(pin, 5 << 12).unwrap();
            for page in [to + 3, moved + 3, FIRST + 3] {
                assert_eq!(touch(bench.sim, pin, &space, page, None), Err(FaultError::BeyondEnd));
            }
            object.set_size(pin, 8 << 12).unwrap();
            object.try_write(pin, 5 << 12, &6_u64.to_le_bytes()).unwrap();
            bench.leave(pin);
            drop(space);
        }
        bench.finish(pin, [], [object]);
    });
}

/// Their region has another number at the new place, for which the table has no room yet.
#[test]
fn private_pages_move_within_a_table() {
    let bench = Bench::new(1);
    bench.on(|pin| {
        let object = MemoryObject::anonymous(bench.service, pin, 8 << 12).unwrap();
        for page in 0..8_u64 {
            object.try_write(pin, page << 12, &(page + 1).to_le_bytes()).unwrap();
        }
        let space = bench.space(pin);
        let (first, to) = (1 << 18, (1 << 18) + 8);
        bench.map(pin, &space, &object, first, 4, 2, Sharing::Private);
        (0..4).for_each(|page| assert_eq!(bench.load(pin, &space, first + page), page + 3));
        bench.store(pin, &space, first + 1, 77);
        space.mremap(pin, at(first), 2 << 12, 2 << 12, Relocation::Fixed(at(to))).unwrap();
        let offset = |page| space.object_at(pin, at(page)).unwrap().offset >> 12;
        assert_eq!([to, to + 1, first + 2, first + 3].map(offset), [2, 3, 4, 5]);
        let seen = [to, to + 1, first + 2, first + 3].map(|page| bench.load(pin, &space, page));
        assert_eq!(seen, [3, 77, 5, 6]);
        bench.leave(pin);
        drop(space);
        bench.finish(pin, [], [object]);
    });
}

#[test]
fn requests_are_refused_that_make_no_sense() {
    let bench = Bench::new(1);
    bench.on(|pin| {
        let object = MemoryObject::anonymous(bench.service, pin, 4096).unwrap();
        let space = bench.space(pin);
        let map = |offset, length| {
            let request = MapRequest::anonymous(length).placed(Placement::Fixed(at(FIRST)));
            let mapping = ObjectMapping::new(&object, offset, Sharing::Shared);
            space.mmap_object(pin, &request, mapping)
        };
        assert!(map(1, 4096).is_err());
        assert!(map(u64::MAX << 12, 8192).is_err());
        assert!(map(0, 0).is_err());
        assert!(map(0, 4096).is_ok());
        bench.finish(pin, [space], [object]);
    });
}
