//! Callbacks of unmappings on a simulated machine: called once, and not before all is free.
// As in spaces.rs.
#![cfg(not(miri))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::boxed::Box;
use std::sync::atomic::{AtomicUsize, Ordering};

use topomem::address_space::Callback;
use topomem::sim::{Sim, SimService};
use topomem::{
    AddressSpace, CpuId, CpuPin, FrameRequest, PageRange, PageSize, PendingWork, Platform, Protection,
    VirtAddr,
};

type Space = AddressSpace<&'static Sim>;

fn pages(first: u64, count: u64) -> PageRange {
    let start = VirtAddr::new(0x10_0000_0000 + first * 4096).unwrap();
    PageRange::new(start, count, PageSize::Size4KiB).unwrap()
}

fn allocated(service: &SimService) -> u64 {
    service.frames().validate().unwrap().allocated
}

/// What a callback adds one to: a counter that lives for ever, by its address.
fn counted() -> (&'static AtomicUsize, usize) {
    let count: &'static AtomicUsize = Box::leak(Box::new(AtomicUsize::new(0)));
    (count, std::ptr::from_ref(count).expose_provenance())
}

fn count(counter: usize) {
    // SAFETY: from `counted`.
    unsafe { &*std::ptr::with_exposed_provenance::<AtomicUsize>(counter) }.fetch_add(1, Ordering::SeqCst);
}

fn counting(counter: usize) -> &'static Callback {
    Box::leak(Box::new(Callback::new(count, counter)))
}

/// Two CPUs in one space that has 64 pages; CPU 1 answers only while a thread plays it.
fn two_in_a_space() -> (&'static Sim, &'static SimService, Space) {
    let sim = Sim::builder().cpus(2).memory(32 << 20).build().unwrap();
    let service = sim.boot_service().unwrap();
    let space = sim.on(CpuId::BOOT, |pin| {
        let space = service.create_space(pin).unwrap();
        space.map(pin, pages(0, 64), FrameRequest::frame(), Protection::USER_DATA).unwrap();
        space
    });
    sim.on(CpuId::new(1).unwrap(), |pin| {
        // SAFETY: the CPU is online, and this is no handler.
        unsafe { space.activate(pin) };
        sim.store(pages(5, 1).start(), 55).unwrap();
    });
    (sim, service, space)
}

fn answer(sim: &Sim) {
    sim.on(CpuId::new(1).unwrap(), |_| sim.load(pages(63, 1).start()).ok());
}

fn unmap_then(space: &Space, pin: &CpuPin, page: u64, callback: &'static Callback) {
    assert!(space.unmap(pin, pages(page, 1)).unwrap().detach_then(callback).is_ok());
}

#[test]
fn it_is_called_once_everything_is_free() {
    let (sim, service, space) = two_in_a_space();
    let (calls, counter) = counted();
    let callback = counting(counter);
    let before = sim.on(CpuId::BOOT, |pin| {
        unmap_then(&space, pin, 5, callback);
        assert_eq!(service.run_pending_work(pin), PendingWork::Waiting);
        assert_eq!((calls.load(Ordering::SeqCst), callback.is_pending()), (0, true));
        allocated(service)
    });
    answer(sim);
    sim.on(CpuId::BOOT, |pin| {
        assert_eq!((calls.load(Ordering::SeqCst), callback.is_pending()), (0, true));
        assert_eq!(service.run_pending_work(pin), PendingWork::Done);
        assert_eq!((calls.load(Ordering::SeqCst), callback.is_pending()), (1, false));
        assert_eq!(allocated(service), before - 1);
        service.run_pending_work(pin);
        assert_eq!(calls.load(Ordering::SeqCst), 1);
    });
}

#[test]
fn one_that_is_pending_is_refused_and_its_unmapping_comes_back() {
    let (sim, service, space) = two_in_a_space();
    let (calls, counter) = counted();
    let callback = counting(counter);
    sim.on(CpuId::BOOT, |pin| {
        unmap_then(&space, pin, 1, callback);
        let unmapping = space.unmap(pin, pages(2, 3)).unwrap();
        let refused = unmapping.detach_then(callback).unwrap_err();
        assert_eq!(refused.pages(), 3);
        refused.detach();
        assert_eq!(space.retired_frames(), 4);
    });
    answer(sim);
    sim.on(CpuId::BOOT, |pin| {
        service.run_pending_work(pin);
        assert_eq!((calls.load(Ordering::SeqCst), space.retired_frames()), (1, 0));
        // It can be used again; nothing retires with a change of protection.
        let protecting = space.protect(pin, pages(9, 1), Protection::USER_READ_ONLY).unwrap();
        assert!(protecting.detach_then(callback).is_ok());
    });
    answer(sim);
    sim.on(CpuId::BOOT, |pin| service.run_pending_work(pin));
    assert_eq!(calls.load(Ordering::SeqCst), 2);
}

#[test]
fn more_than_there_are_places_are_all_called() {
    let (sim, service, space) = two_in_a_space();
    let (calls, counter) = counted();
    sim.on(CpuId::BOOT, |pin| {
        (0..40).for_each(|page| unmap_then(&space, pin, page, counting(counter)));
        service.run_pending_work(pin);
        assert_eq!(calls.load(Ordering::SeqCst), 0);
    });
    answer(sim);
    sim.on(CpuId::BOOT, |pin| service.run_pending_work(pin));
    assert_eq!(calls.load(Ordering::SeqCst), 40);
}

#[test]
fn one_may_unmap_and_give_itself_again() {
    static STATE: std::sync::OnceLock<(&'static Sim, &'static SimService, Space)> =
        std::sync::OnceLock::new();
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    static AGAIN: Callback = Callback::new(again, 0);
    fn again(_: usize) {
        let (sim, _, space) = STATE.get().unwrap();
        let page = NEXT.fetch_add(1, Ordering::SeqCst) as u64;
        if page < 3 {
            unmap_then(space, &sim.pin(), page, &AGAIN);
        }
    }
    let (sim, service, space) = STATE.get_or_init(two_in_a_space);
    sim.on(CpuId::BOOT, |pin| unmap_then(space, pin, 60, &AGAIN));
    for _ in 0..4 {
        answer(sim);
        sim.on(CpuId::BOOT, |pin| service.run_pending_work(pin));
    }
    assert_eq!((NEXT.load(Ordering::SeqCst), AGAIN.is_pending()), (4, false));
}

#[test]
fn a_space_that_is_dropped_calls_what_it_owes() {
    let (sim, service, space) = two_in_a_space();
    let (calls, counter) = counted();
    sim.on(CpuId::BOOT, |pin| unmap_then(&space, pin, 3, counting(counter)));
    drop(space);
    sim.on(CpuId::new(1).unwrap(), |pin| {
        // SAFETY: as in `two_in_a_space`.
        unsafe { service.kernel_space().unwrap().activate(pin) };
    });
    sim.on(CpuId::BOOT, |pin| service.run_pending_work(pin));
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}
