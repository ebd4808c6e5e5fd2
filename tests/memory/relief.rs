//! Memory that is there can be had: what has retired, abandoned spaces and empty tables, before an
//! allocation fails.
// As in spaces.rs.
#![cfg(not(miri))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../regions/thread_time/mod.rs"]
mod thread_time;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use thread_time::ThreadTime;
use topomem::address_space::MapError;
use topomem::frames::AllocError;
use topomem::sim::{Sim, SimService};
use topomem::{
    AddressSpace, CpuId, CpuPin, FrameRequest, Lazy, Order, PageRange, PageSize, PendingWork, PhysFrame,
    Platform, Protection, VirtAddr,
};

const BASE: u64 = 0x10_0000_0000;
const HUGE: u64 = 2 << 20;

type Space = AddressSpace<&'static Sim>;

fn booted(cpus: usize) -> (&'static Sim, &'static SimService) {
    booted_with(cpus, 64)
}

fn booted_with(cpus: usize, mib: u64) -> (&'static Sim, &'static SimService) {
    let sim = Sim::builder().cpus(cpus).memory(mib << 20).build().unwrap();
    (sim, sim.boot_service().unwrap())
}

fn second() -> CpuId {
    CpuId::new(1).unwrap()
}

fn pages(first: u64, count: u64) -> PageRange {
    PageRange::new(VirtAddr::new(BASE + first * 4096).unwrap(), count, PageSize::Size4KiB).unwrap()
}

fn huge(first: u64, count: u64) -> PageRange {
    PageRange::new(VirtAddr::new(BASE + first * HUGE).unwrap(), count, PageSize::Size2MiB).unwrap()
}

fn window_page(page: u64) -> PageRange {
    PageRange::page(VirtAddr::new(Sim::WINDOW.as_u64() + page * 4096).unwrap(), PageSize::Size4KiB)
}

fn map(space: &Space, pin: &CpuPin, range: PageRange) {
    let order = if range.size() == PageSize::Size4KiB { Order::FRAME } else { Order::HUGE };
    space.map(pin, range, FrameRequest::order(order), Protection::USER_DATA).unwrap();
}

fn activate(space: &Space, pin: &CpuPin) {
    // SAFETY: the CPU is online, and this is no handler.
    unsafe { space.activate(pin) };
}

fn allocated(service: &SimService) -> u64 {
    service.frames().validate().unwrap().allocated
}

/// Takes all frames that the allocator has; nothing that could be freed first.
fn take_all(service: &SimService, pin: &CpuPin) -> Vec<PhysFrame> {
    std::iter::from_fn(|| service.frames().alloc(pin, &FrameRequest::frame()).ok()).collect()
}

#[test]
fn one_freed_frame_is_not_enough_for_a_run() {
    let (sim, service) = booted(1);
    sim.on(CpuId::BOOT, |pin| {
        let kernel = service.kernel_space().unwrap();
        kernel.map(pin, window_page(0), FrameRequest::frame(), Protection::KERNEL_DATA).unwrap();
        let space = service.create_space(pin).unwrap();
        map(&space, pin, huge(0, 8));
        take_all(service, pin);
        drop(space);
        kernel.unmap(pin, window_page(0)).unwrap().detach();
        service.alloc(pin, &FrameRequest::order(Order::HUGE)).unwrap();
    });
}

#[test]
fn splits_moves_and_new_spaces_find_what_can_be_freed() {
    let (sim, service) = booted(1);
    sim.on(CpuId::BOOT, |pin| {
        let live = service.create_space(pin).unwrap();
        map(&live, pin, huge(0, 3));
        let target = VirtAddr::new(BASE + (1 << 32)).unwrap();
        let operations: [&dyn Fn(); 5] = [
            &|| live.unmap(pin, pages(1, 1)).unwrap().wait(pin),
            &|| live.protect(pin, pages(513, 1), Protection::USER_READ_ONLY).unwrap().wait(pin),
            &|| live.remap(pin, pages(1026, 1), target).unwrap().wait(pin),
            &|| live.map(pin, pages(5000, 1), FrameRequest::frame(), Protection::USER_DATA).unwrap(),
            &|| drop(service.create_space(pin).unwrap()),
        ];
        for operation in operations {
            // What each of them needs is in a dropped space, and nowhere else.
            let space = service.create_space(pin).unwrap();
            map(&space, pin, pages(0, 100));
            let taken = take_all(service, pin);
            drop(space);
            operation();
            for frame in taken {
                // SAFETY: `take_all` allocated it.
                unsafe { service.frames().free(pin, frame, Order::FRAME) }.unwrap();
            }
        }
    });
}

