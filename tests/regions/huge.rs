//! Large pages of regions on a simulated machine: asked for, used without asking, split, collapsed.
#![cfg(not(miri))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::atomic::{AtomicBool, Ordering};

use topomem::frames::FrameRequest;
use topomem::region::{
    Advice, CollapseError, FaultAccess, FaultError, HugePages, MapRequest, MmapError, PageFault, Placement,
    Populate, Relocation, Resolved, Transparent,
};
use topomem::sim::{Fault, Sim, SimService};
use topomem::{Access, CpuId, CpuPin, Order, PageSize, PendingWork, PhysFrame, VirtAddr};

mod space_support;
use space_support::{Space, activate, allocated, at, deactivate, touch};

const HUGE: u64 = 512;
const BYTES: u64 = 2 << 20;
/// A page that begins 1 GiB.
const FIRST: u64 = 1 << 19;

fn booted(cpus: usize, bytes: u64) -> (&'static Sim, &'static SimService) {
    let sim = Sim::builder().cpus(cpus).memory(bytes).build().unwrap();
    (sim, sim.boot_service().unwrap())
}

/// Writes to `page` what is to be read there.
fn write(sim: &'static Sim, pin: &CpuPin, space: &Space, page: u64) {
    touch(sim, pin, space, page, Some(page)).unwrap();
}

fn read(sim: &'static Sim, pin: &CpuPin, space: &Space, page: u64) -> u64 {
    touch(sim, pin, space, page, None).unwrap()
}

/// The size of the page that maps `page`; `None` if none does.
fn size_of(space: &Space, pin: &CpuPin, page: u64) -> Option<PageSize> {
    space.translate(pin, at(page)).map(|found| found.size)
}

fn finish(sim: &'static Sim, service: &'static SimService, pin: &CpuPin, space: Space, before: u64) {
    deactivate(service, pin);
    drop(space);
    while service.run_pending_work(pin) != PendingWork::Done {
        sim.take_interrupts();
    }
    assert_eq!(allocated(service), before, "frames leaked");
}

/// Runs `body` with a space whose setting is `setting`, active on a CPU, and checks that no frame is missing
/// afterwards.
fn with_space(
    setting: HugePages,
    bytes: u64,
    body: impl FnOnce(&'static Sim, &'static SimService, &CpuPin, &Space),
) {
    let (sim, service) = booted(1, bytes);
    sim.on(CpuId::BOOT, |pin| {
        let before = allocated(service);
        let space = service.create_space(pin).unwrap();
        space.set_huge_pages(setting);
        activate(&space, pin);
        body(sim, service, pin, &space);
        finish(sim, service, pin, space, before);
    });
}

/// A region of `count` pages from [`FIRST`] on.
fn map(space: &Space, pin: &CpuPin, count: u64) {
    let request = MapRequest::anonymous(count << 12).placed(Placement::FixedNoReplace(at(FIRST)));
    space.mmap(pin, &request).unwrap();
}

const MEMORY: u64 = 64 << 20;

#[test]
fn a_first_write_maps_two_mib_where_they_are_whole() {
    with_space(HugePages::Always, MEMORY, |sim, _, pin, space| {
        let request = MapRequest::anonymous(BYTES + (3 << 12)).placed(Placement::Fixed(at(FIRST - 2)));
        space.mmap(pin, &request).unwrap();
        write(sim, pin, space, FIRST + 7);
        write(sim, pin, space, FIRST - 1);
        write(sim, pin, space, FIRST + HUGE);
        assert_eq!(size_of(space, pin, FIRST), Some(PageSize::Size2MiB));
        assert_eq!(size_of(space, pin, FIRST - 1), Some(PageSize::Size4KiB));
        assert_eq!(size_of(space, pin, FIRST + HUGE), Some(PageSize::Size4KiB));
        assert_eq!(space.mapped_pages(), HUGE + 2);
        assert_eq!(read(sim, pin, space, FIRST + 8), 0);
        assert_eq!(read(sim, pin, space, FIRST + 7), FIRST + 7);
        let region = space.next_region(pin, at(FIRST - 2)).unwrap();
        assert_eq!((region.start(), region.resident_pages()), (at(FIRST - 2), HUGE + 2));
    });
}

