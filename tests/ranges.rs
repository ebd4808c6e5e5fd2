//! Ranges of kernel addresses: guards, lazy unmapping, and what happens without memory, addresses or an answer of
//! other CPUs; and the heap's large objects that are ranges.
// Whole machines take Miri too long.
#![cfg(not(miri))]
#![allow(clippy::unwrap_used, missing_docs)]

use std::alloc::Layout;
use std::ptr::NonNull;

use topomem::percpu::{AllocError, InvalidFree};
use topomem::ranges::{KernelRange, KernelRanges, RangeError, RangeRequest, RangesConfig, RangesError};
use topomem::sim::{Sim, SimService};
use topomem::{CpuId, CpuPin, FrameRequest, NodeId, Order, PageRange, PageSize, Protection, VirtAddr};

const MEGABYTE: u64 = 1 << 20;

type Ranges = KernelRanges<&'static Sim>;
type Range = KernelRange<&'static Sim>;

/// 256 MiB of addresses, unless a test says otherwise.
fn addresses(megabytes: u64) -> PageRange {
    let start = at(Sim::WINDOW, 256 << 30);
    PageRange::new(start, megabytes / 2, PageSize::Size2MiB).unwrap()
}

fn booted_with(
    cpus: usize,
    memory: u64,
    config: &RangesConfig,
) -> (&'static Sim, &'static SimService, &'static Ranges) {
    let sim = Sim::builder().nodes(1).cpus(cpus).memory(memory).build().unwrap();
    let service = sim.boot_service().unwrap();
    let ranges = sim.on(CpuId::BOOT, |pin| service.add_kernel_ranges(pin, config).unwrap());
    (sim, service, ranges)
}

fn booted(cpus: usize) -> (&'static Sim, &'static SimService, &'static Ranges) {
    booted_with(cpus, 64 * MEGABYTE, &RangesConfig::of(addresses(256)).heap_from(4 * MEGABYTE))
}

fn allocated(service: &SimService) -> u64 {
    service.frames().validate().unwrap().allocated
}

/// The address `bytes` behind `start`, or before it.
fn at(start: VirtAddr, bytes: i64) -> VirtAddr {
    VirtAddr::new_truncate(start.as_u64().wrapping_add_signed(bytes))
}

fn page(start: VirtAddr, index: u64) -> VirtAddr {
    at(start, (index * 4096) as i64)
}

/// Writes the number of each page to it.
fn number_pages(sim: &Sim, start: VirtAddr, pages: std::ops::Range<u64>) {
    pages.for_each(|index| sim.store(at(page(start, index), 8), 7 * index).unwrap());
}

fn check_pages(sim: &Sim, start: VirtAddr, pages: std::ops::Range<u64>) {
    pages.for_each(|index| assert_eq!(sim.load(at(page(start, index), 8)), Ok(7 * index), "{index}"));
}

/// The pages of `range`, and no others around them, are mapped.
fn check_guards(sim: &Sim, range: &Range) {
    let start = range.start();
    assert!(sim.load(at(start, -8)).is_err() && sim.load(at(start, range.bytes() as i64)).is_err());
    for index in 0..range.pages() {
        assert!(sim.load(page(start, index)).is_ok(), "{index}");
    }
}

/// Flushes until nothing waits: each CPU answers when it is about.
fn settle(sim: &'static Sim, ranges: &'static Ranges) {
    for _ in 0..3 {
        sim.run(|pin| {
            sim.take_interrupts();
            ranges.flush(pin)
        });
    }
    assert!(sim.on(CpuId::BOOT, |pin| !ranges.flush(pin).waiting));
}

/// Takes frames until the service has none, then gives back `left`.
fn leave_frames(
    service: &'static SimService,
    pin: &CpuPin,
    left: usize,
) -> Vec<x86_64::structures::paging::PhysFrame> {
    let mut taken = Vec::new();
    while let Ok(frame) = service.frames().alloc(pin, &FrameRequest::frame()) {
        taken.push(frame);
    }
    give_back(service, pin, taken.split_off(taken.len().saturating_sub(left)));
    taken
}

