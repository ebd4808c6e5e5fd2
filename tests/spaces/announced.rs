//! Page tables that come out, on a simulated machine: page walkers hear of it before the tables are
//! freed, and before the mapping that takes their place is relied on.
// CPUs that spin for each other take Miri most of a minute a test; it runs the unit tests.
#![cfg(not(miri))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use topomem::sim::{Fault, Sim, SimService};
use topomem::{
    AddressSpace, CpuId, CpuPin, FrameRequest, Lazy, Order, PageRange, PageSize, PhysFrame, Platform,
    Protection, TlbFeatures, VirtAddr,
};

const BASE: u64 = 0x10_0000_0000;
const HUGE: u64 = 2 << 20;
const OTHER: CpuId = match CpuId::new(1) {
    Some(cpu) => cpu,
    None => panic!("a machine may have two CPUs"),
};

fn page(number: u64) -> PageRange {
    PageRange::page(VirtAddr::new(BASE + number * 4096).unwrap(), PageSize::Size4KiB)
}

fn huge(first: u64, count: u64) -> PageRange {
    let start = VirtAddr::new(BASE + first * HUGE).unwrap();
    PageRange::new(start, count, PageSize::Size2MiB).unwrap()
}

type Space = AddressSpace<&'static Sim>;

/// Tagged translations that are removed one by one.
fn selective() -> TlbFeatures {
    TlbFeatures::NONE.with_asids(TlbFeatures::DEFAULT_ASIDS).with_selective()
}

/// Two CPUs, on both of which the space is active; and what the TLBs offer.
fn with_space(features: TlbFeatures) -> (&'static Sim, &'static SimService, &'static Space) {
    let sim = Sim::builder().cpus(2).memory(32 << 20).tlb(features).build().unwrap();
    let service = sim.boot_service().unwrap();
    let space: &Space = Box::leak(Box::new(sim.on(CpuId::BOOT, |pin| service.create_space(pin).unwrap())));
    for cpu in [CpuId::BOOT, OTHER] {
        // SAFETY: the CPU is online, and this is no handler.
        sim.on(cpu, |pin| unsafe { space.activate(pin) });
    }
    (sim, service, space)
}

fn map(space: &Space, pin: &CpuPin, range: PageRange) {
    let order = if range.size() == PageSize::Size4KiB { Order::FRAME } else { Order::HUGE };
    space.map(pin, range, FrameRequest::order(order), Protection::USER_DATA).unwrap();
}

/// Makes the table of each of `pages` and empties it again; CPU 1 has the way there.
fn leave_empty_tables(sim: &'static Sim, space: &Space, pages: &[PageRange]) {
    sim.on(CpuId::BOOT, |pin| pages.iter().for_each(|&page| map(space, pin, page)));
    sim.on(OTHER, |_| pages.iter().for_each(|page| sim.store(page.start(), 7).unwrap()));
    both(sim, |pin| {
        if pin.cpu() == CpuId::BOOT {
            pages.iter().for_each(|&page| space.unmap(pin, page).unwrap().wait(pin));
        }
    });
    // Its way to the table is new again: by a read that finds nothing.
    sim.on(OTHER, |_| pages.iter().for_each(|page| assert!(missing(sim, *page))));
}

fn missing(sim: &'static Sim, page: PageRange) -> bool {
    matches!(sim.load(page.start()), Err(Fault::NotPresent { .. }))
}

/// Runs `work` on both CPUs, and each serves the other until both have finished.
fn both(sim: &'static Sim, work: impl Fn(&CpuPin) + Sync) {
    sim.run(|pin| {
        work(pin);
        sim.barrier();
    });
}

/// Takes all free frames, and fills them with words that each say what `LEAF` says to a page walker.
fn take_free_frames(sim: &'static Sim, service: &SimService, pin: &CpuPin) -> Vec<PhysFrame> {
    let mut taken: Vec<PhysFrame> = Vec::new();
    while let Ok(frame) = service.frames().alloc(pin, &FrameRequest::frame()) {
        let words = sim.phys_to_virt(frame.start_address()).cast::<[u64; 512]>();
        // SAFETY: the frame is ours alone, unless something is wrong.
        unsafe { words.write([LEAF; 512]) };
        taken.push(frame);
    }
    taken
}

/// No page walker has marked anything in `taken`.
fn check_taken(sim: &'static Sim, taken: &[PhysFrame]) {
    for frame in taken {
        let words = sim.phys_to_virt(frame.start_address()).cast::<[u64; 512]>();
        // SAFETY: as in `take_free_frames`.
        assert_eq!(unsafe { words.read() }, [LEAF; 512], "{frame:?} was a table");
    }
}