#[test]
fn the_setting_and_the_advice_decide() {
    let sizes = |setting, advice: Option<Advice>| {
        let mut size = None;
        with_space(setting, MEMORY, |sim, _, pin, space| {
            map(space, pin, HUGE);
            if let Some(advice) = advice {
                space.madvise(pin, at(FIRST), BYTES, advice).unwrap().wait(pin);
            }
            write(sim, pin, space, FIRST + 9);
            size = size_of(space, pin, FIRST + 9);
        });
        size.unwrap()
    };
    assert_eq!(sizes(HugePages::Never, Some(Advice::Huge)), PageSize::Size4KiB);
    assert_eq!(sizes(HugePages::Advised, None), PageSize::Size4KiB);
    assert_eq!(sizes(HugePages::Advised, Some(Advice::Huge)), PageSize::Size2MiB);
    assert_eq!(sizes(HugePages::Always, None), PageSize::Size2MiB);
    assert_eq!(sizes(HugePages::Always, Some(Advice::NoHuge)), PageSize::Size4KiB);
}

#[test]
fn regions_that_are_made_anywhere_are_aligned() {
    with_space(HugePages::Always, MEMORY, |_, _, pin, space| {
        for pages in [HUGE, HUGE + 1, 3 * HUGE - 1] {
            let start = space.mmap(pin, &MapRequest::anonymous(pages << 12)).unwrap();
            assert_eq!(start.as_u64() % BYTES, 0);
        }
    });
}

#[test]
fn pages_of_a_size_are_mapped_or_refused() {
    with_space(HugePages::Never, MEMORY, |sim, _, pin, space| {
        let request = MapRequest::huge(BYTES + 1, PageSize::Size2MiB);
        let start = space.mmap(pin, &request).unwrap();
        let first = start.as_u64() >> 12;
        assert_eq!(first % HUGE, 0);
        assert_eq!(space.next_region(pin, start).unwrap().length(), 2 * BYTES);
        assert_eq!(read(sim, pin, space, first + HUGE), 0);
        assert_eq!(size_of(space, pin, first + HUGE), Some(PageSize::Size2MiB));
        let odd = MapRequest::huge(BYTES, PageSize::Size2MiB).placed(Placement::Fixed(at(FIRST + 1)));
        assert_eq!(space.mmap(pin, &odd), Err(MmapError::Misaligned(at(FIRST + 1))));

        // There is no free GiB.
        let giant = MapRequest::huge(1, PageSize::Size1GiB);
        let refused = space.mmap(pin, &giant.populate(Populate::Now));
        assert!(matches!(refused, Err(MmapError::NoLargePage(PageSize::Size1GiB, _))), "{refused:?}");
        let start = space.mmap(pin, &giant).unwrap();
        assert_eq!(start.as_u64() % (1 << 30), 0);
        let refused = space.on_page_fault(pin, PageFault::new(start, FaultAccess::Write));
        assert!(matches!(refused, Err(FaultError::NoLargePage(PageSize::Size1GiB, _))), "{refused:?}");
        assert_eq!(space.mapped_pages(), HUGE);
    });
}

#[test]
fn more_pages_of_a_size_than_there_are_leave_nothing() {
    with_space(HugePages::Never, 16 << 20, |_, service, pin, space| {
        let before = allocated(service);
        let request = MapRequest::huge(64 << 20, PageSize::Size2MiB).populate(Populate::Now);
        let refused = space.mmap(pin, &request);
        assert!(matches!(refused, Err(MmapError::NoLargePage(PageSize::Size2MiB, _))), "{refused:?}");
        assert_eq!(space.next_region(pin, at(1)), None);
        assert_eq!(space.mapped_pages(), 0);
        while service.run_pending_work(pin) != PendingWork::Done {}
        assert!(allocated(service) <= before + 4, "tables alone stay");
    });
}

