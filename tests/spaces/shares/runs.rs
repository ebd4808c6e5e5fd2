//! Runs of frames that several spaces share.

use topomem::page_table::Ownership;
use topomem::{FrameRequest, Order, PageSize, PhysFrame, Protection};

use super::{
    HUGE, activate, allocated, frame, give_back, huge, is_told_sole, map, ownership, pages, share, unmap,
    with_two,
};

#[test]
fn a_run_of_two_spaces_is_free_with_its_last_part() {
    with_two(|sim, service, pin, first, second| {
        map(first, pin, huge(0, 1));
        share(first, pin, huge(0, 1), second);
        assert_eq!(frame(first, pin, huge(0, 1)), frame(second, pin, huge(0, 1)));
        let mapped = allocated(service);
        // One space cuts its leaf; the other keeps its own.
        unmap(second, pin, pages(0, 500));
        assert_eq!(second.translate(pin, pages(500, 1).start()).unwrap().size, PageSize::Size4KiB);
        assert_eq!(ownership(second, pin, pages(500, 1)), Ownership::Shared);
        assert_eq!(ownership(first, pin, huge(0, 1)), Ownership::Shared);
        assert!(!is_told_sole(first, pin, huge(0, 1)));
        // A part is shared further.
        second.share(pin, pages(511, 1), first, pages(600, 1).start(), Protection::USER_DATA).unwrap();
        activate(first, pin);
        sim.store(pages(511, 1).start(), 511).unwrap();
        assert_eq!(sim.load(pages(600, 1).start()), Ok(511));
        unmap(first, pin, huge(0, 1));
        unmap(second, pin, pages(500, 12));
        assert_eq!(sim.load(pages(600, 1).start()), Ok(511));
        assert_eq!(allocated(service), mapped + 2, "the run is whole, and two tables more");
        assert!(!is_told_sole(first, pin, pages(600, 1)), "a part of a shared run is copied");
        unmap(first, pin, pages(600, 1));
        assert_eq!(allocated(service), mapped + 2 - 512);
    });
}

#[test]
fn the_sole_holder_of_a_run_has_it_as_before() {
    with_two(|_, service, pin, first, second| {
        map(first, pin, huge(0, 1));
        let mapped = allocated(service);
        share(first, pin, huge(0, 1), second);
        unmap(second, pin, pages(3, 1));
        drop(second.unmap(pin, huge(0, 1)).unwrap());
        service.run_pending_work(pin);
        assert!(is_told_sole(first, pin, huge(0, 1)));
        // It is cut while it is owned: its parts are freed apart, and can be shared apart.
        unmap(first, pin, pages(7, 1));
        assert_eq!(ownership(first, pin, pages(8, 1)), Ownership::Owned);
        share(first, pin, pages(8, 2), second);
        unmap(first, pin, pages(0, 512));
        let held = allocated(service);
        assert!(is_told_sole(second, pin, pages(8, 1)), "a part that was shared by itself");
        unmap(second, pin, pages(8, 1));
        assert_eq!(allocated(service), held);
        unmap(second, pin, pages(9, 1));
        assert_eq!(allocated(service), held - 512);
        assert!(held >= mapped);
    });
}

/// Frames that were allocated one by one, promoted, shared, and cut again.
#[test]
fn promoted_frames_are_shared_as_a_run_and_freed_as_frames() {
    for share_it_back in [false, true] {
        with_two(|_, service, pin, first, second| {
            // A run that was cut, and a run of frames that were allocated one by one.
            map(first, pin, huge(0, 1));
            unmap(first, pin, pages(512, 1));
            first.protect(pin, pages(5, 1), Protection::USER_READ_ONLY).unwrap().wait(pin);
            first.protect(pin, pages(5, 1), Protection::USER_DATA).unwrap().wait(pin);
            let run = service.alloc(pin, &FrameRequest::order(Order::HUGE)).unwrap();
            // SAFETY: it was just allocated.
            unsafe { service.frames().free(pin, run, Order::HUGE) }.unwrap();
            let singles: Vec<PhysFrame> =
                std::iter::from_fn(|| service.frames().alloc(pin, &FrameRequest::frame()).ok()).collect();
            let start = singles
                .iter()
                .copied()
                .find(|frame| {
                    frame.start_address().as_u64() % HUGE == 0
                        && (0..512).all(|at| singles.contains(&(*frame + at)))
                })
                .unwrap();
            let (mine, others) = singles.into_iter().partition(|f| (start..start + 512).contains(f));
            give_back(service, pin, others);
            let mut mine: Vec<PhysFrame> = mine;
            mine.sort();
            for (page, frame) in (512..).zip(mine) {
                let (page, size) = (pages(page, 1).start(), PageSize::Size4KiB);
                // SAFETY: it was just allocated, as a frame.
                unsafe { first.map_owned(pin, page, size, frame, Protection::USER_DATA) }.unwrap();
            }
            let mapped = allocated(service);
            first.promote(pin, huge(0, 2)).unwrap().wait(pin);
            share(first, pin, huge(0, 2), second);
            unmap(second, pin, pages(100, 1));
            unmap(second, pin, pages(512 + 100, 1));
            if share_it_back {
                // The second space lets go, the first cuts what it has alone again.
                unmap(second, pin, huge(0, 2));
                assert!(is_told_sole(first, pin, huge(0, 1)));
                assert!(is_told_sole(first, pin, huge(1, 1)));
                unmap(first, pin, pages(3, 1));
                unmap(first, pin, pages(512 + 3, 1));
                share(first, pin, pages(512 + 4, 1), second);
                assert!(!is_told_sole(first, pin, pages(512 + 4, 1)));
            }
            unmap(first, pin, huge(0, 2));
            unmap(second, pin, huge(0, 2));
            assert!(allocated(service) <= mapped + 3 - 1024);
        });
    }
}