fn give_back(service: &'static SimService, pin: &CpuPin, frames: Vec<x86_64::structures::paging::PhysFrame>) {
    // SAFETY: allocated as single frames, and mapped nowhere.
    frames.into_iter().for_each(|frame| unsafe { service.frames().free(pin, frame, Order::FRAME) }.unwrap());
}

#[test]
fn ranges_are_mapped_between_guards_and_do_not_overlap() {
    let (sim, service, ranges) = booted(1);
    sim.on(CpuId::BOOT, |pin| {
        let lengths = [1, 2, 3, 4, 16, 100, 511, 512, 513, 1000, 1024, 1500, 1, 7];
        let all: Vec<Range> =
            lengths.iter().map(|&pages| ranges.allocate(pin, &RangeRequest::pages(pages)).unwrap()).collect();
        for (range, &pages) in all.iter().zip(&lengths) {
            assert_eq!(range.pages(), pages);
            check_guards(sim, range);
            number_pages(sim, range.start(), 0..pages);
        }
        ranges.validate(pin).unwrap();
        assert_eq!((ranges.stats().live, ranges.stats().live_pages), (14, lengths.iter().sum()));
        for (range, &pages) in all.iter().zip(&lengths) {
            check_pages(sim, range.start(), 0..pages);
            assert_eq!(ranges.pages_at(pin, range.start()), Some(pages));
            assert_eq!(ranges.pages_at(pin, page(range.start(), 1)), None);
        }
        // Ranges of 2 MiB and more are mapped by such pages.
        let kernel = service.kernel_space().unwrap();
        assert_eq!(kernel.translate(pin, all[7].start()).unwrap().size, PageSize::Size2MiB);
        assert_eq!(kernel.translate(pin, all[6].start()).unwrap().size, PageSize::Size4KiB);
    });
}

#[test]
fn all_that_a_range_had_comes_back() {
    let (sim, service, ranges) = booted(2);
    let round = || {
        sim.run(|pin| {
            let pages = [3, 600, 2048].map(RangeRequest::pages);
            drop(pages.map(|request| ranges.allocate(pin, &request).unwrap()));
        });
        settle(sim, ranges);
    };
    // The first makes the tables of the addresses.
    round();
    let before = (allocated(service), ranges.stats());
    round();
    assert_eq!((allocated(service), ranges.stats()), before);
    assert_eq!(before.1.vacant_pages, Some(256 * 256 - 1));
    sim.on(CpuId::BOOT, |pin| ranges.validate(pin).unwrap());
}

#[test]
fn a_freed_range_is_unmapped_by_a_flush_and_not_before() {
    let (sim, _, ranges) = booted(1);
    sim.on(CpuId::BOOT, |pin| {
        let range = ranges.allocate(pin, &RangeRequest::pages(20)).unwrap();
        let start = range.start();
        drop(range);
        assert!(sim.load(start).is_ok());
        assert_eq!(ranges.stats().freed_pages, 20);
        assert_eq!(ranges.pages_at(pin, start), None);
        assert!(ranges.flush(pin).frames >= 20);
        assert!(sim.load(start).is_err());
        assert_eq!(ranges.stats().freed_pages, 0);
    });
}

#[test]
fn addresses_and_frames_wait_for_every_cpu() {
    let config = RangesConfig::of(addresses(8));
    let (sim, service, ranges) = booted_with(2, 64 * MEGABYTE, &config);
    let start =
        sim.on(CpuId::BOOT, |pin| ranges.allocate(pin, &RangeRequest::pages(900)).unwrap().into_start());
    // The other CPU has the translation, and answers when it runs next.
    let other = CpuId::new(1).unwrap();
    sim.on(other, |_| sim.store(start, 5).unwrap());
    sim.on(CpuId::BOOT, |pin| {
        let frames = allocated(service);
        // SAFETY: the range is the test's.
        unsafe { ranges.free_at(pin, start) }.unwrap();
        assert!(ranges.flush(pin).waiting);
        assert_eq!(allocated(service), frames);
        let short = ranges.allocate(pin, &RangeRequest::pages(900)).unwrap_err();
        assert_eq!(short, RangeError::OutOfAddresses { pages: 900 });
        ranges.validate(pin).unwrap();
    });
    sim.on(other, |_| {
        sim.take_interrupts();
        assert!(sim.load(start).is_err());
    });
    sim.on(CpuId::BOOT, |pin| {
        // The request flushes by itself.
        let again = ranges.allocate(pin, &RangeRequest::pages(900)).unwrap();
        assert_eq!(again.start(), start);
        number_pages(sim, start, 0..900);
    });
    sim.on(other, |_| check_pages(sim, start, 0..900));
}

