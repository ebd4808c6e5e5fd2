//! The memory service on a simulated machine, through its public interface.
#![allow(clippy::unwrap_used)]

use topomem::sim::{Fault, Sim, SimService};
use topomem::{CpuId, FrameRequest, PageRange, PageSize, Platform, Protection, VirtAddr};

const ADDRESS: VirtAddr = VirtAddr::new_truncate(0x10_0000_0000);

fn page() -> PageRange {
    PageRange::page(ADDRESS, PageSize::Size4KiB)
}

fn booted(cpus: usize) -> (&'static Sim, &'static SimService) {
    let sim = Sim::builder().nodes(2).cpus(cpus).memory(64 << 20).build().unwrap();
    (sim, sim.boot_service().unwrap())
}

#[test]
fn a_space_shows_its_own_pages_only() {
    let (sim, service) = booted(2);
    sim.on(CpuId::BOOT, |pin| {
        let spaces = [service.create_space(pin).unwrap(), service.create_space(pin).unwrap()];
        for (space, value) in spaces.iter().zip([1, 2]) {
            space.map(pin, page(), FrameRequest::frame().zeroed(), Protection::USER_DATA).unwrap();
            // SAFETY: the CPU is online, and this is no handler.
            unsafe { space.activate(pin) };
            assert_eq!(sim.load(ADDRESS), Ok(0));
            sim.store(ADDRESS, value).unwrap();
        }
        for (space, value) in spaces.iter().zip([1, 2]) {
            // SAFETY: as above.
            unsafe { space.activate(pin) };
            assert_eq!(sim.load(ADDRESS), Ok(value));
        }
        // SAFETY: as above.
        unsafe { service.kernel_space().unwrap().activate(pin) };
        assert!(matches!(sim.load(ADDRESS), Err(Fault::NotPresent { .. })));
    });
}

#[test]
fn an_unmapping_that_has_completed_is_seen_by_all() {
    let (sim, service) = booted(4);
    let space = sim.on(CpuId::BOOT, |pin| {
        let space = service.create_space(pin).unwrap();
        space.map(pin, page(), FrameRequest::frame(), Protection::USER_DATA).unwrap();
        space
    });
    let after = sim.run(|pin| {
        // SAFETY: the CPU is online, and this is no handler.
        unsafe { space.activate(pin) };
        sim.store(ADDRESS, 5).unwrap();
        sim.barrier();
        if pin.cpu() == CpuId::BOOT {
            sim.block_on(space.unmap(pin, page()).unwrap().into_future(), || {
                service.run_pending_work(&sim.pin());
            });
        }
        sim.barrier();
        sim.load(ADDRESS)
    });
    // A space goes where a CPU sees to it.
    sim.on(CpuId::BOOT, |_| drop(space));
    for outcome in after {
        assert!(matches!(outcome, Err(Fault::NotPresent { .. })), "{outcome:?}");
    }
}

/// Memory may be anywhere below 2^52: what links frames numbers them by their entries.
#[test]
#[cfg_attr(miri, ignore = "so many frames take Miri minutes; the others run the same unsafe code")]
fn memory_far_above_8_tib_works() {
    let base = topomem_numa::FRAME_SIZE * ((1 << 40) - (80 << 8));
    let sim =
        Sim::builder().nodes(2).cpus(2).memory(64 << 20).base(topomem::PhysAddr::new(base)).build().unwrap();
    let service = sim.boot_service().unwrap();
    sim.on(CpuId::BOOT, |pin| {
        let free = || service.frames().validate().unwrap().allocated;
        let space = service.create_space(pin).unwrap();
        // Scattered frames: every second one of those mapped stays with somebody else.
        let apart: Vec<_> = (0..512)
            .map(|index| {
                let at = VirtAddr::new(ADDRESS.as_u64() + index * 4096).unwrap();
                let one = PageRange::page(at, PageSize::Size4KiB);
                space.map(pin, one, FrameRequest::frame().zeroed(), Protection::USER_DATA).unwrap();
                service.alloc(pin, &FrameRequest::frame()).unwrap()
            })
            .collect();
        // SAFETY: the CPU is online, and this is no handler.
        unsafe { space.activate(pin) };
        (0..512).for_each(|index| {
            sim.store(VirtAddr::new(ADDRESS.as_u64() + index * 4096).unwrap(), index).unwrap();
        });
        assert_eq!(sim.load(VirtAddr::new(ADDRESS.as_u64() + 77 * 4096).unwrap()), Ok(77));
        let before = free();
        let all = PageRange::new(ADDRESS, 512, PageSize::Size4KiB).unwrap();
        space.unmap(pin, all).unwrap().wait(pin);
        assert!(free() <= before - 512);
        for frame in apart {
            // SAFETY: nobody uses it.
            unsafe { service.frames().free(pin, frame, topomem::Order::FRAME) }.unwrap();
        }
    });
}
