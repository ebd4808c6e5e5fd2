//! The `x86_64` crate's `Mapper` over an address space, against the space's own operations.
// As in spaces.rs.
#![cfg(all(feature = "x86_64", not(miri)))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use topomem::address_space::{FlagsError, MapError, ProtectError, Refusal};
use topomem::sim::{Sim, SimService};
use topomem::{
    Access, AddressSpace, CpuId, CpuPin, FrameRequest, Order, PageRange, PageSize, PhysAddr, Protection,
    SpaceMapper, VirtAddr,
};
use x86_64::structures::paging::mapper::{
    FlagUpdateError, MapToError, Mapper, MapperAllSizes, Translate, TranslateError, UnmapError,
};
use x86_64::structures::paging::page::PageSize as Size;
use x86_64::structures::paging::{
    FrameAllocator, Page, PageTableFlags as Flags, PhysFrame, Size1GiB, Size2MiB, Size4KiB,
};

const BASE: u64 = 0x10_0000_0000;
const DATA: Flags =
    Flags::PRESENT.union(Flags::WRITABLE).union(Flags::USER_ACCESSIBLE).union(Flags::NO_EXECUTE);
const READ_ONLY: Flags = Flags::PRESENT.union(Flags::USER_ACCESSIBLE).union(Flags::NO_EXECUTE);
const CODE: Flags = Flags::PRESENT.union(Flags::USER_ACCESSIBLE);

/// Tables are not to come from here.
struct Unasked;

// SAFETY: it gives nothing.
unsafe impl FrameAllocator<Size4KiB> for Unasked {
    fn allocate_frame(&mut self) -> Option<PhysFrame> {
        panic!("tables are the service's");
    }
}

fn page<S: Size>(number: u64) -> Page<S> {
    Page::from_start_address(x86_64::VirtAddr::new(BASE + number * S::SIZE)).unwrap()
}

/// No RAM: what is mapped to it is never touched.
fn foreign<S: Size>(number: u64) -> PhysFrame<S> {
    PhysFrame::from_start_address(x86_64::PhysAddr::new((1 << 40) + number * S::SIZE)).unwrap()
}

/// What code written against the crate does.
fn map_to<S: Size>(
    mapper: &mut impl Mapper<S>,
    page: Page<S>,
    frame: PhysFrame<S>,
    flags: Flags,
) -> Result<(), MapToError<S>> {
    // SAFETY: the frame is this test's, or no RAM.
    unsafe { mapper.map_to(page, frame, flags, &mut Unasked)? }.ignore();
    Ok(())
}

fn unmap<S: Size>(mapper: &mut impl Mapper<S>, page: Page<S>) -> Result<PhysFrame<S>, UnmapError> {
    let (frame, flush) = mapper.unmap(page)?;
    flush.ignore();
    Ok(frame)
}

fn update<S: Size>(mapper: &mut impl Mapper<S>, page: Page<S>, flags: Flags) -> Result<(), FlagUpdateError> {
    // SAFETY: nothing uses the page as something else than the flags permit.
    unsafe { mapper.update_flags(page, flags)? }.ignore();
    Ok(())
}

type Space = AddressSpace<&'static Sim>;

fn booted(builder: topomem::sim::Builder) -> (&'static Sim, &'static SimService) {
    let sim = builder.memory(64 << 20).build().unwrap();
    (sim, sim.boot_service().unwrap())
}

fn range_of<S: Size>(page: Page<S>) -> PageRange {
    let size = match S::SIZE {
        Size4KiB::SIZE => PageSize::Size4KiB,
        Size2MiB::SIZE => PageSize::Size2MiB,
        _ => PageSize::Size1GiB,
    };
    PageRange::page(VirtAddr::from(page.start_address()), size)
}

/// One operation on a page through the adapter, and the same natively where it was accepted;
/// where it was not, the space itself shows why.
fn step<S: Size>(adapted: &mut SpaceMapper<'_, '_, &'static Sim>, native: &Space, pin: &CpuPin, dice: u64) {
    let page = page::<S>(dice % 4);
    let range = range_of(page);
    let found = native.translate(pin, range.start());
    let here = found.filter(|found| found.size == range.size());
    let (flags, protection) = match dice >> 8 & 3 {
        0 => (DATA | Flags::NO_CACHE, Protection::user(Access::WRITE).cached(topomem::Cache::Uncached)),
        1 => (READ_ONLY, Protection::USER_READ_ONLY),
        2 => (CODE | Flags::DIRTY, Protection::USER_CODE),
        _ => (DATA, Protection::USER_DATA),
    };
    match dice >> 16 & 3 {
        0 => {
            let removed = unmap(adapted, page);
            assert_eq!(removed.is_ok(), here.is_some(), "{removed:?} of {found:?}");
            if let (Ok(frame), Some(here)) = (removed, here) {
                assert_eq!(PhysAddr::from(frame.start_address()), here.address);
                native.unmap(pin, range).unwrap().wait(pin);
            }
        }
        1 => {
            let updated = update(adapted, page, flags);
            assert_eq!(updated.is_ok(), here.is_some(), "{updated:?} of {found:?}");
            if updated.is_ok() {
                native.protect(pin, range, protection).unwrap().wait(pin);
            }
        }
        _ => {
            let frame = foreign::<S>(dice >> 24 & 0xff);
            let mapped = map_to(adapted, page, frame, flags);
            let first = topomem::PhysFrame::containing_address(frame.start_address().into());
            // SAFETY: it is no RAM.
            let natively = unsafe { native.map_borrowed(pin, range, first, protection) };
            assert_eq!(mapped.is_ok(), natively.is_ok(), "natively: {natively:?}");
            if let Err(error) = natively {
                assert_eq!(adapted.refusal(), Some(Refusal::Map(error)));
            }
        }
    }
}

