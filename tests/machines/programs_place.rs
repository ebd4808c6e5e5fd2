//! A kernel that lies in the lower half: programs have a part of it, and all other addresses are the kernel's.
// As in spaces.rs.
#![cfg(not(miri))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests")]

use std::convert::Infallible;

use topomem::region::{FaultAccess, MapRequest, PageFault};
use topomem::sim::{Sim, SimService};
use topomem::{
    ApicId, BootAllocator, BootError, CpuId, FrameRequest, FramesConfig, KernelLayout, PageRange, PageSize,
    PerFrameTable, Protection, VirtAddr,
};

/// What an entry of the root maps.
const ENTRY: u64 = 1 << 39;

fn entries(first: u64, count: u64) -> PageRange {
    PageRange::new(VirtAddr::new_truncate(first * ENTRY), count << 9, PageSize::Size1GiB).unwrap()
}

fn page(address: u64) -> PageRange {
    PageRange::page(VirtAddr::new_truncate(address), PageSize::Size4KiB)
}

/// Boots a machine of one CPU whose programs have `programs` and whose service maps in `window`.
fn boot(
    programs: Option<PageRange>,
    window: PageRange,
) -> Result<(&'static Sim, &'static SimService), BootError<Infallible>> {
    let sim = Sim::builder().memory(32 << 20).build().unwrap();
    let build = move || -> &'static SimService { Box::leak(Box::new(SimService::new(sim))) };
    let thread = std::thread::Builder::new().stack_size(64 << 20).spawn(build).unwrap();
    let service = thread.join().unwrap();
    sim.on_shootdown(move |pin| _ = service.on_shootdown_ipi(pin));
    sim.on_relax(move |pin| service.poll_shootdown(pin));
    sim.on(CpuId::BOOT, |pin| {
        let tables = sim.tables();
        let discovered = service.boot().unwrap().discover(&tables.as_firmware(), ApicId(0), &mut |_| ());
        let mut memory = sim.memory_map().unwrap();
        let mut boot_memory = BootAllocator::new(&mut memory, discovered.topology());
        let config = FramesConfig { table: PerFrameTable::Present, ..FramesConfig::without_reserve() };
        let mut heap = discovered.frames(pin, &mut boot_memory, &config).unwrap().no_heap();
        if let Some(programs) = programs {
            heap = heap.programs(programs)?;
        }
        // SAFETY: nothing is inherited, and the window is the service's.
        unsafe { heap.kernel_space(pin, &KernelLayout { window, inherit: None }) }.map(|_| ())
    })?;
    Ok((sim, service))
}

#[test]
fn impossible_layouts_are_refused() {
    let window = entries(2, 1);
    let half = PageRange::new(VirtAddr::new_truncate(128 * ENTRY), 256, PageSize::Size1GiB).unwrap();
    let upper =
        PageRange::new(VirtAddr::new_truncate(0xffff_8000_0000_0000), 512, PageSize::Size1GiB).unwrap();
    for programs in [half, upper, entries(200, 100)] {
        let refused = boot(Some(programs), window).map(|_| ());
        assert_eq!(refused, Err(BootError::MisplacedPrograms(programs)));
    }
    for (programs, window) in [
        (Some(entries(128, 64)), entries(130, 1)),
        (Some(entries(128, 64)), entries(127, 2)),
        (Some(entries(128, 64)), entries(255, 2)),
        (None, entries(2, 1)),
    ] {
        assert_eq!(
            boot(programs, window).map(|_| ()),
            Err(BootError::MisplacedWindow(window)),
            "{programs:?}"
        );
    }
}

#[test]
fn the_kernel_is_in_every_space_and_programs_are_in_their_own() {
    // Below programs, above them, and in the upper half.
    for window in [2, 200, 0x1ff_ff80] {
        let window = entries(window, 1);
        let (sim, service) = boot(Some(entries(128, 64)), window).unwrap();
        sim.on(CpuId::BOOT, |pin| {
            let (kernel, first) = (service.kernel_space().unwrap(), window.start().as_u64() + 0x5000);
            let before = service.frames().validate().unwrap();
            let space = service.create_space(pin).unwrap();
            kernel.map(pin, page(first), FrameRequest::frame(), Protection::KERNEL_DATA).unwrap();
            let own = 130 * ENTRY + 0x7000;
            space.map(pin, page(own), FrameRequest::frame(), Protection::USER_DATA).unwrap();
            for beyond in [0x40_0000, 127 * ENTRY, 192 * ENTRY, 250 * ENTRY, first] {
                let request = FrameRequest::frame();
                assert!(space.map(pin, page(beyond), request, Protection::USER_DATA).is_err(), "{beyond:#x}");
            }
            // What is found a place for lies there, too.
            let region = space.mmap(pin, &MapRequest::anonymous(1 << 20)).unwrap();
            assert!((128 * ENTRY..192 * ENTRY).contains(&region.as_u64()), "{region}");
            // SAFETY: the CPU is online, and no call of the service is interrupted.
            unsafe { _ = space.activate(pin) };
            sim.store(VirtAddr::new_truncate(first), 11).unwrap();
            sim.store(VirtAddr::new_truncate(own), 22).unwrap();
            space.on_page_fault(pin, PageFault::new(region, FaultAccess::Write)).unwrap();
            sim.store(region, 33).unwrap();
            let child = space.fork(pin).unwrap();
            // SAFETY: as above.
            unsafe { _ = child.activate(pin) };
            assert_eq!(sim.load(region), Ok(33), "the child has a copy");
            assert_eq!(sim.load(VirtAddr::new_truncate(first)), Ok(11));
            // SAFETY: as above.
            unsafe { _ = kernel.activate(pin) };
            assert_eq!(sim.load(VirtAddr::new_truncate(first)), Ok(11));
            assert!(sim.load(VirtAddr::new_truncate(own)).is_err(), "a program's page in the kernel's space");
            assert_eq!(kernel.find_writable_code(pin), None);
            drop((space, child));
            for _ in 0..100 {
                service.run_pending_work(pin);
            }
            // The kernel's page and its tables stay when programs' spaces go.
            assert_eq!(sim.load(VirtAddr::new_truncate(first)), Ok(11));
            kernel.unmap(pin, page(first)).unwrap().wait(pin);
            service.run_pending_work(pin);
            service.frames().drain(pin);
            let after = service.frames().validate().unwrap();
            assert!(before.allocated + 4 >= after.allocated, "{before:?}, then {after:?}");
        });
    }
}
