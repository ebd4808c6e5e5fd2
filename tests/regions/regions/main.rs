//! Regions on a simulated machine: cases by hand.
#![cfg(not(miri))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod forks;
mod stacks;

use space_support::{Space, activate, allocated, at, finish, touch};
use topomem::region::{
    FaultAccess, FaultError, Kind, MapRequest, MmapError, MprotectError, MremapError, MunmapError, PageFault,
    Placement, Relocation, Resolved,
};
use topomem::sim::{Fault, Sim, SimService};
use topomem::{Access, CpuId, CpuPin, PendingWork, VirtAddr};

#[path = "../space_support/mod.rs"]
mod space_support;

fn booted(cpus: usize) -> (&'static Sim, &'static SimService) {
    let sim = Sim::builder().nodes(2).cpus(cpus).memory(64 << 20).build().unwrap();
    (sim, sim.boot_service().unwrap())
}

#[test]
fn arguments_are_checked() {
    let (sim, service) = booted(1);
    sim.on(CpuId::BOOT, |pin| {
        let space = service.create_space(pin).unwrap();
        let mmap = |request: MapRequest| space.mmap(pin, &request);
        assert_eq!(mmap(MapRequest::anonymous(0)), Err(MmapError::Empty));
        let odd = VirtAddr::new(0x1001).unwrap();
        let fixed = MapRequest::anonymous(1).placed(Placement::Fixed(odd));
        assert_eq!(mmap(fixed), Err(MmapError::Misaligned(odd)));
        assert_eq!(mmap(MapRequest::anonymous(1 << 47)), Err(MmapError::NoRoom));
        assert_eq!(mmap(MapRequest::anonymous(u64::MAX)), Err(MmapError::NoRoom));
        let top = VirtAddr::new((1 << 47) - 4096).unwrap();
        assert_eq!(mmap(MapRequest::anonymous(1).placed(Placement::Fixed(top))), Err(MmapError::NoRoom));
        let null = VirtAddr::new(0).unwrap();
        assert_eq!(mmap(MapRequest::anonymous(1).placed(Placement::Fixed(null))), Err(MmapError::NoRoom));
        // A hint is rounded down, and given up if it is taken or out of range.
        let hint = MapRequest::anonymous(4096).placed(Placement::Hint(odd));
        assert_eq!(mmap(hint), Ok(at(1)));
        assert!(mmap(hint).unwrap() > at(1));
        assert!(mmap(hint.placed(Placement::Hint(top))).is_ok());
        assert_eq!(space.munmap(pin, odd, 1).unwrap_err(), MunmapError::Misaligned(odd));
        assert_eq!(space.munmap(pin, at(1), 0).unwrap_err(), MunmapError::Empty);
        assert_eq!(space.munmap(pin, top, 1).unwrap_err(), MunmapError::OutsideSpace);
        assert_eq!(space.munmap(pin, at(1), u64::MAX).unwrap_err(), MunmapError::OutsideSpace);
        space.munmap(pin, at(5), 1 << 30).unwrap().wait(pin);
        space.mprotect(pin, at(77), 0, Access::READ).unwrap().wait(pin);
        assert_eq!(space.mprotect(pin, odd, 1, Access::READ).unwrap_err(), MprotectError::Misaligned(odd));
        assert_eq!(space.mprotect(pin, top, 1, Access::READ).unwrap_err(), MprotectError::OutsideSpace);
        let kernel = service.kernel_space().unwrap();
        assert_eq!(kernel.mmap(pin, &MapRequest::anonymous(1)), Err(MmapError::KernelSpace));
    });
}

#[test]
fn regions_anywhere_lie_apart_and_are_found_again() {
    let (sim, service) = booted(1);
    sim.on(CpuId::BOOT, |pin| {
        let before = allocated(service);
        let space = service.create_randomized_space(pin, 0x123_4567).unwrap();
        let other = service.create_randomized_space(pin, 0x123_4568).unwrap();
        let one = |space: &Space, pages: u64| space.mmap(pin, &MapRequest::anonymous(pages << 12)).unwrap();
        let (first, second) = (one(&space, 3), one(&space, 5));
        assert_eq!(second.as_u64() + (5 << 12), first.as_u64());
        assert_eq!(one(&other, 3).as_u64() + 4096, first.as_u64(), "the seed decides");
        // What was freed last is found again, if it is long enough; else the search goes on below.
        space.munmap(pin, first, 3 << 12).unwrap().wait(pin);
        assert_eq!(one(&space, 3), first);
        space.munmap(pin, first, 3 << 12).unwrap().wait(pin);
        assert_eq!(one(&space, 4).as_u64() + (4 << 12), second.as_u64());
        space.munmap(pin, second, 5 << 12).unwrap().wait(pin);
        assert_eq!(one(&space, 2).as_u64() + (2 << 12), second.as_u64() + (5 << 12));
        // Longer than a CPU's part, and than what is free.
        let large = one(&space, 1 << 24);
        assert!(large < second);
        let request = MapRequest::anonymous(1 << 46);
        assert!(space.mmap(pin, &request).is_ok());
        assert_eq!(space.mmap(pin, &request), Err(MmapError::NoRoom));
        drop(other);
        finish(sim, service, pin, space, before);
    });
}

