//! Where physical addresses, page sizes and the kernel's window end.
// As in spaces.rs.
#![cfg(not(miri))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use topomem::address_space::{MapError, PromoteError, Refusal};
use topomem::sim::{Sim, SimService};
use topomem::{
    Access, AddressSpace, ApicId, BootAllocator, BootError, CpuId, CpuPin, FramesConfig, KernelLayout,
    PageRange, PageSize, PagingFeatures, PerFrameTable, PhysAddr, PhysFrame, Protection, VirtAddr,
};
use x86_64::structures::paging::mapper::{MapToError, Mapper};
use x86_64::structures::paging::{self, FrameAllocator, Page, PageTableFlags, Size1GiB, Size4KiB};

const BASE: u64 = 0x10_0000_0000;
const READ: Protection = Protection::user(Access::READ);

type Space = AddressSpace<&'static Sim>;

fn booted(paging: PagingFeatures) -> (&'static Sim, &'static SimService) {
    let sim = Sim::builder().memory(32 << 20).paging(paging).build().unwrap();
    (sim, sim.boot_service().unwrap())
}

fn range(first: u64, count: u64, size: PageSize) -> PageRange {
    PageRange::new(VirtAddr::new(BASE + first * size.bytes()).unwrap(), count, size).unwrap()
}

fn pages(first: u64, count: u64) -> PageRange {
    range(first, count, PageSize::Size4KiB)
}

fn frame(number: u64) -> PhysFrame {
    PhysFrame::containing_address(PhysAddr::new(number * 4096))
}

fn borrow(space: &Space, pin: &CpuPin, range: PageRange, first: u64) -> Result<(), MapError> {
    // SAFETY: nothing reads or writes through the mapping.
    unsafe { space.map_borrowed(pin, range, frame(first), READ) }
}

#[test]
fn the_last_frames_of_all_are_mapped_and_promoted() {
    for bits in [52, 40] {
        let end = 1u64 << (bits - 12);
        let (sim, service) = booted(PagingFeatures::BASIC.with_giant_pages().with_physical_bits(bits));
        sim.on(CpuId::BOOT, |pin| {
            let space = service.create_space(pin).unwrap();
            borrow(&space, pin, pages(0, 1), end - 1).unwrap();
            let found = space.translate(pin, pages(0, 1).start()).unwrap();
            assert_eq!(found.address.as_u64(), (end - 1) * 4096);
            for (first, count) in [(end - 1, 2), (end - 512, 513), (end - 1, 1 << 30)] {
                let refused = borrow(&space, pin, pages(1, count), first);
                let beyond = MapError::BeyondPhysicalMemory { first: frame(first), pages: count, bits };
                assert_eq!(refused, Err(beyond));
            }
            assert_eq!(space.mapped_pages(), 1);
            // By pages of each size, and promoted as far as that goes.
            borrow(&space, pin, pages(512, 512), end - 512).unwrap();
            space.promote(pin, range(1, 1, PageSize::Size2MiB)).unwrap().wait(pin);
            borrow(&space, pin, range(512, 512, PageSize::Size2MiB), end - (1 << 18)).unwrap();
            space.promote(pin, range(1, 1, PageSize::Size1GiB)).unwrap().wait(pin);
            let last = VirtAddr::new(BASE + (2 << 30) - 4096).unwrap();
            let found = space.translate(pin, last).unwrap();
            assert_eq!((found.size, found.address.as_u64()), (PageSize::Size1GiB, (end - 1) * 4096));
            // And cut again.
            space.unmap(pin, pages((2 << 18) - 1, 1)).unwrap().wait(pin);
            assert_eq!(space.translate(pin, last), None);
        });
    }
}

struct NoFrames;

// SAFETY: it hands out no frame.
unsafe impl FrameAllocator<Size4KiB> for NoFrames {
    fn allocate_frame(&mut self) -> Option<paging::PhysFrame> {
        None
    }
}