/// One page at a time, each in a table of its own: of a machine of 8 MiB, with three times as many
/// tables as there are frames.
fn sweep(
    service: &SimService,
    pin: &CpuPin,
    space: &Space,
    page: impl Fn(u64) -> PageRange,
    data: Protection,
) {
    let before = allocated(service);
    for step in 0..3 * 2048 {
        space.map(pin, page(step), FrameRequest::frame(), data).unwrap();
        space.unmap(pin, page(step)).unwrap().wait(pin);
    }
    assert_eq!(space.mapped_pages(), 0);
    // They are there to be had.
    let held = std::iter::from_fn(|| service.alloc(pin, &FrameRequest::frame()).ok()).collect::<Vec<_>>();
    assert!(allocated(service) - held.len() as u64 <= before + 8, "tables stay");
    for frame in held {
        // SAFETY: `alloc` gave it.
        unsafe { service.frames().free(pin, frame, Order::FRAME) }.unwrap();
    }
}

#[test]
fn the_empty_tables_of_a_user_space_come_back() {
    let (sim, service) = booted_with(1, 8);
    sim.on(CpuId::BOOT, |pin| {
        let space = service.create_space(pin).unwrap();
        sweep(service, pin, &space, |step| pages(step * 512, 1), Protection::USER_DATA);
    });
}

#[test]
fn the_empty_tables_of_the_kernels_space_come_back() {
    let (sim, service) = booted_with(1, 8);
    sim.on(CpuId::BOOT, |pin| {
        let kernel = service.kernel_space().unwrap();
        sweep(service, pin, &kernel, |step| window_page(step * 512), Protection::KERNEL_DATA);
    });
}

/// While another CPU uses the space, and answers.
#[test]
fn the_empty_tables_of_a_space_in_use_come_back() {
    let (sim, service) = booted_with(2, 8);
    let space = sim.on(CpuId::BOOT, |pin| service.create_space(pin).unwrap());
    sim.run(|pin| {
        activate(&space, pin);
        if pin.cpu() == CpuId::BOOT {
            map(&space, pin, pages(0, 1));
            sim.store(pages(0, 1).start(), 5).unwrap();
            for step in 1..512 {
                let tables = || (step * 8..step * 8 + 8).map(|table| pages(table * 512, 1));
                let mut batch = space.batch(pin);
                for page in tables() {
                    map(&space, pin, page);
                    sim.store(page.start(), step).unwrap();
                }
                tables().for_each(|page| batch.unmap(page).unwrap());
                batch.issue().wait(pin);
            }
            assert_eq!(sim.load(pages(0, 1).start()), Ok(5));
        }
        sim.barrier();
        activate(&service.kernel_space().unwrap(), pin);
    });
}

/// A CPU whose page walker may still find an empty table that was unlinked is waited for before a page
/// counts as mapped in its place.
#[test]
fn what_is_mapped_in_the_place_of_an_empty_table_is_found() {
    let (sim, service) = booted(2);
    let space = sim.on(CpuId::BOOT, |pin| {
        let space = service.create_space(pin).unwrap();
        map(&space, pin, pages(3, 2));
        space
    });
    sim.on(second(), |pin| {
        activate(&space, pin);
        // The way to the table is cached.
        sim.store(pages(3, 1).start(), 1).unwrap();
    });
    let unmapping = sim.on(CpuId::BOOT, |pin| space.unmap(pin, pages(3, 2)).unwrap());
    sim.on(second(), |_| {
        assert!(sim.load(pages(4, 1).start()).is_err(), "it answers, and walks once more");
    });
    sim.on(CpuId::BOOT, |pin| {
        unmapping.wait(pin);
        let taken = take_all(service, pin);
        let short = service.alloc(pin, &FrameRequest::frame());
        assert!(matches!(short, Err(AllocError::WouldBlock { .. })), "the tables come later: {short:?}");
        for frame in taken {
            // SAFETY: `take_all` allocated it.
            unsafe { service.frames().free(pin, frame, Order::FRAME) }.unwrap();
        }
    });
    let (mapped, mapping) = (AtomicBool::new(false), ThreadTime::default());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            sim.on(CpuId::BOOT, |pin| {
                mapping.begin();
                map(&space, pin, pages(3, 1));
            });
            mapped.store(true, Ordering::SeqCst);
        });
        while !mapping.has_used(Duration::from_millis(50)) && !mapped.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(!mapped.load(Ordering::SeqCst), "the other CPU still finds the old table");
        sim.on(second(), |_| {
            while !mapped.load(Ordering::SeqCst) {
                sim.relax();
            }
            sim.store(pages(3, 1).start(), 1).unwrap();
        });
    });
    sim.on(second(), |pin| activate(&service.kernel_space().unwrap(), pin));
}