#[test]
fn untouched_memory_costs_a_few_words() {
    let (sim, service) = booted(1);
    sim.on(CpuId::BOOT, |pin| {
        let space = service.create_space(pin).unwrap();
        let before = allocated(service);
        let aligned = MapRequest::anonymous(1 << 40).placed(Placement::Fixed(at(1 << 28)));
        space.mmap(pin, &aligned).unwrap();
        assert_eq!(allocated(service), before, "two entries of the root");
        let skewed = MapRequest::anonymous(1 << 40).placed(Placement::Fixed(at((3 << 28) + 1)));
        space.mmap(pin, &skewed).unwrap();
        assert_eq!(allocated(service) - before, 6, "three tables at each end");
        activate(&space, pin);
        assert_eq!(touch(sim, pin, &space, (3 << 28) + 77_777_777, None), Ok(0));
        assert_eq!(space.mapped_pages(), 1);
    });
}

#[test]
fn faults_say_how_they_were_answered() {
    let (sim, service) = booted(1);
    sim.on(CpuId::BOOT, |pin| {
        let space = service.create_space(pin).unwrap();
        activate(&space, pin);
        let fault = |page, access| space.on_page_fault(pin, PageFault::new(at(page), access));
        let request = MapRequest::anonymous(4 << 12).placed(Placement::Fixed(at(100)));
        space.mmap(pin, &request).unwrap();
        assert_eq!(fault(100, FaultAccess::Read), Ok(Resolved::ZeroPage));
        assert_eq!(fault(100, FaultAccess::Read), Ok(Resolved::Spurious));
        assert_eq!(fault(100, FaultAccess::Write), Ok(Resolved::Zeroed));
        assert_eq!(fault(100, FaultAccess::Write), Ok(Resolved::Spurious));
        assert_eq!(fault(101, FaultAccess::Write), Ok(Resolved::Zeroed));
        assert_eq!(fault(101, FaultAccess::Execute), Err(FaultError::Denied));
        assert_eq!(fault(104, FaultAccess::Read), Err(FaultError::NotMapped));
        assert_eq!(fault(1 << 40, FaultAccess::Read), Err(FaultError::NotMapped));
        assert_eq!(space.minor_faults(), 5);
        assert_eq!(space.mapped_pages(), 2);
    });
}

#[test]
fn contents_outlive_a_time_without_access() {
    let (sim, service) = booted(1);
    sim.on(CpuId::BOOT, |pin| {
        let space = service.create_space(pin).unwrap();
        activate(&space, pin);
        space.mmap(pin, &MapRequest::anonymous(2 << 12).placed(Placement::Fixed(at(100)))).unwrap();
        touch(sim, pin, &space, 100, Some(77)).unwrap();
        space.mprotect(pin, at(100), 2 << 12, Access::NONE).unwrap().wait(pin);
        // The kernel does not find the page either.
        assert!(matches!(sim.load(at(100)), Err(Fault::NotPresent { .. })));
        assert_eq!(touch(sim, pin, &space, 100, None), Err(FaultError::Denied));
        assert!(space.translate(pin, at(100)).is_none());
        space.mprotect(pin, at(100), 2 << 12, Access::READ).unwrap().wait(pin);
        assert_eq!(touch(sim, pin, &space, 100, None), Ok(77));
        assert_eq!(touch(sim, pin, &space, 101, None), Ok(0));
        assert_eq!(touch(sim, pin, &space, 100, Some(1)), Err(FaultError::Denied));
    });
}