/// Cuts `part` pages out of the middle of a page of 2 MiB in each way there is.
#[test]
fn parts_of_a_large_page_change_alone() {
    type Change = fn(&Space, &CpuPin, VirtAddr, u64);
    let changes: [(Change, Option<u64>); 4] = [
        (|space, pin, start, bytes| space.munmap(pin, start, bytes).unwrap().wait(pin), None),
        (
            |space, pin, start, bytes| {
                space.mprotect(pin, start, bytes, Access::READ).unwrap().wait(pin);
                space.mprotect(pin, start, bytes, Access::WRITE).unwrap().wait(pin);
            },
            Some(1),
        ),
        (
            |space, pin, start, bytes| {
                space.madvise(pin, start, bytes, Advice::DontNeed).unwrap().wait(pin);
            },
            Some(0),
        ),
        (
            |space, pin, start, bytes| {
                let to = Relocation::Fixed(at(FIRST + 4 * HUGE + 3));
                space.mremap(pin, start, bytes, bytes, to).unwrap();
                space.mremap(pin, at(FIRST + 4 * HUGE + 3), bytes, bytes, Relocation::Fixed(start)).unwrap();
            },
            Some(1),
        ),
    ];
    for request in [MapRequest::anonymous(BYTES), MapRequest::huge(BYTES, PageSize::Size2MiB)] {
        for (change, left) in changes {
            for (first, count) in [(0, 1), (100, 7), (511, 1), (0, 511)] {
                with_space(HugePages::Always, MEMORY, |sim, _, pin, space| {
                    space.mmap(pin, &request.placed(Placement::Fixed(at(FIRST)))).unwrap();
                    for page in FIRST..FIRST + HUGE {
                        touch(sim, pin, space, page, Some(1)).unwrap();
                    }
                    let region = space.next_region(pin, at(FIRST)).unwrap().region();
                    assert_eq!(size_of(space, pin, FIRST), Some(PageSize::Size2MiB));
                    change(space, pin, at(FIRST + first), count << 12);
                    for page in 0..HUGE {
                        let inside = (first..first + count).contains(&page);
                        let found = touch(sim, pin, space, FIRST + page, None);
                        let expected = if inside { left } else { Some(1) };
                        assert_eq!(found.ok(), expected, "page {page} of {first}, {count}");
                    }
                    let outside = if first == 0 { FIRST + count } else { FIRST };
                    let found = space.next_region(pin, at(outside)).unwrap();
                    assert_eq!(found.region(), region, "ids are kept");
                });
            }
        }
    }
}

#[test]
fn a_whole_page_that_is_moved_stays_large() {
    with_space(HugePages::Always, MEMORY, |sim, _, pin, space| {
        map(space, pin, HUGE);
        write(sim, pin, space, FIRST + 3);
        let region = space.next_region(pin, at(FIRST)).unwrap().region();
        let to = FIRST + 9 * HUGE;
        space.mremap(pin, at(FIRST), BYTES, BYTES, Relocation::Fixed(at(to))).unwrap();
        assert_eq!(size_of(space, pin, to), Some(PageSize::Size2MiB));
        assert_eq!(read(sim, pin, space, to + 3), FIRST + 3);
        assert_eq!(space.next_region(pin, at(to)).unwrap().region(), region, "the region moves, too");
        let odd = to + 4 * HUGE + 1;
        space.mremap(pin, at(to), BYTES, BYTES, Relocation::Fixed(at(odd))).unwrap();
        assert_eq!(size_of(space, pin, odd), Some(PageSize::Size4KiB));
        assert_eq!(read(sim, pin, space, odd + 3), FIRST + 3);
        assert_eq!(space.next_region(pin, at(odd)).unwrap().region(), region);
        // It grows, so that it has to move.
        map(space, pin, 1);
        let grown = space.mremap(pin, at(odd), BYTES, 2 * BYTES, Relocation::MayMove).unwrap();
        assert_eq!(read(sim, pin, space, (grown.as_u64() >> 12) + 3), FIRST + 3);
    });
}

