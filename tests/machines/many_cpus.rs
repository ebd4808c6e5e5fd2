//! A machine of 1024 CPUs: each has its own state, wherever its number stands in sets and tables.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![cfg(not(miri))]

use core::alloc::Layout;

use topomem::sim::{Fault, Sim, SimService};
use topomem::{CpuId, FrameRequest, Order, PageRange, PageSize, Protection, VirtAddr};

const CPUS: usize = 1024;
const ADDRESS: VirtAddr = VirtAddr::new_truncate(0x10_0000_0000);

/// CPUs at the borders of words, and of the tables' own room and pages.
const SOME: [usize; 8] = [0, 15, 16, 63, 64, 511, 512, CPUS - 1];

fn page() -> PageRange {
    PageRange::page(ADDRESS, PageSize::Size4KiB)
}

fn some() -> impl Iterator<Item = CpuId> {
    SOME.into_iter().map(|index| CpuId::new(index).unwrap())
}

fn booted(cpus: usize) -> (&'static Sim, &'static SimService) {
    let sim = Sim::builder().nodes(2).cpus(cpus).memory(256 << 20).build().unwrap();
    (sim, sim.boot_service().unwrap())
}

#[test]
fn every_cpu_of_1024_has_its_own_state() {
    let (sim, service) = booted(CPUS);
    assert_eq!(service.shootdown().kernel().cpus().len(), CPUS);
    let heap = service.heap().unwrap().heap();
    // Each CPU allocates from its own magazines, and a CPU's counts are its own.
    for cpu in sim.cpus() {
        sim.on(cpu, |pin| {
            let frame = service.alloc(pin, &FrameRequest::frame()).unwrap();
            // SAFETY: the frame was just allocated, and is not used.
            unsafe { service.frames().free(pin, frame, Order::FRAME).unwrap() };
            let layout = Layout::new::<[u64; 8]>();
            for _ in 0..=cpu.index() % 3 {
                let object = heap.try_alloc(layout).unwrap();
                // SAFETY: allocated above with this layout, and not used any more.
                unsafe { heap.free(object, layout).unwrap() };
            }
        });
    }
    for cpu in some() {
        let stats = heap.cpu_stats(cpu).unwrap();
        assert!(stats.hits > (cpu.index() % 3) as u64, "{cpu}: {stats:?}");
        let frames = service.frames().cpu_stats(cpu).unwrap();
        // There are not enough blocks for each CPU to have one, so most ask in vain.
        assert!(frames.hits + frames.misses >= 1, "{cpu}: {frames:?}");
    }
    sim.on(CpuId::BOOT, |_| heap.validate().unwrap());
    service.frames().validate().unwrap();
}

#[test]
fn no_cpu_of_1024_keeps_a_translation() {
    let (sim, service) = booted(CPUS);
    let space = sim.on(CpuId::BOOT, |pin| {
        let space = service.create_space(pin).unwrap();
        space.map(pin, page(), FrameRequest::frame().zeroed(), Protection::USER_DATA).unwrap();
        space
    });
    for cpu in some() {
        sim.on(cpu, |pin| {
            // SAFETY: the CPU is online, and this is no handler.
            unsafe { space.activate(pin) };
            assert_eq!(sim.load(ADDRESS), Ok(0), "{cpu}");
            assert!(space.translate(pin, ADDRESS).is_some());
        });
    }
    assert!(space.domain().cpus().iter().eq(some()));
    let mut unmapping = sim.on(CpuId::BOOT, |pin| space.unmap(pin, page()).unwrap());
    // Each of these CPUs, and only they, is waited for.
    for cpu in some().filter(|&cpu| cpu != CpuId::BOOT) {
        assert!(!unmapping.is_complete(), "{cpu}");
        sim.on(cpu, |_| {
            sim.take_interrupts();
            assert!(matches!(sim.load(ADDRESS), Err(Fault::NotPresent { .. })), "{cpu}");
        });
    }
    assert!(unmapping.is_complete());
    sim.on(CpuId::BOOT, |pin| unmapping.wait(pin));
    // The CPUs leave, and the space goes.
    for cpu in some() {
        // SAFETY: as above.
        sim.on(cpu, |pin| unsafe { service.kernel_space().unwrap().activate(pin) });
    }
    assert!(space.domain().is_idle());
    sim.on(CpuId::BOOT, |_| drop(space));
}

#[test]
fn cpus_leave_and_come_back() {
    let (sim, service) = booted(130);
    for cpu in [63, 64, 129].map(|index| CpuId::new(index).unwrap()) {
        sim.on(cpu, |pin| {
            // SAFETY: nothing else runs on the CPU.
            unsafe { service.cpu_offline(pin).unwrap() };
            assert!(!service.shootdown().kernel().cpus().contains(cpu));
            // SAFETY: as above.
            unsafe { service.cpu_online(pin).unwrap() };
            assert!(service.shootdown().kernel().cpus().contains(cpu));
        });
    }
}
