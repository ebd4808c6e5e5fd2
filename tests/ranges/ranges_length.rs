//! Ranges of kernel addresses that become longer or shorter, where they are or elsewhere.
// Whole machines take Miri too long.
#![cfg(not(miri))]
#![allow(clippy::unwrap_used, missing_docs)]

mod range_support;

use range_support::{
    allocated, at, booted, check_guards, check_pages, give_back, leave_frames, number_pages, settle,
};
use topomem::ranges::{RangeError, RangeRequest};
use topomem::{CpuId, CpuPin, VirtAddr};

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