#[test]
fn a_lazy_cpu_keeps_no_frames_of_a_dropped_space() {
    let (sim, service) = booted(2);
    let before = allocated(service);
    let space = sim.on(CpuId::BOOT, |pin| service.create_space(pin).unwrap());
    sim.on(second(), |pin| {
        map(&space, pin, huge(0, 16));
        map(&space, pin, pages(10_000, 100));
        activate(&space, pin);
        // SAFETY: the CPU touches nothing until `leave_lazy`.
        unsafe { service.shootdown().enter_lazy(pin, Lazy::Idle) };
    });
    drop(space);
    sim.on(CpuId::BOOT, |pin| {
        let taken = take_all(service, pin);
        service.alloc(pin, &FrameRequest::order(Order::HUGE)).unwrap();
        assert_eq!(
            service.run_pending_work(pin),
            PendingWork::Waiting,
            "its page walker may be in the tables"
        );
        for frame in taken {
            // SAFETY: `take_all` allocated it.
            unsafe { service.frames().free(pin, frame, Order::FRAME) }.unwrap();
        }
    });
    sim.on(second(), |_| sim.take_interrupts());
    sim.on(CpuId::BOOT, |pin| assert_eq!(service.run_pending_work(pin), PendingWork::Done));
    // The root, the bookkeeping, and the run taken above.
    assert!(allocated(service) <= before + 8 + 512, "{} frames", allocated(service) - before);
    sim.on(second(), |pin| {
        service.shootdown().leave_lazy(pin);
        activate(&service.kernel_space().unwrap(), pin);
        assert_eq!(service.run_pending_work(pin), PendingWork::Done);
    });
    assert_eq!(allocated(service), before + 512);
}

/// An invalidation is always under way when somebody looks.
#[test]
fn what_every_cpu_has_answered_is_freed_whatever_is_under_way() {
    let (sim, service) = booted(2);
    let space = sim.on(CpuId::BOOT, |pin| service.create_space(pin).unwrap());
    sim.on(second(), |pin| activate(&space, pin));
    let mut most = 0;
    for round in 0..100 {
        sim.on(CpuId::BOOT, |pin| {
            // More than are kept apart, and the other CPU has answered all but these.
            for page in round * 20..(round + 1) * 20 {
                map(&space, pin, pages(page, 1));
                space.unmap(pin, pages(page, 1)).unwrap().detach();
            }
            assert_eq!(service.run_pending_work(pin), PendingWork::Waiting);
        });
        sim.on(second(), |_| sim.take_interrupts());
        most = most.max(space.retired_frames());
    }
    assert!(most <= 60, "{most} frames wait for invalidations that every CPU has answered");
}

/// A kernel counts the users of its own frames in their words, and leaves what is there.
#[test]
fn what_a_frames_last_owner_left_in_its_word_is_not_believed() {
    let (sim, service) = booted(1);
    sim.on(CpuId::BOOT, |pin| {
        let space = service.create_space(pin).unwrap();
        map(&space, pin, pages(600, 1));
        let before = allocated(service);
        let frames = service.frames();
        for left in [u32::MAX, 1 << 31 | 1, 1 << 30] {
            let own = take_all(service, pin);
            for &frame in &own {
                frames.info(frame).unwrap().references.store(left, Ordering::Relaxed);
            }
            // Every second one goes back; the words of the others are their owner's.
            let (back, kept): (Vec<_>, Vec<_>) =
                own.iter().enumerate().partition(|(index, _)| index % 2 == 0);
            for (_, &frame) in back {
                // SAFETY: `take_all` allocated it.
                unsafe { frames.free(pin, frame, Order::FRAME) }.unwrap();
            }
            map(&space, pin, pages(0, 64));
            map(&space, pin, pages(3000, 3));
            space.unmap(pin, pages(3000, 3)).unwrap().wait(pin);
            space.unmap(pin, pages(0, 64)).unwrap().wait(pin);
            for (_, &frame) in kept {
                assert_eq!(frames.info(frame).unwrap().references.load(Ordering::Relaxed), left);
                // SAFETY: `take_all` allocated it.
                unsafe { frames.free(pin, frame, Order::FRAME) }.unwrap();
            }
            service.run_pending_work(pin);
            // The tables of the first round stay.
            assert!(allocated(service) <= before + 2, "{left:#x}: {}", allocated(service) - before);
        }
        // Runs, which are split.
        for frame in take_all(service, pin) {
            frames.info(frame).unwrap().references.store(u32::MAX, Ordering::Relaxed);
            // SAFETY: `take_all` allocated it.
            unsafe { frames.free(pin, frame, Order::FRAME) }.unwrap();
        }
        let before = allocated(service);
        map(&space, pin, huge(10, 4));
        space.unmap(pin, huge(10, 2)).unwrap().wait(pin);
        space.unmap(pin, pages(12 * 512, 3)).unwrap().wait(pin);
        space.unmap(pin, huge(12, 2)).unwrap().wait(pin);
        assert!(allocated(service) <= before + 2, "{}", allocated(service) - before);
    });
}

#[test]
fn an_owned_frame_that_is_not_mapped_keeps_its_word() {
    let (sim, service) = booted(1);
    sim.on(CpuId::BOOT, |pin| {
        let space = service.create_space(pin).unwrap();
        map(&space, pin, pages(0, 1));
        let frame = service.alloc(pin, &FrameRequest::frame()).unwrap();
        let word = &service.frames().info(frame).unwrap().references;
        word.store(7, Ordering::Relaxed);
        let page = pages(0, 1).start();
        // SAFETY: the frame is ours.
        let refused = unsafe { space.map_owned(pin, page, PageSize::Size4KiB, frame, Protection::USER_DATA) };
        assert!(matches!(refused, Err(MapError::AlreadyMapped { .. })));
        assert_eq!(word.load(Ordering::Relaxed), 7);
    });
}