/// A present, writable user page at the frame in the middle of memory.
const LEAF: u64 = 0x100_0000 | 7;

#[test]
fn a_large_page_in_the_place_of_a_table_is_found_by_all() {
    let (sim, service, space) = with_space(TlbFeatures::NONE);
    leave_empty_tables(sim, space, &[page(3)]);
    both(sim, |pin| {
        if pin.cpu() == CpuId::BOOT {
            map(space, pin, huge(0, 1));
            sim.store(page(3).start(), 33).unwrap();
            take_free_frames(sim, service, pin);
        }
        sim.barrier();
        assert_eq!(sim.load(page(3).start()), Ok(33), "{}", pin.cpu());
    });
}

#[test]
fn a_large_page_moved_to_the_place_of_a_table_is_found_by_all() {
    for (batched, features) in
        [(false, TlbFeatures::NONE), (true, TlbFeatures::NONE), (false, selective()), (true, selective())]
    {
        let (sim, service, space) = with_space(features);
        // However many pages: one by one, so that what isn't named stays.
        service.shootdown().set_threshold(u64::MAX);
        leave_empty_tables(sim, space, &[page(3)]);
        both(sim, |pin| {
            if pin.cpu() == CpuId::BOOT {
                map(space, pin, huge(4, 1));
                sim.store(page(4 * 512 + 3).start(), 33).unwrap();
                if batched {
                    let mut batch = space.batch(pin);
                    batch.remap(huge(4, 1), huge(0, 1).start()).unwrap();
                    batch.issue().wait(pin);
                } else {
                    space.remap(pin, huge(4, 1), huge(0, 1).start()).unwrap().wait(pin);
                }
                take_free_frames(sim, service, pin);
            }
            sim.barrier();
            assert_eq!(sim.load(page(3).start()), Ok(33), "{}, batched: {batched}", pin.cpu());
            assert!(missing(sim, page(4 * 512 + 3)));
        });
    }
}

/// Nothing is mapped in the range, but for tables.
#[test]
fn emptied_tables_are_freed_once_walkers_have_forgotten_them() {
    for features in [TlbFeatures::NONE, selective()] {
        let (sim, service, space) = with_space(features);
        // However many pages: one by one, so that what isn't named stays.
        service.shootdown().set_threshold(u64::MAX);
        let pages = [page(3), page(512 + 511), page(2 * 512)];
        leave_empty_tables(sim, space, &pages);
        let taken = Mutex::new(Vec::new());
        both(sim, |pin| {
            if pin.cpu() == CpuId::BOOT {
                let before = service.frames().validate().unwrap().allocated;
                let unmapping = space.unmap(pin, huge(0, 3)).unwrap();
                assert_eq!(unmapping.pages(), 0);
                unmapping.wait(pin);
                assert_eq!(service.frames().validate().unwrap().allocated, before - 3);
                *taken.lock().unwrap() = take_free_frames(sim, service, pin);
            }
            sim.barrier();
            for page in pages {
                assert!(missing(sim, page), "{page:?} on {}, {features:?}", pin.cpu());
            }
            sim.walk_ahead();
        });
        check_taken(sim, &taken.lock().unwrap());
    }
}

/// A lazy CPU touches no address, but its page walker goes on.
fn lazy_walker(unmap: impl Fn(&Space, &CpuPin) + Sync) {
    let (sim, service, space) = with_space(TlbFeatures::NONE);
    leave_empty_tables(sim, space, &[page(3), page(512)]);
    let (taken, lazy, done) = (Mutex::new(Vec::new()), AtomicBool::new(false), AtomicBool::new(false));
    let walks = AtomicUsize::new(0);
    sim.run(|pin| {
        if pin.cpu() == OTHER {
            // SAFETY: until `leave_lazy` the CPU uses no address.
            unsafe { service.shootdown().enter_lazy(pin, Lazy::Idle) };
            lazy.store(true, Ordering::SeqCst);
            while !done.load(Ordering::SeqCst) {
                sim.walk_ahead();
                walks.fetch_add(1, Ordering::SeqCst);
                sim.relax();
            }
            service.shootdown().leave_lazy(pin);
            return;
        }
        while !lazy.load(Ordering::SeqCst) {
            sim.relax();
        }
        unmap(space, pin);
        *taken.lock().unwrap() = take_free_frames(sim, service, pin);
        let until = walks.load(Ordering::SeqCst) + 10;
        while walks.load(Ordering::SeqCst) < until {
            sim.relax();
        }
        done.store(true, Ordering::SeqCst);
    });
    check_taken(sim, &taken.lock().unwrap());
}