#[test]
#[cfg(feature = "fault-injection")]
fn addresses_that_are_reused_too_early_show_old_pages() {
    let config = RangesConfig::of(addresses(8));
    let (sim, service, ranges) = booted_with(2, 64 * MEGABYTE, &config);
    service.inject(Some(topomem::Fault::RangesReusedEarly));
    let start = sim.on(CpuId::BOOT, |pin| {
        let start = ranges.allocate(pin, &RangeRequest::pages(900)).unwrap().into_start();
        sim.store(start, 5).unwrap();
        start
    });
    let other = CpuId::new(1).unwrap();
    sim.on(other, |_| assert_eq!(sim.load(start), Ok(5)));
    sim.on(CpuId::BOOT, |pin| {
        // SAFETY: the range is the test's.
        unsafe { ranges.free_at(pin, start) }.unwrap();
        assert!(ranges.flush(pin).waiting);
        let again = ranges.allocate(pin, &RangeRequest::pages(900)).unwrap();
        assert_eq!(again.start(), start);
        sim.store(start, 6).unwrap();
        again.into_start()
    });
    sim.on(other, |_| {
        sim.mask_interrupts();
        assert_eq!(sim.load(start), Ok(5), "the page of the range before");
        sim.unmask_interrupts();
        assert_eq!(sim.load(start), Ok(6));
    });
}

#[test]
fn second_frees_and_wild_addresses_are_refused() {
    let (sim, _, ranges) = booted(1);
    sim.on(CpuId::BOOT, |pin| {
        let start = ranges.allocate(pin, &RangeRequest::pages(600)).unwrap().into_start();
        // SAFETY: what is no range is refused; then the test frees its range.
        let free = |address: VirtAddr| unsafe { ranges.free_at(pin, address) };
        for wild in [page(start, 1), at(start, 8), at(start, -4096), page(start, 600), Sim::WINDOW] {
            assert_eq!(free(wild), Err(RangeError::NotARange { address: wild }));
        }
        assert_eq!(free(start), Ok(()));
        assert_eq!(free(start), Err(RangeError::NotARange { address: start }));
        ranges.flush(pin);
        assert_eq!(free(start), Err(RangeError::NotARange { address: start }));
        ranges.validate(pin).unwrap();
    });
}

#[test]
fn given_frames_stay_the_callers() {
    let (sim, service, ranges) = booted(1);
    sim.on(CpuId::BOOT, |pin| {
        let frames: Vec<_> =
            (0..5).map(|_| service.alloc(pin, &FrameRequest::frame()).unwrap()).rev().collect();
        // SAFETY: the frames are the test's.
        let range = unsafe { ranges.map_frames(pin, &frames, Protection::KERNEL_DATA) }.unwrap();
        check_guards(sim, &range);
        number_pages(sim, range.start(), 0..5);
        let kernel = service.kernel_space().unwrap();
        for (index, frame) in frames.iter().enumerate() {
            let found = kernel.translate(pin, page(range.start(), index as u64)).unwrap();
            assert_eq!(found.leaf.frame, *frame);
        }
        ranges.validate(pin).unwrap();
        drop(range);
        ranges.flush(pin);
        ranges.validate(pin).unwrap();
        give_back(service, pin, frames);
        let user = Protection::USER_DATA;
        // SAFETY: no frame is named.
        let refused = unsafe { ranges.map_frames(pin, &[], user) }.unwrap_err();
        assert_eq!(refused, RangeError::Length { pages: 0 });
    });
}