#[test]
fn a_fork_shares_large_pages_and_their_last_holder_reuses_them() {
    with_space(HugePages::Always, MEMORY, |sim, service, pin, parent| {
        map(parent, pin, 2 * HUGE);
        write(sim, pin, parent, FIRST);
        write(sim, pin, parent, FIRST + 1);
        write(sim, pin, parent, FIRST + HUGE);
        let child = parent.fork(pin).unwrap();
        assert_eq!(child.huge_pages(), HugePages::Always);
        let fault = |page| PageFault::new(at(page), FaultAccess::Write);
        // A part is copied; the rest is shared.
        assert_eq!(child.on_page_fault(pin, fault(FIRST)).unwrap(), Resolved::Copied);
        assert_eq!(size_of(&child, pin, FIRST), Some(PageSize::Size4KiB));
        assert_eq!(size_of(parent, pin, FIRST), Some(PageSize::Size2MiB));
        activate(&child, pin);
        touch(sim, pin, &child, FIRST, Some(5)).unwrap();
        assert_eq!(read(sim, pin, &child, FIRST + 1), FIRST + 1);
        activate(parent, pin);
        assert_eq!(read(sim, pin, parent, FIRST), FIRST);
        drop(child);
        while service.run_pending_work(pin) != PendingWork::Done {}
        // All of each page is the parent's alone.
        for page in [FIRST, FIRST + HUGE] {
            assert_eq!(parent.on_page_fault(pin, fault(page)).unwrap(), Resolved::Reused);
            assert_eq!(size_of(parent, pin, page), Some(PageSize::Size2MiB));
            write(sim, pin, parent, page + 2);
            assert_eq!(read(sim, pin, parent, page), page);
        }
        parent.munmap(pin, at(FIRST + 5), 1 << 12).unwrap().wait(pin);
        assert_eq!(read(sim, pin, parent, FIRST + 2), FIRST + 2);
    });
}

#[test]
fn tables_left_over_do_not_keep_pages_small() {
    with_space(HugePages::Always, MEMORY, |sim, _, pin, space| {
        map(space, pin, HUGE);
        write(sim, pin, space, FIRST);
        // Page by page: the table stays.
        for page in FIRST..FIRST + HUGE {
            space.munmap(pin, at(page), 1 << 12).unwrap().wait(pin);
        }
        map(space, pin, HUGE);
        write(sim, pin, space, FIRST + 1);
        assert_eq!(size_of(space, pin, FIRST), Some(PageSize::Size2MiB));
        // A page is given up, then all of them.
        space.madvise(pin, at(FIRST), 1 << 12, Advice::DontNeed).unwrap().wait(pin);
        assert_eq!(size_of(space, pin, FIRST + 1), Some(PageSize::Size4KiB));
        space.madvise(pin, at(FIRST), BYTES, Advice::DontNeed).unwrap().wait(pin);
        write(sim, pin, space, FIRST + 2);
        assert_eq!(size_of(space, pin, FIRST), Some(PageSize::Size2MiB));
        assert_eq!(read(sim, pin, space, FIRST + 1), 0);
    });
}

#[test]
fn without_a_free_run_pages_are_small() {
    with_space(HugePages::Always, 8 << 20, |sim, service, pin, space| {
        let mut held = Vec::new();
        while let Ok(run) = service.alloc(pin, &FrameRequest::order(Order::HUGE)) {
            held.push(run);
        }
        map(space, pin, HUGE);
        write(sim, pin, space, FIRST + 1);
        assert_eq!(size_of(space, pin, FIRST + 1), Some(PageSize::Size4KiB));
        assert_eq!(space.mapped_pages(), 1);
        let refused = space.collapse(pin, at(FIRST), BYTES);
        assert!(matches!(refused, Err(CollapseError::OutOfFrames(_))), "{refused:?}");
        write(sim, pin, space, FIRST + 1);
        for run in held {
            // SAFETY: it was allocated above, and nobody uses it.
            unsafe { service.frames().free(pin, run, Order::HUGE) }.unwrap();
        }
        space.collapse(pin, at(FIRST), BYTES).unwrap();
        assert_eq!(size_of(space, pin, FIRST + 1), Some(PageSize::Size2MiB));
        assert_eq!(read(sim, pin, space, FIRST + 1), FIRST + 1);
    });
}