#[test]
fn both_ways_lead_to_the_same_tables() {
    let (sim, service) = booted(Sim::builder());
    sim.on(CpuId::BOOT, |pin| {
        let (one, native) = (service.create_space(pin).unwrap(), service.create_space(pin).unwrap());
        let mut adapted = one.mapper(pin);
        let mut dice = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..4000 {
            // Marsaglia's xorshift.
            dice ^= dice << 13;
            dice ^= dice >> 7;
            dice ^= dice << 17;
            match dice >> 60 {
                0 => step::<Size1GiB>(&mut adapted, &native, pin, dice),
                1..6 => step::<Size2MiB>(&mut adapted, &native, pin, dice),
                _ => step::<Size4KiB>(&mut adapted, &native, pin, dice),
            }
            let places = (0..4).flat_map(|n| [n * Size4KiB::SIZE, n * Size2MiB::SIZE, n * Size1GiB::SIZE]);
            for place in places {
                let address = VirtAddr::new(BASE + place).unwrap();
                assert_eq!(one.translate(pin, address), native.translate(pin, address));
                assert_eq!(
                    adapted.translate_addr(x86_64::VirtAddr::new(BASE + place)).map(PhysAddr::from),
                    native.translate(pin, address).map(|found| found.address)
                );
            }
            assert_eq!(one.mapped_pages(), native.mapped_pages());
        }
    });
}

#[test]
fn an_unmapped_page_is_nowhere_when_unmap_returns() {
    for seed in 0..20 {
        let (sim, service) = booted(Sim::builder().cpus(2).delay_interrupts(200, seed));
        let (unmapped, ready) = (AtomicBool::new(false), AtomicBool::new(false));
        let space = sim.on(CpuId::BOOT, |pin| service.create_space(pin).unwrap());
        let page = page::<Size4KiB>(3);
        let address = VirtAddr::from(page.start_address());
        sim.run(|pin| {
            // SAFETY: the CPU is online, and this is no handler.
            unsafe { space.activate(pin) };
            if pin.cpu() == CpuId::BOOT {
                let frame = service.frames().alloc(pin, &FrameRequest::frame()).unwrap();
                let mut mapper = space.mapper(pin);
                map_to(&mut mapper, page, frame.try_into().unwrap(), DATA).unwrap();
                sim.barrier();
                while !ready.load(Ordering::Acquire) {
                    sim.take_interrupts();
                }
                assert_eq!(topomem::PhysFrame::from(unmap(&mut mapper, page).unwrap()), frame);
                unmapped.store(true, Ordering::Release);
                // SAFETY: it was lent to the space, which no CPU can reach it through any more.
                unsafe { service.frames().free(pin, frame, Order::FRAME).unwrap() };
            } else {
                sim.barrier();
                sim.store(address, 5).unwrap();
                ready.store(true, Ordering::Release);
                loop {
                    let told = unmapped.load(Ordering::Acquire);
                    let loaded = sim.load(address);
                    if told {
                        assert!(loaded.is_err(), "stale: {loaded:?}, seed {seed}");
                        break;
                    }
                }
            }
            sim.barrier();
            // SAFETY: as above.
            unsafe { service.kernel_space().unwrap().activate(pin) };
        });
    }
}