#[test]
fn each_step_that_finds_no_memory_changes_nothing() {
    let (sim, service, ranges) = booted(1);
    sim.on(CpuId::BOOT, |pin| {
        for pages in [40, 700] {
            let request = RangeRequest::pages(pages);
            let mut left = 0;
            loop {
                let taken = leave_frames(service, pin, left);
                let (before, stats) = (allocated(service), ranges.stats());
                let outcome = ranges.allocate(pin, &request);
                ranges.validate(pin).unwrap();
                match outcome {
                    Ok(range) => {
                        check_guards(sim, &range);
                        drop(range);
                        ranges.flush(pin);
                        give_back(service, pin, taken);
                        break;
                    }
                    Err(error) => {
                        assert!(matches!(error, RangeError::OutOfFrames(_)), "{error}");
                        assert_eq!((allocated(service), ranges.stats()), (before, stats), "{left}");
                    }
                }
                give_back(service, pin, taken);
                left += if left < pages as usize - 4 { 37 } else { 1 };
                assert!(left < 2 * pages as usize);
            }
            assert!(left as u64 >= pages);
        }
    });
}

#[test]
fn a_range_finds_the_frames_of_freed_ones() {
    let (sim, service, ranges) = booted(1);
    sim.on(CpuId::BOOT, |pin| {
        let range = ranges.allocate(pin, &RangeRequest::pages(3000)).unwrap();
        let taken = leave_frames(service, pin, 100);
        drop(range);
        // Neither these nor any other frames are free: they wait for a flush, which the request makes.
        let range = ranges.allocate(pin, &RangeRequest::pages(2900)).unwrap();
        check_guards(sim, &range);
        ranges.validate(pin).unwrap();
        drop(range);
        assert!(service.alloc(pin, &FrameRequest::order(Order::HUGE)).is_ok() || !taken.is_empty());
        give_back(service, pin, taken);
    });
}

#[test]
fn zeroed_ranges_are_zero() {
    let (sim, _, ranges) = booted(1);
    sim.on(CpuId::BOOT, |pin| {
        for _ in 0..2 {
            let range = ranges.allocate(pin, &RangeRequest::pages(800).zeroed()).unwrap();
            for index in 0..800 {
                assert_eq!(sim.load(at(page(range.start(), index), 8)), Ok(0));
            }
            number_pages(sim, range.start(), 0..800);
            drop(range);
            ranges.flush(pin);
        }
    });
}

#[test]
fn ranges_become_longer_and_shorter_where_they_are() {
    let (sim, service, ranges) = booted(1);
    sim.on(CpuId::BOOT, |pin| {
        let mut range = ranges.allocate(pin, &RangeRequest::pages(1024)).unwrap();
        let start = range.start();
        number_pages(sim, start, 0..1024);
        let mut known = 1024;
        for new in [1025, 1536, 4000, 1500, 600, 100, 101, 5000, 5000, 3] {
            // SAFETY: the test uses no more than the new length.
            unsafe { range.resize(pin, &RangeRequest::pages(new)) }.unwrap();
            assert_eq!((range.start(), range.pages()), (start, new));
            assert_eq!(ranges.stats().live_pages, new);
            ranges.validate(pin).unwrap();
            known = known.min(new);
            check_pages(sim, start, 0..known);
            number_pages(sim, start, 0..new);
            known = new;
            ranges.flush(pin);
            ranges.validate(pin).unwrap();
            assert!(sim.load(at(start, -8)).is_err());
        }
        let held = allocated(service);
        drop(range);
        ranges.flush(pin);
        // No more than its 2 MiB was left mapped.
        assert!(held - allocated(service) >= 3 && held - allocated(service) <= 520);
    });
}