#[test]
fn a_collapse_keeps_contents_and_region() {
    with_space(HugePages::Never, MEMORY, |sim, _, pin, space| {
        map(space, pin, 3 * HUGE);
        // Some are written, some read, and some shared.
        for page in [1, 2, 77, 511] {
            write(sim, pin, space, FIRST + page);
        }
        assert_eq!(read(sim, pin, space, FIRST + 5), 0);
        let child = space.fork(pin).unwrap();
        write(sim, pin, space, FIRST + 2);
        let region = space.next_region(pin, at(FIRST)).unwrap();
        // Less than 2 MiB stays as it is.
        space.collapse(pin, at(FIRST + 1), BYTES).unwrap();
        assert_eq!(size_of(space, pin, FIRST + 1), Some(PageSize::Size4KiB));
        space.collapse(pin, at(FIRST), 3 * BYTES).unwrap();
        assert_eq!(size_of(space, pin, FIRST), Some(PageSize::Size2MiB));
        assert_eq!(size_of(space, pin, FIRST + HUGE), None, "nothing was mapped there");
        assert_eq!(space.mapped_pages(), HUGE);
        let after = space.next_region(pin, at(FIRST)).unwrap();
        assert_eq!(
            (after.start(), after.length(), after.region()),
            (region.start(), region.length(), region.region())
        );
        for page in 0..HUGE {
            let expected = if [1, 2, 77, 511].contains(&page) { FIRST + page } else { 0 };
            assert_eq!(read(sim, pin, space, FIRST + page), expected);
        }
        write(sim, pin, space, FIRST + 9);
        assert_eq!(size_of(space, pin, FIRST + 9), Some(PageSize::Size2MiB), "the space's alone");
        assert_eq!(child.translate(pin, at(FIRST + 1)).unwrap().size, PageSize::Size4KiB);
        drop(child);
        // Cut again, and made one again, in part by other frames.
        space.madvise(pin, at(FIRST + 3), 1 << 12, Advice::DontNeed).unwrap().wait(pin);
        write(sim, pin, space, FIRST + 3);
        space.collapse(pin, at(FIRST), BYTES).unwrap();
        assert_eq!(size_of(space, pin, FIRST + 9), Some(PageSize::Size2MiB));
        assert_eq!(read(sim, pin, space, FIRST + 77), FIRST + 77);
    });
}

#[test]
fn what_is_of_several_regions_is_not_collapsed() {
    with_space(HugePages::Never, MEMORY, |sim, _, pin, space| {
        map(space, pin, HUGE);
        write(sim, pin, space, FIRST);
        space.mprotect(pin, at(FIRST + 3), 1 << 12, Access::READ).unwrap().wait(pin);
        assert_eq!(space.collapse(pin, at(FIRST), BYTES), Err(CollapseError::Unfit(at(FIRST))));
        space.munmap(pin, at(FIRST + 3), 1 << 12).unwrap().wait(pin);
        assert_eq!(space.collapse(pin, at(FIRST), BYTES), Err(CollapseError::Unfit(at(FIRST))));
        assert_eq!(space.mapped_pages(), 1);
        let code = MapRequest::anonymous(BYTES).access(Access::EXECUTE);
        let start = space.mmap(pin, &code.placed(Placement::Fixed(at(FIRST + 8 * HUGE)))).unwrap();
        space.on_page_fault(pin, PageFault::new(start, FaultAccess::Execute)).unwrap();
        assert_eq!(space.collapse(pin, start, BYTES), Err(CollapseError::Unfit(start)));
    });
}

#[test]
fn regions_say_whether_large_pages_are_permitted() {
    with_space(HugePages::Advised, MEMORY, |_, _, pin, space| {
        map(space, pin, 2 * HUGE);
        space.madvise(pin, at(FIRST), BYTES, Advice::Huge).unwrap().wait(pin);
        let region = space.next_region(pin, at(FIRST)).unwrap();
        assert_eq!((region.length(), region.region().transparent()), (BYTES, Transparent::Permitted));
        space.madvise(pin, at(FIRST), BYTES, Advice::NoHuge).unwrap().wait(pin);
        assert_eq!(space.next_region(pin, at(FIRST)).unwrap().length(), 2 * BYTES);
    });
}

