//! Promotion on a simulated machine: what TLBs forget, and where frames go.
// CPUs that spin for each other take Miri most of a minute a test; it runs the unit tests.
#![cfg(not(miri))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use topomem::sim::{Fault, Sim, SimService};
use topomem::{
    AddressSpace, CpuId, CpuPin, FrameRequest, Order, PageRange, PageSize, PendingWork, PhysFrame,
    PromoteError, Protection, VirtAddr,
};

const BASE: u64 = 0x10_0000_0000;
const HUGE: u64 = 2 << 20;

fn pages(first: u64, count: u64) -> PageRange {
    let start = VirtAddr::new(BASE + first * 4096).unwrap();
    PageRange::new(start, count, PageSize::Size4KiB).unwrap()
}

fn huge(first: u64, count: u64) -> PageRange {
    let start = VirtAddr::new(BASE + first * HUGE).unwrap();
    PageRange::new(start, count, PageSize::Size2MiB).unwrap()
}

type Space = AddressSpace<&'static Sim>;

fn booted(cpus: usize) -> (&'static Sim, &'static SimService) {
    let sim = Sim::builder().cpus(cpus).memory(32 << 20).build().unwrap();
    (sim, sim.boot_service().unwrap())
}

fn allocated(service: &SimService) -> u64 {
    service.frames().validate().unwrap().allocated
}

fn activate(space: &Space, pin: &CpuPin) {
    // SAFETY: the CPU is online, and this is no handler.
    unsafe { space.activate(pin) };
}

/// The first of 512 frames in a row that a large page could start at, allocated one by one.
fn frames_in_a_row(service: &SimService, pin: &CpuPin) -> PhysFrame {
    let number = |frame: &PhysFrame| frame.start_address().as_u64() / 4096;
    let mut frames: Vec<PhysFrame> =
        (0..2048).map(|_| service.alloc(pin, &FrameRequest::frame()).unwrap()).collect();
    frames.sort_by_key(number);
    let whole = |run: &[PhysFrame]| number(&run[0]) % 512 == 0 && number(&run[511]) == number(&run[0]) + 511;
    let first = frames.windows(512).find(|run| whole(run)).unwrap()[0];
    for frame in frames.into_iter().filter(|frame| !(first..first + 512).contains(frame)) {
        // SAFETY: it was just allocated, and nothing uses it.
        unsafe { service.frames().free(pin, frame, Order::FRAME).unwrap() };
    }
    first
}

/// Maps the 2 MiB at `BASE` to such frames, page by page.
fn map_in_a_row(service: &SimService, space: &Space, pin: &CpuPin) {
    let first = frames_in_a_row(service, pin);
    for page in 0..512 {
        let (at, frame) = (pages(page, 1).start(), first + page);
        // SAFETY: it was allocated as a single frame, and nobody else uses it.
        let mapped = unsafe { space.map_owned(pin, at, PageSize::Size4KiB, frame, Protection::USER_DATA) };
        mapped.unwrap();
    }
}

/// Two CPUs know the small pages; one of them does not answer yet.
#[test]
fn small_translations_go_before_the_large_page_changes() {
    let (sim, service) = booted(2);
    let other = CpuId::new(1).unwrap();
    let space = sim.on(CpuId::BOOT, |pin| {
        let space = service.create_space(pin).unwrap();
        map_in_a_row(service, &space, pin);
        space
    });
    sim.on(other, |pin| {
        activate(&space, pin);
        (0..512).for_each(|page| sim.store(pages(page, 1).start(), page).unwrap());
    });
    let before = sim.on(CpuId::BOOT, |pin| {
        let before = allocated(service);
        let mut promotion = space.promote(pin, huge(0, 1)).unwrap();
        assert_eq!(promotion.pages(), 512);
        assert!(!promotion.is_complete());
        promotion.detach();
        assert_eq!(space.translate(pin, pages(7, 1).start()).unwrap().size, PageSize::Size2MiB);
        assert_eq!(space.retired_frames(), 1, "page walkers may be in the table");
        // It is told to TLBs as one large page.
        space.unmap(pin, huge(0, 1)).unwrap().detach();
        assert_eq!(service.run_pending_work(pin), PendingWork::Waiting);
        assert_eq!(allocated(service), before);
        before
    });
    sim.on(other, |_| {
        for page in [0, 7, 511] {
            let stale = sim.load(pages(page, 1).start());
            assert!(matches!(stale, Err(Fault::NotPresent { .. })), "page {page}: {stale:?}");
        }
    });
    sim.on(CpuId::BOOT, |pin| {
        assert_eq!(service.run_pending_work(pin), PendingWork::Done);
        assert_eq!(allocated(service), before - 512 - 1);
    });
}

#[test]
fn a_promoted_page_keeps_its_contents() {
    let (sim, service) = booted(2);
    let space = sim.on(CpuId::BOOT, |pin| {
        let space = service.create_space(pin).unwrap();
        map_in_a_row(service, &space, pin);
        space
    });
    sim.run(|pin| {
        activate(&space, pin);
        sim.barrier();
        if pin.cpu() == CpuId::BOOT {
            (0..512).for_each(|page| sim.store(pages(page, 1).start(), page).unwrap());
            space.promote(pin, huge(0, 1)).unwrap().wait(pin);
        }
        sim.barrier();
        (0..512).for_each(|page| assert_eq!(sim.load(pages(page, 1).start()), Ok(page)));
        assert_eq!(sim.cached_translations(), 1, "the page is one translation");
        activate(&service.kernel_space().unwrap(), pin);
    });
}