#[test]
fn a_range_that_finds_no_room_moves_with_its_frames() {
    let (sim, service, ranges) = booted(2);
    let other = CpuId::new(1).unwrap();
    let (mut range, neighbour) = sim.on(CpuId::BOOT, |pin| {
        let [range, neighbour] =
            [1024, 512].map(|pages| ranges.allocate(pin, &RangeRequest::pages(pages)).unwrap());
        number_pages(sim, range.start(), 0..1024);
        (range, neighbour)
    });
    let old = range.start();
    let frame =
        |pin: &CpuPin, at: VirtAddr| service.kernel_space().unwrap().translate(pin, at).unwrap().leaf.frame;
    sim.on(other, |_| check_pages(sim, old, 0..1024));
    let range = sim.on(CpuId::BOOT, move |pin| {
        let first = frame(pin, old);
        // SAFETY: nothing uses the old addresses afterwards.
        unsafe { range.resize(pin, &RangeRequest::pages(2048)) }.unwrap();
        assert_ne!(range.start(), old);
        assert_eq!(frame(pin, range.start()), first);
        assert_eq!(ranges.pages_at(pin, range.start()), Some(2048));
        assert_eq!(ranges.pages_at(pin, old), None);
        ranges.validate(pin).unwrap();
        check_guards(sim, &range);
        check_pages(sim, range.start(), 0..1024);
        range
    });
    sim.on(other, |_| check_pages(sim, range.start(), 0..1024));
    drop((range, neighbour));
    settle(sim, ranges);
    sim.on(CpuId::BOOT, |pin| {
        assert!(sim.load(old).is_err());
        ranges.validate(pin).unwrap();
    });
    assert_eq!(ranges.stats().vacant_pages, Some(256 * 256 - 1));
}

#[test]
fn a_move_that_finds_no_memory_changes_nothing() {
    let (sim, service, ranges) = booted(1);
    sim.on(CpuId::BOOT, |pin| {
        let mut left = 0;
        loop {
            // Of small pages: their move needs tables.
            let mut range = ranges.allocate(pin, &RangeRequest::pages(400)).unwrap();
            number_pages(sim, range.start(), 0..400);
            let taken = leave_frames(service, pin, left);
            let (before, live, start) = (allocated(service), ranges.stats().live_pages, range.start());
            // SAFETY: the test uses the range where it is.
            let outcome = unsafe { range.resize(pin, &RangeRequest::pages(450)) };
            ranges.validate(pin).unwrap();
            check_pages(sim, range.start(), 0..400);
            if outcome.is_err() {
                ranges.flush(pin);
                assert_eq!((allocated(service), ranges.stats().live_pages), (before, live));
                assert_eq!((range.start(), range.pages()), (start, 400));
            }
            give_back(service, pin, taken);
            drop(range);
            ranges.flush(pin);
            ranges.validate(pin).unwrap();
            match outcome {
                Ok(()) => break,
                Err(error) => assert!(matches!(error, RangeError::OutOfFrames(_)), "{error}"),
            }
            left += if left < 45 { 9 } else { 1 };
            assert!(left < 100);
        }
        assert!(left >= 50);
    });
}

#[test]
fn impossible_ranges_and_places_are_refused() {
    let (sim, service, ranges) = booted(1);
    sim.on(CpuId::BOOT, |pin| {
        for pages in [0, 256 * 256, u64::MAX] {
            assert_eq!(
                ranges.allocate(pin, &RangeRequest::pages(pages)).unwrap_err(),
                RangeError::Length { pages }
            );
        }
        let user = RangeRequest::pages(3).protection(Protection::USER_DATA);
        assert!(matches!(ranges.allocate(pin, &user), Err(RangeError::Map(_))));
        let again = service.add_kernel_ranges(pin, &RangesConfig::of(addresses(256)));
        assert_eq!(again.unwrap_err(), RangesError::AlreadyThere);
        let start = page(Sim::WINDOW, 1);
        let odd = PageRange::new(start, 2048, PageSize::Size4KiB).unwrap();
        assert_eq!(
            service.add_kernel_ranges(pin, &RangesConfig::of(odd)).unwrap_err(),
            RangesError::Addresses(odd)
        );
        ranges.validate(pin).unwrap();
    });
}

