//! Large pages of regions on a simulated machine: asked for, used without asking, split, collapsed.
#![cfg(not(miri))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod collapse;
mod parts;
mod shortage;

use std::sync::atomic::{AtomicBool, Ordering};

use space_support::{Space, activate, allocated, at, deactivate, touch};
use topomem::region::{
    Advice, CollapseError, FaultAccess, FaultError, HugePages, MapRequest, MmapError, PageFault, Placement,
    Populate, Resolved, Transparent,
};
use topomem::sim::{Fault, Sim, SimService};
use topomem::{Access, CpuId, CpuPin, PageSize, PendingWork, VirtAddr};

#[path = "../space_support/mod.rs"]
mod space_support;

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