#[test]
fn the_program_break_moves() {
    let (sim, service) = booted(1);
    sim.on(CpuId::BOOT, |pin| {
        let before = allocated(service);
        let space = service.create_space(pin).unwrap();
        activate(&space, pin);
        let address = |address| VirtAddr::new(address).unwrap();
        let brk = |end| space.brk(pin, address(end)).as_u64();
        assert_eq!(brk(0x10_0000), 0, "no heap");
        space.set_heap_start(address(0x10_0800));
        assert_eq!(brk(0), 0x10_0800);
        assert_eq!(brk(0x10_0700), 0x10_0800, "below the start");
        assert_eq!(brk(1 << 47), 0x10_0800, "above what the space may map");
        assert_eq!(brk(0x10_0ff0), 0x10_0ff0, "in the page of the start, which is the program's");
        assert_eq!(touch(sim, pin, &space, 0x100, None), Err(FaultError::NotMapped));
        assert_eq!(brk(0x10_5123), 0x10_5123);
        assert_eq!(touch(sim, pin, &space, 0x105, Some(5)), Ok(5));
        assert_eq!(touch(sim, pin, &space, 0x106, Some(5)), Err(FaultError::NotMapped));
        assert_eq!(brk(0x10_4001), 0x10_4001);
        assert_eq!(touch(sim, pin, &space, 0x105, None), Err(FaultError::NotMapped));
        assert_eq!(brk(0x10_6000), 0x10_6000);
        assert_eq!(touch(sim, pin, &space, 0x105, None), Ok(0), "grown again, it is zero");
        // Another region is in the way.
        let fixed = Placement::Fixed(at(0x108));
        space.mmap(pin, &MapRequest::anonymous(4096).kind(Kind::Data).placed(fixed)).unwrap();
        assert_eq!(brk(0x10_9000), 0x10_6000);
        assert_eq!(brk(0x10_8000), 0x10_8000);
        assert_eq!(brk(1 << 47), 0x10_8000);
        finish(sim, service, pin, space, before);
    });
}

/// The regions, each as its first page, the page after it, its access and how many pages are mapped.
fn listed(space: &Space, pin: &CpuPin) -> Vec<(u64, u64, Access, u64)> {
    let mut regions = Vec::new();
    space.for_each_region(pin, |range| {
        let [start, end] = [range.start(), range.end()].map(|address| address.as_u64() >> 12);
        regions.push((start, end, range.region().access(), range.resident_pages()));
    });
    regions
}

#[test]
fn neighbours_that_are_alike_are_one_region() {
    let (sim, service) = booted(1);
    sim.on(CpuId::BOOT, |pin| {
        let space = service.create_space(pin).unwrap();
        activate(&space, pin);
        assert_eq!(listed(&space, pin), []);
        let map = |page: u64, count: u64| {
            let request = MapRequest::anonymous(count << 12).placed(Placement::FixedNoReplace(at(page)));
            space.mmap(pin, &request).unwrap();
        };
        map(500, 20);
        map(520, 1000);
        assert_eq!(listed(&space, pin), [(500, 1520, Access::WRITE, 0)]);
        for page in [500, 511, 512, 1519] {
            touch(sim, pin, &space, page, Some(page)).unwrap();
        }
        space.mprotect(pin, at(511), 2 << 12, Access::READ).unwrap().wait(pin);
        let (read, write) = (Access::READ, Access::WRITE);
        let expected = [(500, 511, write, 1), (511, 513, read, 2), (513, 1520, write, 1)];
        assert_eq!(listed(&space, pin), expected);
        assert_eq!(space.next_region(pin, at(600)).unwrap().length(), (1520 - 600) << 12);
        space.mprotect(pin, at(511), 2 << 12, write).unwrap().wait(pin);
        assert_eq!(listed(&space, pin), [(500, 1520, write, 4)]);
        space.munmap(pin, at(600), 5 << 12).unwrap().wait(pin);
        map(1 << 28, 1 << 30);
        let expected =
            [(500, 600, write, 3), (605, 1520, write, 1), (1 << 28, (1 << 28) + (1 << 30), write, 0)];
        assert_eq!(listed(&space, pin), expected);
        for page in [500, 511, 512, 1519] {
            assert_eq!(touch(sim, pin, &space, page, None), Ok(page));
        }
    });
}