#[test]
fn of_two_that_unmap_a_page_one_gets_the_frame() {
    const PAGES: u64 = 256;
    let (sim, service) = booted(Sim::builder().cpus(2));
    let space = sim.on(CpuId::BOOT, |pin| service.create_space(pin).unwrap());
    let frames = AtomicU64::new(0);
    sim.run(|pin| {
        let mut mapper = space.mapper(pin);
        if pin.cpu() == CpuId::BOOT {
            (0..PAGES).for_each(|n| map_to(&mut mapper, page::<Size4KiB>(n), foreign(n), DATA).unwrap());
        }
        sim.barrier();
        for n in 0..PAGES {
            match unmap(&mut mapper, page::<Size4KiB>(n)) {
                Ok(frame) => {
                    assert_eq!(frame, foreign(n));
                    frames.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => assert!(matches!(error, UnmapError::PageNotMapped)),
            }
        }
    });
    assert_eq!(frames.into_inner(), PAGES);
    assert_eq!(space.mapped_pages(), 0);
}

#[test]
fn an_owned_page_goes_back_to_the_service() {
    let (sim, service) = booted(Sim::builder());
    sim.on(CpuId::BOOT, |pin| {
        let space = service.create_space(pin).unwrap();
        let page = page::<Size4KiB>(0);
        space.map(pin, range_of(page), FrameRequest::frame(), Protection::USER_DATA).unwrap();
        let before = service.frames().validate().unwrap().allocated;
        unmap(&mut space.mapper(pin), page).unwrap();
        assert_eq!(service.frames().validate().unwrap().allocated, before - 1);
    });
}

#[test]
fn refusals_say_why_and_change_nothing() {
    fn all_sizes(_: &impl MapperAllSizes) {}

    let (sim, service) = booted(Sim::builder());
    sim.on(CpuId::BOOT, |pin| {
        let space = service.create_space(pin).unwrap();
        let mut mapper = space.mapper(pin);
        all_sizes(&mapper);
        let small = page::<Size4KiB>(0);
        for (flags, error) in [
            (CODE | Flags::WRITABLE, FlagsError::WriteExecute),
            (DATA - Flags::PRESENT, FlagsError::NotPresent),
            (DATA | Flags::GLOBAL, FlagsError::Global),
            (DATA | Flags::BIT_9, FlagsError::Unknown(Flags::BIT_9)),
            (DATA | Flags::HUGE_PAGE, FlagsError::Unknown(Flags::HUGE_PAGE)),
        ] {
            let refused = map_to(&mut mapper, small, foreign(0), flags);
            assert!(matches!(refused, Err(MapToError::FrameAllocationFailed)), "{refused:?}");
            assert_eq!(mapper.refusal(), Some(Refusal::Flags(error)));
        }
        // SAFETY: it is no RAM.
        let narrow =
            unsafe { mapper.map_to_with_table_flags(small, foreign(0), DATA, Flags::PRESENT, &mut Unasked) };
        assert!(narrow.is_err());
        assert_eq!(mapper.refusal(), Some(Refusal::Flags(FlagsError::NarrowTables(Flags::PRESENT))));
        map_to(&mut mapper, small, foreign(0), DATA - Flags::USER_ACCESSIBLE).unwrap_err();
        assert_eq!(mapper.refusal(), Some(Refusal::Map(MapError::WrongPrivilege)));
        let null = Page::<Size4KiB>::from_start_address(x86_64::VirtAddr::zero()).unwrap();
        map_to(&mut mapper, null, foreign(0), DATA).unwrap_err();
        assert!(matches!(mapper.refusal(), Some(Refusal::Map(MapError::OutsideSpace(_)))));
        assert!(matches!(unmap(&mut mapper, null), Err(UnmapError::PageNotMapped)));
        assert_eq!(space.mapped_pages(), 0);

        let large = page::<Size2MiB>(0);
        map_to(&mut mapper, large, foreign(7), DATA | Flags::HUGE_PAGE).unwrap();
        assert_eq!(mapper.refusal(), None);
        let inside = map_to(&mut mapper, small, foreign(0), DATA);
        assert!(matches!(inside, Err(MapToError::ParentEntryHugePage)), "{inside:?}");
        let again = map_to(&mut mapper, large, foreign(8), DATA);
        assert!(matches!(again, Err(MapToError::PageAlreadyMapped(frame)) if frame == foreign(7)));
        assert!(matches!(unmap(&mut mapper, small), Err(UnmapError::ParentEntryHugePage)));
        assert!(matches!(unmap(&mut mapper, page::<Size1GiB>(0)), Err(UnmapError::ParentEntryHugePage)));
        let part = Mapper::translate_page(&mapper, small);
        assert!(matches!(part, Err(TranslateError::ParentEntryHugePage)));
        assert_eq!(Mapper::translate_page(&mapper, large).unwrap(), foreign(7));

        let executable = update(&mut mapper, large, CODE | Flags::WRITABLE);
        assert!(matches!(executable, Err(FlagUpdateError::ParentEntryHugePage)));
        assert_eq!(mapper.refusal(), Some(Refusal::Flags(FlagsError::WriteExecute)));
        update(&mut mapper, large, DATA - Flags::USER_ACCESSIBLE).unwrap_err();
        assert_eq!(mapper.refusal(), Some(Refusal::Protect(ProtectError::WrongPrivilege)));
        // SAFETY: it is refused.
        let tables = unsafe { mapper.set_flags_p4_entry(small, DATA) };
        assert!(matches!(tables, Err(FlagUpdateError::ParentEntryHugePage)));
        assert_eq!(mapper.refusal(), Some(Refusal::TableFlags));
        let found = space.translate(pin, large.start_address().into()).unwrap();
        assert_eq!(found.leaf.protection, Protection::USER_DATA);
    });
}