#[test]
fn a_machine_without_pages_of_a_gibibyte_gets_none() {
    let (sim, service) = booted(PagingFeatures::BASIC);
    sim.on(CpuId::BOOT, |pin| {
        let space = service.create_space(pin).unwrap();
        let giant = range(0, 1, PageSize::Size1GiB);
        borrow(&space, pin, giant, 1 << 18).unwrap();
        let found = space.translate(pin, giant.start()).unwrap();
        assert_eq!(found.size, PageSize::Size2MiB);
        let refused = space.promote(pin, giant).map(|_| ());
        assert_eq!(refused, Err(PromoteError::Unsupported(PageSize::Size1GiB)));
        let mut mapper = space.mapper(pin);
        let page = Page::<Size1GiB>::containing_address(x86_64::VirtAddr::new(BASE + (1 << 30)));
        let flags = PageTableFlags::PRESENT | PageTableFlags::USER_ACCESSIBLE | PageTableFlags::NO_EXECUTE;
        let first = paging::PhysFrame::containing_address(x86_64::PhysAddr::new(1 << 30));
        // SAFETY: nothing reads or writes through the mapping.
        let refused = unsafe { mapper.map_to(page, first, flags, &mut NoFrames) };
        assert!(matches!(refused, Err(MapToError::FrameAllocationFailed)));
        let reason = MapError::Unsupported(PageSize::Size1GiB);
        assert_eq!(mapper.refusal(), Some(Refusal::Map(reason)));
    });
}

/// Boots a service whose kernel window starts at `start`.
fn boot_with_window(start: u64) -> Result<(), BootError<core::convert::Infallible>> {
    let sim = Sim::builder().memory(32 << 20).build().unwrap();
    let build = move || -> &'static SimService { Box::leak(Box::new(SimService::new(sim))) };
    let thread = std::thread::Builder::new().stack_size(64 << 20).spawn(build).unwrap();
    let service = thread.join().unwrap();
    sim.on(CpuId::BOOT, |pin| {
        let tables = sim.tables();
        let booting = service.boot().unwrap();
        let discovered = booting.discover(&tables.as_firmware(), ApicId(0), &mut |_| ());
        let mut memory = sim.memory_map().unwrap();
        let mut boot_memory = BootAllocator::new(&mut memory, discovered.topology());
        let config = FramesConfig { table: PerFrameTable::Present, ..FramesConfig::without_reserve() };
        let frames = discovered.frames(pin, &mut boot_memory, &config).unwrap();
        let window = PageRange::new(VirtAddr::new(start).unwrap(), 512, PageSize::Size1GiB).unwrap();
        // SAFETY: nothing is inherited, and the window is the service's.
        unsafe { frames.no_heap().kernel_space(pin, &KernelLayout { window, inherit: None }) }.map(drop)
    })
}

#[test]
fn a_window_that_the_root_does_not_reach_is_refused() {
    for start in [0xff00_0000_0000_0000, 0xffff_0000_0000_0000, 0xfffe_8000_0000_0000, 0x7f80_0000_0000] {
        let refused = boot_with_window(start);
        assert!(matches!(refused, Err(BootError::MisplacedWindow(_))), "{start:#x}: {refused:?}");
    }
    for start in [0xffff_8000_0000_0000, 0xffff_ff80_0000_0000] {
        assert_eq!(boot_with_window(start), Ok(()), "{start:#x}");
    }
}

#[test]
fn moving_costs_what_is_mapped() {
    let (sim, service) = booted(PagingFeatures::BASIC);
    sim.on(CpuId::BOOT, |pin| {
        let space = service.create_space(pin).unwrap();
        let allocated = || service.frames().validate().unwrap().allocated;
        let to = |address: u64| VirtAddr::new(BASE + address).unwrap();
        for gibibytes in [1, 16, 256] {
            let before = allocated();
            let hole = range(0, gibibytes, PageSize::Size1GiB);
            space.remap(pin, hole, to(1 << 40)).unwrap().wait(pin);
            assert_eq!(allocated(), before, "{gibibytes} GiB of nothing");
        }
        // Two pages far apart, in 64 GiB.
        for page in [7, (63 << 18) + 9] {
            borrow(&space, pin, pages(page, 1), page).unwrap();
        }
        let before = allocated();
        space.remap(pin, range(0, 64, PageSize::Size1GiB), to(1 << 40)).unwrap().wait(pin);
        assert!(allocated() <= before + 5, "{} tables for two pages", allocated() - before);
        for page in [7, (63 << 18) + 9] {
            let found = space.translate(pin, to((1 << 40) + page * 4096)).unwrap();
            assert_eq!(found.leaf.frame, frame(page));
            assert_eq!(space.translate(pin, pages(page, 1).start()), None);
        }
        // What is in the way is found, though nothing is to come there.
        borrow(&space, pin, pages(1 << 20, 1), 5).unwrap();
        assert!(space.remap(pin, range(16, 1, PageSize::Size1GiB), to(4 << 30)).is_err());
    });
}