#[test]
fn regions_grow_in_place_or_move() {
    let (sim, service) = booted(1);
    sim.on(CpuId::BOOT, |pin| {
        let before = allocated(service);
        let space = service.create_space(pin).unwrap();
        activate(&space, pin);
        let map = |page: u64, count: u64| {
            let request = MapRequest::anonymous(count << 12).placed(Placement::FixedNoReplace(at(page)));
            space.mmap(pin, &request).unwrap();
        };
        let remap = |page, old: u64, new: u64, relocation| {
            space.mremap(pin, at(page), old << 12, new << 12, relocation)
        };
        map(100, 4);
        touch(sim, pin, &space, 102, Some(102)).unwrap();
        assert_eq!(remap(100, 0, 1, Relocation::MayMove), Err(MremapError::Empty));
        assert_eq!(remap(100, 1, 0, Relocation::MayMove), Err(MremapError::Empty));
        assert_eq!(remap(99, 1, 1, Relocation::MayMove), Err(MremapError::NoRegion(at(99))));
        assert_eq!(remap(100, 5, 6, Relocation::MayMove), Err(MremapError::NoRegion(at(104))));
        assert_eq!(remap(100, 4, 8, Relocation::InPlace), Ok(at(100)));
        assert_eq!(remap(100, 8, 6, Relocation::InPlace), Ok(at(100)));
        assert_eq!(listed(&space, pin), [(100, 106, Access::WRITE, 1)]);
        map(107, 1);
        assert_eq!(remap(100, 6, 8, Relocation::InPlace), Err(MremapError::NoRoom));
        assert_eq!(remap(100, 2, 4, Relocation::InPlace), Err(MremapError::NoRoom));
        let moved = remap(100, 6, 700, Relocation::MayMove).unwrap().as_u64() >> 12;
        assert_eq!(
            listed(&space, pin),
            [(107, 108, Access::WRITE, 0), (moved, moved + 700, Access::WRITE, 1)]
        );
        assert_eq!(touch(sim, pin, &space, moved + 2, None), Ok(102));
        assert_eq!(touch(sim, pin, &space, moved + 699, Some(1)), Ok(1));
        // 2 MiB and more of marks, to a place of another alignment.
        map(1 << 20, 2048);
        assert_eq!(remap(1 << 20, 2048, 2048, Relocation::Fixed(at((1 << 21) + 3))), Ok(at((1 << 21) + 3)));
        assert_eq!(space.next_region(pin, at(1 << 20)).unwrap().start(), at((1 << 21) + 3));
        assert_eq!(touch(sim, pin, &space, (1 << 21) + 3 + 2047, Some(1)), Ok(1));
        assert_eq!(touch(sim, pin, &space, (1 << 21) + 3 + 2048, None), Err(FaultError::NotMapped));
        finish(sim, service, pin, space, before);
    });
}

/// A large region takes no tables before it is used, and none stay when it is replaced or unmapped.
#[test]
fn large_regions_keep_no_tables_that_say_the_same_everywhere() {
    const BYTES: u64 = 8 << 20;
    let (sim, service) = booted(1);
    sim.on(CpuId::BOOT, |pin| {
        let before = allocated(service);
        let space = service.create_space(pin).unwrap();
        activate(&space, pin);
        let request = MapRequest::anonymous(BYTES);
        let map = || space.mmap(pin, &request).unwrap();
        let settled = || {
            while service.run_pending_work(pin) != PendingWork::Done {
                sim.take_interrupts();
            }
            allocated(service)
        };
        let start = map();
        assert!(start.as_u64().is_multiple_of(2 << 20));
        let (first, untouched) = (start.as_u64() >> 12, settled());
        // All of it changes as one, and parts of it do.
        space.mprotect(pin, start, BYTES, Access::READ).unwrap().wait(pin);
        assert_eq!(touch(sim, pin, &space, first, Some(1)), Err(FaultError::Denied));
        space.mprotect(pin, start, BYTES, Access::WRITE).unwrap().wait(pin);
        assert_eq!(settled(), untouched);
        space.mprotect(pin, at(first + 512), 4096, Access::READ).unwrap().wait(pin);
        assert_eq!(touch(sim, pin, &space, first + 512, Some(1)), Err(FaultError::Denied));
        for page in [0, 511, 513, 2047] {
            assert_eq!(touch(sim, pin, &space, first + page, Some(page)), Ok(page));
        }
        assert!(settled() > untouched);
        space.mmap(pin, &request.placed(Placement::Fixed(start))).unwrap();
        assert_eq!(settled(), untouched, "tables of what was replaced stay");
        assert_eq!(touch(sim, pin, &space, first + 511, None), Ok(0));
        space.munmap(pin, start, BYTES).unwrap().wait(pin);
        assert_eq!(settled(), untouched);
        assert_eq!(map(), start);
        space.munmap(pin, start, BYTES).unwrap().wait(pin);
        finish(sim, service, pin, space, before);
    });
}