#[test]
fn a_first_write_maps_what_is_around() {
    with_space(HugePages::Never, MEMORY, |sim, _, pin, space| {
        space.set_fault_around(17);
        assert_eq!(space.fault_around(), 16);
        let request = MapRequest::anonymous((HUGE + 20) << 12).placed(Placement::Fixed(at(FIRST - 10)));
        space.mmap(pin, &request).unwrap();
        // It ends where the region does, and where the table does.
        write(sim, pin, space, FIRST - 8);
        assert_eq!(space.mapped_pages(), 10);
        write(sim, pin, space, FIRST + HUGE + 1);
        assert_eq!(space.mapped_pages(), 20);
        // Pages that are mapped stay as they are, and those of other regions.
        assert_eq!(read(sim, pin, space, FIRST + 33), 0);
        write(sim, pin, space, FIRST + 34);
        assert_eq!(space.mapped_pages(), 36);
        space.mprotect(pin, at(FIRST + 50), 2 << 12, Access::READ).unwrap().wait(pin);
        space.madvise(pin, at(FIRST + 52), 1 << 12, Advice::GuardInstall).unwrap().wait(pin);
        write(sim, pin, space, FIRST + 49);
        assert_eq!(space.mapped_pages(), 49);
        for page in [50, 51, 52] {
            assert!(touch(sim, pin, space, FIRST + page, Some(1)).is_err());
        }
        for page in 53..64 {
            assert_eq!(size_of(space, pin, FIRST + page), Some(PageSize::Size4KiB));
            assert_eq!(read(sim, pin, space, FIRST + page), 0);
        }
        assert_eq!(read(sim, pin, space, FIRST + 34), FIRST + 34);
        write(sim, pin, space, FIRST + 33);
        let child = space.fork(pin).unwrap();
        assert_eq!(child.fault_around(), 16);
        assert_eq!(child.mapped_pages(), space.mapped_pages());
        let regions = |space: &Space| {
            let mut found = Vec::new();
            let mut from = at(1);
            while let Some(range) = space.next_region(pin, from) {
                found.push((range.start(), range.length(), range.region()));
                from = range.end();
            }
            found
        };
        assert_eq!(regions(&child), regions(space));
        assert_eq!(regions(space).len(), 4);
    });
}

/// Takes all free frames but `singles` of 4 KiB and `runs` of 2 MiB. Returns what it took.
fn starve(service: &SimService, pin: &CpuPin, singles: usize, runs: usize) -> Vec<(PhysFrame, Order)> {
    let mut held = Vec::new();
    for order in [Order::HUGE, Order::FRAME] {
        while let Ok(frame) = service.frames().alloc(pin, &FrameRequest::order(order)) {
            held.push((frame, order));
        }
    }
    for (order, count) in [(Order::FRAME, singles), (Order::HUGE, runs)] {
        for _ in 0..count {
            let of_order = held.iter().position(|&(_, of)| of == order).unwrap();
            give_back(service, pin, [held.swap_remove(of_order)]);
        }
    }
    held
}

fn give_back(service: &SimService, pin: &CpuPin, held: impl IntoIterator<Item = (PhysFrame, Order)>) {
    for (frame, order) in held {
        // SAFETY: it was allocated by the caller, and nobody uses it.
        unsafe { service.frames().free(pin, frame, order) }.unwrap();
    }
}

/// With each small number of free frames: an operation succeeds, or changes nothing; and none is lost.
#[test]
fn memory_that_runs_out_changes_nothing() {
    type Operation = fn(&Space, &CpuPin) -> bool;
    let operations: [(&str, Operation); 7] = [
        ("unmap a part", |space, pin| match space.munmap(pin, at(FIRST + 3), 1 << 12) {
            Ok(unmapping) => {
                unmapping.wait(pin);
                true
            }
            Err(_) => false,
        }),
        ("protect a part", |space, pin| match space.mprotect(pin, at(FIRST + 3), 1 << 12, Access::READ) {
            Ok(unmapping) => {
                unmapping.wait(pin);
                true
            }
            Err(_) => false,
        }),
        ("give up a part", |space, pin| match space.madvise(pin, at(FIRST + 3), 1 << 12, Advice::DontNeed) {
            Ok(unmapping) => {
                unmapping.wait(pin);
                true
            }
            Err(_) => false,
        }),
        ("move to where it is cut", |space, pin| {
            let to = Relocation::Fixed(at(FIRST + 8 * HUGE + 1));
            space.mremap(pin, at(FIRST), BYTES, BYTES, to).is_ok()
        }),
        ("fork", |space, pin| space.fork(pin).is_ok()),
        ("collapse", |space, pin| space.collapse(pin, at(FIRST + HUGE), BYTES).is_ok()),
        ("a first write", |space, pin| {
            space.on_page_fault(pin, PageFault::new(at(FIRST + 2 * HUGE), FaultAccess::Write)).is_ok()
        }),
    ];
    for (name, operation) in operations {
        let mut outcomes = Vec::new();
        for (singles, runs) in
            [(0, 0), (1, 0), (2, 0), (3, 0), (4, 0), (6, 0), (9, 0), (0, 1), (3, 1), (9, 1)]
        {
            with_space(HugePages::Always, 16 << 20, |sim, service, pin, space| {
                map(space, pin, 3 * HUGE);
                write(sim, pin, space, FIRST + 3);
                space.set_huge_pages(HugePages::Never);
                for page in [0, 7, 300] {
                    write(sim, pin, space, FIRST + HUGE + page);
                }
                space.set_huge_pages(HugePages::Always);
                let (mapped, region) = (space.mapped_pages(), space.next_region(pin, at(FIRST)));
                let held = starve(service, pin, singles, runs);
                let done = operation(space, pin);
                give_back(service, pin, held);
                outcomes.push(done);
                if !done {
                    assert_eq!(space.mapped_pages(), mapped, "{name}, {singles}, {runs}");
                    assert_eq!(space.next_region(pin, at(FIRST)), region, "{name}, {singles}, {runs}");
                    assert_eq!(read(sim, pin, space, FIRST + 3), FIRST + 3);
                }
                for page in [0, 7, 300].map(|page| FIRST + HUGE + page) {
                    assert_eq!(read(sim, pin, space, page), page, "{name}");
                    write(sim, pin, space, page);
                }
            });
        }
        assert!(outcomes.contains(&true) && outcomes.contains(&false), "{name}: {outcomes:?}");
    }
}