/// Frames allocated one by one, owned by a large page: freed as a whole, after a split, with the
/// space.
#[test]
fn frames_of_a_promoted_page_are_freed_once() {
    let (sim, service) = booted(1);
    sim.on(CpuId::BOOT, |pin| {
        let clean = allocated(service);
        let space = service.create_space(pin).unwrap();
        let whole: &dyn Fn() = &|| space.unmap(pin, huge(0, 1)).unwrap().wait(pin);
        let parts: &dyn Fn() = &|| {
            space.unmap(pin, pages(5, 1)).unwrap().wait(pin);
            space.unmap(pin, pages(0, 512)).unwrap().wait(pin);
        };
        let twice: &dyn Fn() = &|| {
            // Split, and promoted again.
            space.protect(pin, pages(9, 1), Protection::USER_READ_ONLY).unwrap().wait(pin);
            space.protect(pin, pages(9, 1), Protection::USER_DATA).unwrap().wait(pin);
            space.promote(pin, huge(0, 1)).unwrap().wait(pin);
            space.unmap(pin, huge(0, 1)).unwrap().wait(pin);
        };
        // A table is left where pages were unmapped one by one.
        for (unmap, tables) in [(whole, 0), (parts, 1), (twice, 0)] {
            map_in_a_row(service, &space, pin);
            let mapped = allocated(service);
            space.promote(pin, huge(0, 1)).unwrap().wait(pin);
            assert_eq!(allocated(service), mapped - 1, "the table is free");
            unmap();
            assert_eq!(space.mapped_pages(), 0);
            assert_eq!(allocated(service), mapped - 513 + tables);
        }
        map_in_a_row(service, &space, pin);
        space.promote(pin, huge(0, 1)).unwrap().wait(pin);
        drop(space);
        assert_eq!(service.run_pending_work(pin), PendingWork::Done);
        assert_eq!(allocated(service), clean);
        // They can be had again, as runs too.
        let run = service.alloc(pin, &FrameRequest::order(Order::HUGE)).unwrap();
        // SAFETY: it was just allocated, and nothing uses it.
        unsafe { service.frames().free(pin, run, Order::HUGE).unwrap() };
    });
}

/// A run of 2 MiB that was split is whole again.
#[test]
fn a_split_run_is_promoted_and_freed_once() {
    let (sim, service) = booted(1);
    sim.on(CpuId::BOOT, |pin| {
        let space = service.create_space(pin).unwrap();
        let clean = allocated(service);
        for last in [huge(0, 1), pages(0, 512)] {
            space.map(pin, huge(0, 1), FrameRequest::order(Order::HUGE), Protection::USER_DATA).unwrap();
            space.protect(pin, pages(3, 4), Protection::USER_READ_ONLY).unwrap().wait(pin);
            let differs = space.promote(pin, huge(0, 1));
            assert_eq!(differs.err(), Some(PromoteError::Differs(pages(3, 1).start())));
            space.protect(pin, pages(0, 512), Protection::USER_READ_ONLY).unwrap().wait(pin);
            space.promote(pin, huge(0, 1)).unwrap().wait(pin);
            if last.size() == PageSize::Size4KiB {
                space.unmap(pin, pages(511, 1)).unwrap().wait(pin);
            }
            space.unmap(pin, last).unwrap().wait(pin);
            assert!(allocated(service) <= clean + 3, "more is left than tables");
        }
    });
}

#[test]
fn the_kernels_pages_are_promoted_for_all_spaces() {
    let (sim, service) = booted(1);
    sim.on(CpuId::BOOT, |pin| {
        let kernel = service.kernel_space().unwrap();
        let first = Sim::WINDOW;
        let range = |size, count| PageRange::new(first, count, size).unwrap();
        let run = service.alloc(pin, &FrameRequest::order(Order::HUGE)).unwrap();
        let small = range(PageSize::Size4KiB, 512);
        // SAFETY: the run is the test's alone.
        unsafe { kernel.map_borrowed(pin, small, run, Protection::KERNEL_DATA).unwrap() };
        let user = service.create_space(pin).unwrap();
        activate(&user, pin);
        sim.store(first, 3).unwrap();
        kernel.promote(pin, range(PageSize::Size2MiB, 1)).unwrap().wait(pin);
        assert_eq!(sim.load(first), Ok(3));
        assert_eq!(kernel.translate(pin, first).unwrap().size, PageSize::Size2MiB);
        kernel.unmap(pin, small).unwrap().wait(pin);
        assert!(sim.load(first).is_err());
        activate(&kernel, pin);
    });
}

#[test]
fn refused_promotions_change_nothing() {
    let (sim, service) = booted(1);
    sim.on(CpuId::BOOT, |pin| {
        let space = service.create_space(pin).unwrap();
        let refused = |range| space.promote(pin, range).err().unwrap();
        assert_eq!(refused(huge(0, 1)), PromoteError::NotMapped(huge(0, 1).start()));
        space.map(pin, pages(0, 1), FrameRequest::frame(), Protection::USER_DATA).unwrap();
        assert!(matches!(
            refused(huge(0, 1)),
            PromoteError::NotMapped(_) | PromoteError::MisalignedFrame { .. }
        ));
        let kernel = PageRange::page(Sim::WINDOW, PageSize::Size4KiB);
        assert_eq!(refused(kernel), PromoteError::OutsideSpace(kernel));
        assert_eq!(space.promote(pin, pages(0, 1)).unwrap().pages(), 0, "it is as large as that");
        assert_eq!(space.mapped_pages(), 1);
    });
}