#[test]
fn cpus_allocate_and_free_at_the_same_time() {
    let (sim, service, ranges) = booted(4);
    let mut passes = Vec::new();
    for _ in 0..2 {
        sim.run(|pin| {
            let mut held = Vec::new();
            let mut seed = pin.cpu().index() as u64 + 1;
            for step in 0..400u64 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let pages = 1 + (seed >> 33) % if step % 8 == 0 { 600 } else { 20 };
                match ranges.allocate(pin, &RangeRequest::pages(pages)) {
                    Ok(range) => {
                        let tag = seed;
                        for index in [0, pages - 1] {
                            sim.store(page(range.start(), index), tag).unwrap();
                        }
                        held.push((range, tag));
                    }
                    // Memory may be short for a moment: what is freed waits for other CPUs.
                    Err(RangeError::Busy | RangeError::OutOfFrames(_)) => {}
                    Err(error) => panic!("{error}"),
                }
                if held.len() > 6 {
                    let (range, tag) = held.swap_remove((seed >> 40) as usize % held.len());
                    for index in [0, range.pages() - 1] {
                        assert_eq!(sim.load(page(range.start(), index)), Ok(tag));
                    }
                }
                if step % 50 == 0 {
                    service.tend(pin);
                }
            }
        });
        settle(sim, ranges);
        sim.on(CpuId::BOOT, |pin| ranges.validate(pin).unwrap());
        passes.push(ranges.stats());
    }
    assert_eq!(passes[0].vacant_pages, Some(256 * 256 - 1));
    assert_eq!(passes[0], passes[1]);
}

#[test]
fn the_service_flushes_what_many_frees_left() {
    let (sim, service, ranges) = booted(1);
    sim.on(CpuId::BOOT, |pin| {
        drop(ranges.allocate(pin, &RangeRequest::pages(10)).unwrap());
        service.tend(pin);
        assert_eq!(ranges.stats().freed_pages, 10, "few pages wait");
        drop(ranges.allocate(pin, &RangeRequest::pages(1000)).unwrap());
        service.tend(pin);
        assert_eq!(ranges.stats().freed_pages, 0);
    });
}

fn layout(size: u64) -> Layout {
    Layout::from_size_align(size as usize, 8).unwrap()
}

fn address(memory: NonNull<u8>) -> VirtAddr {
    VirtAddr::new_truncate(memory.addr().get() as u64)
}

#[test]
fn large_objects_of_the_heap_are_ranges() {
    let (sim, service, ranges) = booted(1);
    sim.on(CpuId::BOOT, |pin| {
        let heap = service.heap().unwrap().heap();
        let (run, large) = (layout(2 * MEGABYTE), layout(5 * MEGABYTE - 3));
        let memory = heap.alloc(run).unwrap();
        assert!(!ranges.contains(address(memory)));
        // SAFETY: allocated with that layout, and not used any more.
        unsafe { heap.dealloc(memory, run) }.unwrap();
        let stats = heap.large_stats();
        let memory = heap.alloc_zeroed(large).unwrap();
        assert!(ranges.contains(address(memory)));
        (0..1280).for_each(|index| assert_eq!(sim.load(page(address(memory), index)), Ok(0)));
        assert_eq!(heap.usable_size(memory), Some(5 << 20));
        assert_eq!(heap.large_stats().live, stats.live + 1);
        let wrong = InvalidFree::WrongRange { address: memory.addr().get(), size: 6 << 20, pages: 1280 };
        // SAFETY: wrong frees are refused; the last one is right.
        unsafe {
            assert_eq!(heap.dealloc(memory, layout(6 * MEGABYTE)), Err(wrong));
            assert!(heap.dealloc(memory.add(4096), large).is_err());
            heap.dealloc(memory, large).unwrap();
            assert!(heap.dealloc(memory, large).is_err());
        }
        let memory = heap.alloc(large).unwrap();
        // SAFETY: allocated above.
        unsafe {
            heap.dealloc_by_address(memory).unwrap();
            assert!(heap.dealloc_by_address(memory).is_err());
        }
        assert_eq!(heap.large_stats().live, stats.live);
        heap.validate().unwrap();
        ranges.validate(pin).unwrap();
        let node = NodeId::ZERO;
        let memory = heap.alloc_on(node, large).unwrap();
        assert!(ranges.contains(address(memory)));
        // SAFETY: allocated with that layout.
        unsafe { heap.dealloc(memory, large) }.unwrap();
    });
}