/// Threads write words that are theirs alone, while others collapse, cut, protect and fork the same pages.
#[test]
fn no_write_is_lost_while_pages_change_their_size() {
    let rounds = if cfg!(debug_assertions) { 40 } else { 200 };
    let (sim, service) = booted(4, 128 << 20);
    let before = sim.on(CpuId::BOOT, |_| allocated(service));
    let space = sim.on(CpuId::BOOT, |pin| service.create_space(pin).unwrap());
    space.set_huge_pages(HugePages::Always);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (space, done) = (&space, &done);
        for cpu in 1..4_u64 {
            scope.spawn(move || {
                sim.on(CpuId::new(cpu as usize).unwrap(), |pin| {
                    activate(space, pin);
                    let mut last = std::collections::BTreeMap::new();
                    let mut turn = 0_u64;
                    while !done.load(Ordering::Relaxed) {
                        turn += 1;
                        sim.take_interrupts();
                        // A word of its own in each page.
                        let page = FIRST + (turn * 37 + cpu) % HUGE;
                        let word = VirtAddr::new((page << 12) + 8 * cpu).unwrap();
                        let access = |store: Option<u64>| loop {
                            let outcome = match store {
                                Some(value) => sim.store(word, value).map(|()| value),
                                None => sim.load(word),
                            };
                            let tried = if store.is_some() { FaultAccess::Write } else { FaultAccess::Read };
                            match outcome {
                                Ok(value) => break Some(value),
                                Err(Fault::NotPresent { .. } | Fault::Denied { .. }) => {
                                    match space.on_page_fault(pin, PageFault::new(word, tried)) {
                                        Ok(_) => {}
                                        Err(FaultError::NotMapped | FaultError::Denied) => break None,
                                        Err(error) => panic!("{error}"),
                                    }
                                }
                                Err(other) => panic!("{other}"),
                            }
                        };
                        if let Some(found) = access(None) {
                            let expected = last.get(&page).copied().unwrap_or(0);
                            assert_eq!(found, expected, "page {page:#x} of CPU {cpu}");
                        }
                        if access(Some(turn)).is_some() {
                            last.insert(page, turn);
                        }
                    }
                    deactivate(service, pin);
                });
            });
        }
        sim.on(CpuId::BOOT, |pin| {
            activate(space, pin);
            map(space, pin, HUGE);
            for round in 0..rounds {
                let part = FIRST + round * 61 % HUGE;
                match round % 4 {
                    0 => {
                        space.mprotect(pin, at(part), 1 << 12, Access::READ).unwrap().wait(pin);
                        space.mprotect(pin, at(part), 1 << 12, Access::WRITE).unwrap().wait(pin);
                    }
                    1 => drop(space.fork(pin).unwrap()),
                    _ => match space.collapse(pin, at(FIRST), BYTES) {
                        Ok(()) | Err(CollapseError::Busy(_)) => {}
                        Err(error) => panic!("{error}"),
                    },
                }
                let _ = service.run_pending_work(pin);
            }
            done.store(true, Ordering::Relaxed);
            deactivate(service, pin);
        });
    });
    sim.on(CpuId::BOOT, |pin| finish(sim, service, pin, space, before));
}