#[test]
fn emptied_tables_are_freed_once_lazy_cpus_have_forgotten_them() {
    lazy_walker(|space, pin| space.unmap(pin, huge(0, 2)).unwrap().wait(pin));
}

#[test]
fn a_batch_frees_tables_once_lazy_cpus_have_forgotten_them() {
    lazy_walker(|space, pin| {
        let mut batch = space.batch(pin);
        batch.unmap(huge(0, 2)).unwrap();
        batch.issue().wait(pin);
    });
}

/// A batch's own change is complete, but not that of another batch which it found made already.
#[test]
fn a_batch_waits_for_what_others_changed_after_it() {
    let (sim, _, space) = with_space(TlbFeatures::NONE);
    let (own, others) = (page(3), page(5));
    sim.on(CpuId::BOOT, |pin| map(space, pin, PageRange::new(own.start(), 3, own.size()).unwrap()));
    let (answered, checked) = (AtomicBool::new(false), AtomicBool::new(false));
    let silent = AtomicBool::new(false);
    sim.run(|pin| {
        if pin.cpu() == OTHER {
            while !answered.load(Ordering::SeqCst) {
                sim.relax();
            }
            // From here on it answers nothing.
            silent.store(true, Ordering::SeqCst);
            while !checked.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
            sim.relax();
            return;
        }
        let (mut batch, mut other) = (space.batch(pin), space.batch(pin));
        batch.unmap(own).unwrap();
        space.pending(pin, own).unwrap().wait(pin);
        answered.store(true, Ordering::SeqCst);
        while !silent.load(Ordering::SeqCst) {
            sim.relax();
        }
        other.unmap(others).unwrap();
        batch.unmap(others).unwrap();
        let mut unmapping = batch.issue();
        let early = unmapping.is_complete();
        checked.store(true, Ordering::SeqCst);
        unmapping.wait(pin);
        other.issue().wait(pin);
        assert!(!early, "the other CPU had not answered");
    });
}

/// Whoever relies on the new place waits for CPUs whose page walkers know the table there.
#[test]
fn a_page_moved_to_the_place_of_a_table_is_pending_there() {
    for batched in [false, true] {
        let (sim, _, space) = with_space(TlbFeatures::NONE);
        leave_empty_tables(sim, space, &[page(3)]);
        // CPU 1 is not played by any thread now: it answers nothing.
        sim.on(CpuId::BOOT, |pin| {
            map(space, pin, huge(4, 1));
            let is_complete = |range| space.pending(pin, range).unwrap().is_complete();
            assert!(is_complete(huge(0, 8)));
            let mut batch = space.batch(pin);
            let mut moved = None;
            if batched {
                batch.remap(huge(4, 1), huge(0, 1).start()).unwrap();
            } else {
                moved = Some(space.remap(pin, huge(4, 1), huge(0, 1).start()).unwrap());
            }
            assert!(!is_complete(huge(4, 1)), "the old place, batched: {batched}");
            assert!(!is_complete(page(9)), "the new place, batched: {batched}");
            assert!(is_complete(huge(6, 1)), "elsewhere");
            drop((moved, batch));
        });
    }
}

/// More unmappings than the space keeps apart, and one that is parked when the others are complete.
#[test]
fn parked_frames_wait_for_the_newest_unmapping_that_they_share_a_place_with() {
    let (sim, service, space) = with_space(TlbFeatures::NONE);
    let (first, last) = (0..64, page(200));
    sim.on(CpuId::BOOT, |pin| {
        map(space, pin, PageRange::new(page(0).start(), 64, PageSize::Size4KiB).unwrap());
        map(space, pin, last);
    });
    sim.on(OTHER, |_| {
        first.clone().for_each(|number| sim.store(page(number).start(), number).unwrap());
        sim.store(last.start(), 1).unwrap();
    });
    sim.on(CpuId::BOOT, |pin| first.for_each(|number| space.unmap(pin, page(number)).unwrap().detach()));
    // It answers all so far, and is not played by any thread afterwards.
    sim.on(OTHER, |_| assert!(missing(sim, page(0))));
    sim.on(CpuId::BOOT, |pin| {
        space.unmap(pin, last).unwrap().detach();
        service.run_pending_work(pin);
        assert!(space.retired_frames() >= 1, "its frame is free, and CPU 1 has the translation");
    });
    sim.on(OTHER, |_| assert!(missing(sim, last)));
    sim.on(CpuId::BOOT, |pin| {
        service.run_pending_work(pin);
        assert_eq!(space.retired_frames(), 0);
    });
}
