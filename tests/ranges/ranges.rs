//! Ranges of kernel addresses: guards, lazy unmapping, and what happens without memory, addresses or an answer of
//! other CPUs.
// Whole machines take Miri too long.
#![cfg(not(miri))]
#![allow(clippy::unwrap_used, missing_docs)]

mod range_support;

use range_support::{
    MEGABYTE, Range, addresses, allocated, at, booted, booted_with, check_guards, check_pages, give_back,
    leave_frames, number_pages, page, settle,
};
use topomem::ranges::{RangeError, RangeRequest, RangesConfig, RangesError};
use topomem::sim::Sim;
use topomem::{CpuId, FrameRequest, Order, PageRange, PageSize, Protection, VirtAddr};

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
    // The first makes the tables of the addresses. How far the CPUs' ranges reach depends on who comes first, so a
    // later one may need a table more, which stays; but a frame that gets lost gets lost in every round.
    round();
    let mut before = (allocated(service), ranges.stats());
    let is_alike = (0..20).any(|_| {
        round();
        let last = std::mem::replace(&mut before, (allocated(service), ranges.stats()));
        last == before
    });
    assert!(is_alike, "each round keeps something: {before:?}");
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
fn an_allocation_finds_the_addresses_of_freed_ranges() {
    let (sim, _, ranges) = booted_with(1, 64 * MEGABYTE, &RangesConfig::of(addresses(4)));
    sim.on(CpuId::BOOT, |pin| {
        let allocate = || ranges.allocate(pin, &RangeRequest::pages(3));
        let mut all: Vec<Range> = std::iter::from_fn(|| allocate().ok()).collect();
        assert_eq!(ranges.stats().vacant_pages, Some(3), "no further range has room");
        for index in [5, 100] {
            drop(all.swap_remove(index));
            all.push(allocate().unwrap());
        }
        drop(all);
        ranges.validate(pin).unwrap();
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
                    service.run_pending_work(pin);
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
        service.run_pending_work(pin);
        assert_eq!(ranges.stats().freed_pages, 10, "few pages wait");
        drop(ranges.allocate(pin, &RangeRequest::pages(1000)).unwrap());
        service.run_pending_work(pin);
        assert_eq!(ranges.stats().freed_pages, 0);
    });
}

/// Counts calls.
#[derive(Default)]
struct Calls(std::sync::atomic::AtomicUsize);

impl std::task::Wake for Calls {
    fn wake(self: std::sync::Arc<Self>) {
        self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
}

#[test]
fn many_freed_pages_wake_the_service_task() {
    let (sim, service, ranges) = booted(1);
    sim.on(CpuId::BOOT, |pin| {
        let calls = std::sync::Arc::new(Calls::default());
        let waker = std::task::Waker::from(calls.clone());
        let mut task = std::pin::pin!(service.task(pin.cpu()));
        let few = ranges.allocate(pin, &RangeRequest::pages(10)).unwrap();
        let many = ranges.allocate(pin, &RangeRequest::pages(1000)).unwrap();
        let mut context = std::task::Context::from_waker(&waker);
        while Future::poll(task.as_mut(), &mut context).is_pending()
            && calls.0.swap(0, std::sync::atomic::Ordering::Relaxed) > 0
        {}
        for (range, woken) in [(few, 0), (many, 1)] {
            drop(range);
            service.wake_due(pin);
            assert_eq!(calls.0.swap(0, std::sync::atomic::Ordering::Relaxed), woken);
        }
    });
}