#[test]
fn objects_of_more_than_a_gigabyte_are_ranges() {
    // The pages are scarce; what is said of the size is the matter.
    let (sim, service, ranges) = booted_with(1, 64 * MEGABYTE, &RangesConfig::of(addresses(8192)));
    sim.on(CpuId::BOOT, |pin| {
        let heap = service.heap().unwrap().heap();
        let before = allocated(service);
        assert_eq!(heap.alloc(layout(1 << 31)), Err(AllocError::OutOfMemory));
        assert!(matches!(heap.alloc(layout(1 << 40)), Err(AllocError::OutOfMemory)));
        ranges.flush(pin);
        ranges.validate(pin).unwrap();
        assert!(allocated(service) <= before + 8);
        heap.validate().unwrap();
    });
    let sim = Sim::builder().nodes(1).cpus(1).memory(64 * MEGABYTE).build().unwrap();
    let service = sim.boot_service().unwrap();
    sim.on(CpuId::BOOT, |_| {
        let heap = service.heap().unwrap().heap();
        let error = heap.alloc(layout(1 << 31)).unwrap_err();
        assert!(matches!(error, AllocError::TooLarge { .. }), "without ranges: {error}");
    });
}

#[test]
fn an_object_is_a_range_if_no_run_is_long_enough() {
    let (sim, service, ranges) = booted_with(1, 64 * MEGABYTE, &RangesConfig::of(addresses(256)));
    sim.on(CpuId::BOOT, |pin| {
        let heap = service.heap().unwrap().heap();
        let wanted = layout(MEGABYTE);
        let whole = heap.alloc(wanted).unwrap();
        assert!(!ranges.contains(address(whole)));
        // Every second frame is free.
        let mut taken = leave_frames(service, pin, 0);
        taken.sort_by_key(|frame| frame.start_address());
        let (mut kept, mut freed) = (Vec::new(), Vec::new());
        taken
            .into_iter()
            .enumerate()
            .for_each(|(index, frame)| if index % 2 == 0 { kept.push(frame) } else { freed.push(frame) });
        give_back(service, pin, freed);
        let memory = heap.alloc(wanted).unwrap();
        assert!(ranges.contains(address(memory)));
        number_pages(sim, address(memory), 0..256);
        check_pages(sim, address(memory), 0..256);
        // SAFETY: both allocated with that layout, and not used any more.
        unsafe {
            heap.dealloc(memory, wanted).unwrap();
            heap.dealloc(whole, wanted).unwrap();
        }
        ranges.validate(pin).unwrap();
        heap.validate().unwrap();
        give_back(service, pin, kept);
    });
}

#[test]
fn realloc_of_a_range_copies_nothing() {
    let (sim, service, ranges) = booted(1);
    sim.on(CpuId::BOOT, |pin| {
        let heap = service.heap().unwrap().heap();
        let [small, large] = [4 * MEGABYTE, 8 * MEGABYTE].map(layout);
        let memory = heap.alloc(small).unwrap();
        let neighbour = heap.alloc(small).unwrap();
        number_pages(sim, address(memory), 0..1024);
        let bytes = heap.large_stats().bytes;
        // A copy would be an access that the host cannot make: these addresses are the machine's.
        // SAFETY: the layouts are those that the objects have.
        unsafe {
            let moved = heap.realloc(memory, small, large.size()).unwrap();
            assert_ne!(moved, memory);
            check_pages(sim, address(moved), 0..1024);
            assert_eq!(heap.large_stats().bytes, bytes + 4 * MEGABYTE);
            let same = heap.realloc(moved, large, large.size() - 5000).unwrap();
            assert_eq!(same, moved);
            let same = heap.realloc(moved, layout(8 * MEGABYTE - 5000), small.size()).unwrap();
            assert_eq!(same, moved);
            check_pages(sim, address(moved), 0..1024);
            heap.dealloc(moved, small).unwrap();
            heap.dealloc(neighbour, small).unwrap();
        }
        ranges.flush(pin);
        ranges.validate(pin).unwrap();
        heap.validate().unwrap();
        assert_eq!((ranges.stats().live, ranges.stats().freed_pages), (0, 0));
    });
}
