//! Address spaces on a simulated machine: where frames go, and when.
// CPUs that spin for each other take Miri most of a minute a test; it runs sim_service.
#![cfg(not(miri))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use topomem::address_space::{CreateError, MapError, ProtectError, RemapError};
use topomem::page_table::Ownership;
use topomem::sim::{Fault, Sim, SimService};
use topomem::{
    Access, AddressSpace, CpuId, CpuPin, FrameRequest, Order, PageRange, PageSize, PendingWork, Protection,
    UnmapError, VirtAddr,
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

fn booted(cpus: usize) -> (&'static Sim, &'static SimService) {
    let sim = Sim::builder().nodes(2).cpus(cpus).memory(64 << 20).build().unwrap();
    (sim, sim.boot_service().unwrap())
}

/// Frames that somebody has.
fn allocated(service: &SimService) -> u64 {
    service.frames().validate().unwrap().allocated
}

type Space = AddressSpace<&'static Sim>;

fn map(space: &Space, pin: &CpuPin, range: PageRange) {
    let order = if range.size() == PageSize::Size4KiB { Order::FRAME } else { Order::HUGE };
    space.map(pin, range, FrameRequest::order(order), Protection::USER_DATA).unwrap();
}

fn activate(space: &Space, pin: &CpuPin) {
    // SAFETY: the CPU is online, and this is no handler.
    unsafe { space.activate(pin) };
}

#[test]
fn a_dropped_space_gives_everything_back() {
    let (sim, service) = booted(1);
    sim.on(CpuId::BOOT, |pin| {
        let before = allocated(service);
        let space = service.create_space(pin).unwrap();
        map(&space, pin, pages(0, 700));
        map(&space, pin, huge(5, 2));
        assert_eq!(space.mapped_pages(), 700 + 1024);
        space.unmap(pin, pages(3, 9)).unwrap().wait(pin);
        assert_eq!(space.mapped_pages(), 691 + 1024);
        drop(space);
        assert_eq!(service.run_pending_work(pin), PendingWork::Done);
        assert_eq!(allocated(service), before);
    });
}

#[test]
fn a_space_that_is_active_elsewhere_is_freed_once_it_is_left() {
    let (sim, service) = booted(2);
    let before = allocated(service);
    let space = sim.on(CpuId::BOOT, |pin| service.create_space(pin).unwrap());
    sim.run(|pin| {
        if pin.cpu() != CpuId::BOOT {
            map(&space, pin, pages(0, 1));
            activate(&space, pin);
            sim.store(pages(0, 1).start(), 1).unwrap();
        }
    });
    drop(space);
    sim.on(CpuId::BOOT, |pin| service.run_pending_work(pin));
    assert!(allocated(service) > before);
    sim.run(|pin| {
        if pin.cpu() != CpuId::BOOT {
            assert_eq!(sim.load(pages(0, 1).start()), Ok(1), "the tables are still there");
            activate(&service.kernel_space().unwrap(), pin);
            assert_eq!(service.run_pending_work(pin), PendingWork::Done);
        }
    });
    assert_eq!(allocated(service), before);
}

/// The frames of an unmapping that nobody waits for stay out of the allocator until the other
/// CPU, whose interrupts are late, has answered.
fn outlives_the_ticket(abandon: impl Fn(topomem::Unmapping<'_, &'static Sim>) + Sync) {
    let sim = Sim::builder().cpus(2).memory(32 << 20).build().unwrap();
    let service = sim.boot_service().unwrap();
    let space = sim.on(CpuId::BOOT, |pin| {
        let space = service.create_space(pin).unwrap();
        map(&space, pin, pages(0, 8));
        space
    });
    let other = CpuId::new(1).unwrap();
    sim.on(other, |pin| {
        activate(&space, pin);
        sim.store(pages(5, 1).start(), 55).unwrap();
    });
    // CPU 1 is not played by any thread now: it answers nothing.
    sim.on(CpuId::BOOT, |pin| {
        let before = allocated(service);
        let mut unmapping = space.unmap(pin, pages(4, 4)).unwrap();
        assert_eq!(unmapping.pages(), 4);
        assert!(!unmapping.is_complete());
        abandon(unmapping);
        assert_eq!(space.retired_frames(), 4);
        assert_eq!(service.run_pending_work(pin), PendingWork::Waiting);
        assert_eq!(allocated(service), before);
    });
    let stale = sim.on(other, |_| sim.load(pages(5, 1).start()));
    assert!(matches!(stale, Err(Fault::NotPresent { .. })), "the load takes the interrupt first: {stale:?}");
    sim.on(CpuId::BOOT, |pin| {
        let before = allocated(service);
        assert_eq!(service.run_pending_work(pin), PendingWork::Done);
        assert_eq!(allocated(service), before - 4);
        assert_eq!(space.retired_frames(), 0);
    });
}

#[test]
fn a_detached_unmapping_frees_late() {
    outlives_the_ticket(|unmapping| unmapping.detach());
}

#[test]
fn a_dropped_future_frees_late() {
    outlives_the_ticket(|unmapping| {
        let mut future = pin!(unmapping.into_future());
        let mut context = Context::from_waker(Waker::noop());
        assert_eq!(future.as_mut().poll(&mut context), Poll::Pending);
    });
}

#[test]
fn a_split_run_is_freed_with_its_last_part() {
    let (sim, service) = booted(1);
    sim.on(CpuId::BOOT, |pin| {
        let space = service.create_space(pin).unwrap();
        map(&space, pin, huge(0, 1));
        activate(&space, pin);
        sim.store(pages(511, 1).start(), 7).unwrap();
        let mapped = allocated(service);
        space.unmap(pin, pages(0, 500)).unwrap().wait(pin);
        assert_eq!(sim.load(pages(511, 1).start()), Ok(7));
        assert!(sim.load(pages(499, 1).start()).is_err());
        assert_eq!(allocated(service), mapped + 1, "the run is whole, and a table more");
        space.unmap(pin, pages(500, 12)).unwrap().wait(pin);
        assert_eq!(allocated(service), mapped + 1 - 512);
        // Once free, the run can be had again, and its frames one by one.
        map(&space, pin, pages(0, 512));
        space.unmap(pin, pages(0, 512)).unwrap().wait(pin);
        assert_eq!(allocated(service), mapped + 1 - 512);
        activate(&service.kernel_space().unwrap(), pin);
    });
}

#[test]
fn a_batch_is_one_round_of_interrupts() {
    let (sim, service) = booted(2);
    let space = sim.on(CpuId::BOOT, |pin| service.create_space(pin).unwrap());
    sim.run(|pin| {
        if pin.cpu() == CpuId::BOOT {
            map(&space, pin, pages(0, 32));
        }
        sim.barrier();
        activate(&space, pin);
        sim.store(pages(4, 1).start(), 1).unwrap();
        sim.barrier();
        if pin.cpu() == CpuId::BOOT {
            let sent = service.cpu_stats(pin.cpu()).shootdown.ipis_sent;
            let mut batch = space.batch(pin);
            for page in 0..6 {
                batch.unmap(pages(page * 4, 1)).unwrap();
            }
            batch.protect(pages(30, 1), Protection::USER_READ_ONLY).unwrap();
            let unmapping = batch.issue();
            assert_eq!(unmapping.pages(), 7);
            unmapping.wait(pin);
            assert_eq!(service.cpu_stats(pin.cpu()).shootdown.ipis_sent, sent + 1);
        }
        sim.barrier();
        assert!(sim.load(pages(4, 1).start()).is_err());
        assert!(sim.load(pages(5, 1).start()).is_ok());
        assert!(sim.store(pages(30, 1).start(), 1).is_err());
        activate(&service.kernel_space().unwrap(), pin);
    });
}

#[test]
fn refusals_change_nothing() {
    let (sim, service) = booted(1);
    sim.on(CpuId::BOOT, |pin| {
        let space = service.create_space(pin).unwrap();
        map(&space, pin, pages(3, 1));
        let before = allocated(service);
        let frame = FrameRequest::frame();
        let data = Protection::USER_DATA;

        let occupied = space.map(pin, pages(0, 8), frame, data);
        assert!(matches!(occupied, Err(MapError::AlreadyMapped { page, .. }) if page == pages(3, 1).start()));
        assert_eq!(
            space.map(pin, pages(8, 1), frame, Protection::KERNEL_DATA),
            Err(MapError::WrongPrivilege)
        );
        let wrong = MapError::WrongOrder { given: Order::FRAME, needed: Order::HUGE };
        assert_eq!(space.map(pin, huge(1, 1), frame, data), Err(wrong));
        let null = PageRange::page(VirtAddr::new(0).unwrap(), PageSize::Size4KiB);
        assert_eq!(space.map(pin, null, frame, data), Err(MapError::OutsideSpace(null)));
        let kernel = PageRange::page(Sim::WINDOW, PageSize::Size4KiB);
        assert_eq!(space.map(pin, kernel, frame, data), Err(MapError::OutsideSpace(kernel)));
        assert_eq!(space.unmap(pin, kernel).err(), Some(UnmapError::OutsideSpace(kernel)));
        let protected = space.protect(pin, pages(3, 1), Protection::KERNEL_DATA);
        assert_eq!(protected.err(), Some(ProtectError::WrongPrivilege));

        assert_eq!(allocated(service), before);
        assert_eq!(space.mapped_pages(), 1);
    });
}

#[test]
fn running_out_of_frames_changes_nothing() {
    let (sim, service) = booted(1);
    sim.on(CpuId::BOOT, |pin| {
        let space = service.create_space(pin).unwrap();
        let before = allocated(service);
        let all = space.map(pin, pages(0, 1 << 20), FrameRequest::frame(), Protection::USER_DATA);
        assert!(matches!(all, Err(MapError::OutOfFrames(_))), "{all:?}");
        assert_eq!(allocated(service), before);
        assert_eq!(space.mapped_pages(), 0);
        map(&space, pin, pages(0, 100));
    });
}

#[test]
fn translations_carry_what_was_mapped() {
    let (sim, service) = booted(1);
    sim.on(CpuId::BOOT, |pin| {
        let space = service.create_space(pin).unwrap();
        map(&space, pin, huge(1, 1));
        let address = VirtAddr::new(BASE + HUGE + 0x1_2345).unwrap();
        let found = space.translate(pin, address).unwrap();
        assert_eq!(found.size, PageSize::Size2MiB);
        assert_eq!(found.address, found.leaf.frame.start_address() + 0x1_2345);
        assert_eq!(found.leaf.ownership, Ownership::Owned);
        let access = found.leaf.protection.access();
        assert!(access.writes() && !access.executes());
        assert_eq!(space.translate(pin, VirtAddr::new(BASE).unwrap()), None);
        assert_eq!(space.translate(pin, VirtAddr::new(1 << 50).unwrap()), None, "not canonical for 48 bits");
    });
}

#[test]
fn the_kernels_half_is_everybodys() {
    let (sim, service) = booted(1);
    sim.on(CpuId::BOOT, |pin| {
        let (kernel, user) = (service.kernel_space().unwrap(), service.create_space(pin).unwrap());
        let range = PageRange::page(Sim::WINDOW, PageSize::Size4KiB);
        activate(&user, pin);
        kernel.map(pin, range, FrameRequest::frame(), Protection::KERNEL_DATA).unwrap();
        sim.store(Sim::WINDOW, 77).unwrap();
        activate(&service.create_space(pin).unwrap(), pin);
        assert_eq!(sim.load(Sim::WINDOW), Ok(77));
        kernel.protect(pin, range, Protection::kernel(Access::READ)).unwrap().wait(pin);
        assert!(sim.store(Sim::WINDOW, 78).is_err());
        kernel.unmap(pin, range).unwrap().wait(pin);
        assert!(sim.load(Sim::WINDOW).is_err());
        activate(&kernel, pin);
    });
}

#[test]
fn spaces_need_a_kernel_space() {
    let sim = Sim::builder().memory(32 << 20).build().unwrap();
    let empty: &'static SimService = std::thread::Builder::new()
        .stack_size(64 << 20)
        .spawn(move || -> &'static SimService { Box::leak(Box::new(SimService::new(sim))) })
        .unwrap()
        .join()
        .unwrap();
    sim.on(CpuId::BOOT, |pin| {
        assert_eq!(empty.create_space(pin).err(), Some(CreateError::NoKernelSpace));
    });
}

#[test]
fn a_shortage_of_memory_frees_abandoned_spaces() {
    let (sim, service) = booted(1);
    sim.on(CpuId::BOOT, |pin| {
        let frame = FrameRequest::frame();
        let mut mapped = 0;
        // Several times what the machine has, each space dropped and the service task never runs.
        while mapped < 4 * (64 << 20) / 4096 {
            let space = service.create_space(pin).unwrap();
            space.map(pin, pages(0, 3000), frame, Protection::USER_DATA).unwrap();
            mapped += 3000;
        }
    });
}

#[test]
fn remapped_pages_move_with_their_contents() {
    let (sim, service) = booted(2);
    let space = sim.on(CpuId::BOOT, |pin| service.create_space(pin).unwrap());
    let (old, new) = (pages(0, 4), pages(1 << 20, 4));
    sim.run(|pin| {
        if pin.cpu() == CpuId::BOOT {
            map(&space, pin, old);
        }
        sim.barrier();
        activate(&space, pin);
        if pin.cpu() == CpuId::BOOT {
            sim.store(pages(2, 1).start(), 22).unwrap();
        }
        sim.barrier();
        assert_eq!(sim.load(pages(2, 1).start()), Ok(22));
        sim.barrier();
        if pin.cpu() == CpuId::BOOT {
            let before = allocated(service);
            let overlap = space.remap(pin, old, pages(3, 1).start());
            assert!(matches!(overlap.err(), Some(RemapError::Overlap { .. })));
            space.remap(pin, old, new.start()).unwrap().wait(pin);
            assert_eq!(allocated(service), before + 2, "two tables for the new place");
        }
        sim.barrier();
        assert!(sim.load(pages(2, 1).start()).is_err());
        assert_eq!(sim.load(pages((1 << 20) + 2, 1).start()), Ok(22));
        activate(&service.kernel_space().unwrap(), pin);
    });
}

#[test]
fn the_x86_64_crate_translates_alike() {
    use x86_64::structures::paging::PageTableFlags;
    use x86_64::structures::paging::mapper::{MappedFrame, Translate, TranslateResult};

    let (sim, service) = booted(1);
    sim.on(CpuId::BOOT, |pin| {
        let space = service.create_space(pin).unwrap();
        map(&space, pin, huge(1, 1));
        let address = x86_64::VirtAddr::new(BASE + HUGE + 0x1234);
        let own = space.translate(pin, address.into()).unwrap();
        let TranslateResult::Mapped { frame: MappedFrame::Size2MiB(frame), offset, flags } =
            Translate::translate(&space, address)
        else {
            panic!("no 2 MiB page")
        };
        assert_eq!((frame.start_address().into(), offset), (own.leaf.frame.start_address(), 0x1234));
        let data = PageTableFlags::PRESENT
            | PageTableFlags::WRITABLE
            | PageTableFlags::USER_ACCESSIBLE
            | PageTableFlags::NO_EXECUTE
            | PageTableFlags::HUGE_PAGE;
        assert_eq!(flags, data);
        let translated = Translate::translate_addr(&space, address);
        assert_eq!(translated.map(topomem::PhysAddr::from), Some(own.address));
    });
}
