//! Sharing that is refused, or for which there is no memory: nothing changes.

use topomem::address_space::{MapError, PromoteError, ShareError};
use topomem::region::{Advice, FaultAccess, PageFault};
use topomem::sim::Sim;
use topomem::{CpuId, CpuPin, PageRange, PageSize, Protection, UnmapError, VirtAddr};

use super::{
    BASE, Space, allocated, booted, frame, give_back, huge, map, pages, region, share, take_all_but, unmap,
    with_two, write_protect,
};

#[test]
fn refused_sharing_changes_nothing() {
    let (sim, service) = booted(1);
    sim.on(CpuId::BOOT, |pin| {
        let (first, second) = (service.create_space(pin).unwrap(), service.create_space(pin).unwrap());
        let data = Protection::USER_DATA;
        map(&first, pin, pages(0, 2));
        map(&first, pin, huge(4, 1));
        map(&second, pin, pages(1, 1));
        map(&second, pin, pages(512 * 9, 1));
        let borrowed = frame(&first, pin, pages(0, 1));
        // SAFETY: nobody uses the page.
        unsafe { first.map_borrowed(pin, pages(20, 1), borrowed, data) }.unwrap();
        let state = || {
            let of = |page| first.translate(pin, pages(page, 1).start());
            (allocated(service), [0, 1, 20, 512 * 4].map(of), second.mapped_pages())
        };
        let before = state();
        let refused = |from: PageRange, to: PageRange, protection, expected: ShareError| {
            let outcome = first.share(pin, from, &second, to.start(), protection);
            assert_eq!(outcome, Err(expected));
            assert_eq!(state(), before);
        };
        let occupied =
            MapError::AlreadyMapped { page: pages(1, 1).start(), frame: frame(&second, pin, pages(1, 1)) };
        refused(pages(0, 2), pages(0, 1), data, ShareError::Map(occupied));
        let occupied = MapError::AlreadyMapped {
            page: pages(512 * 9, 1).start(),
            frame: frame(&second, pin, pages(512 * 9, 1)),
        };
        refused(huge(4, 1), huge(9, 1), data, ShareError::Map(occupied));
        refused(pages(0, 3), pages(0, 1), data, ShareError::NotMapped(pages(2, 1).start()));
        refused(pages(20, 1), pages(0, 1), data, ShareError::Borrowed(pages(20, 1).start()));
        let large = ShareError::OtherSize { page: pages(512 * 4, 1).start(), size: PageSize::Size2MiB };
        refused(pages(512 * 4, 1), pages(0, 1), data, large);
        let small = ShareError::OtherSize { page: huge(0, 1).start(), size: PageSize::Size4KiB };
        refused(huge(0, 1), huge(7, 1), data, small);
        let kernel = Protection::KERNEL_DATA;
        refused(pages(0, 1), pages(0, 1), kernel, ShareError::Map(MapError::WrongPrivilege));
        let window = PageRange::page(Sim::WINDOW, PageSize::Size4KiB);
        refused(window, pages(0, 1), data, ShareError::OutsideSpace(window));
        refused(pages(0, 1), window, data, ShareError::Map(MapError::OutsideSpace(window)));
        let giant = PageRange::page(VirtAddr::new(BASE).unwrap(), PageSize::Size1GiB);
        refused(giant, giant, data, ShareError::TooLarge(giant));
        assert!(matches!(
            first.share(pin, huge(4, 1), &second, pages(1, 1).start(), data),
            Err(ShareError::Target(_))
        ));
        assert_eq!(state(), before);

        // Neither is a sharing space promoted.
        share(&first, pin, pages(0, 1), &second);
        map(&first, pin, pages(2, 18));
        map(&first, pin, pages(21, 512 - 21));
        let refused = first.promote(pin, huge(0, 1));
        assert_eq!(refused.err(), Some(PromoteError::Shared(pages(0, 1).start())));
    });
}

#[test]
fn a_full_count_is_refused_and_can_be_dropped() {
    with_two(|_, service, pin, first, second| {
        map(first, pin, huge(0, 1));
        let at = |copy: u64| huge(copy, 1).start();
        for copy in 1..2048 {
            first.share(pin, huge(0, 1), second, at(copy), Protection::USER_READ_ONLY).unwrap();
        }
        let before = allocated(service);
        let full = first.share(pin, huge(0, 1), second, at(5000), Protection::USER_READ_ONLY);
        assert_eq!(full, Err(ShareError::Full(at(0))));
        assert_eq!(allocated(service), before);
        unmap(second, pin, huge(1, 1));
        first.share(pin, huge(0, 1), second, at(5000), Protection::USER_READ_ONLY).unwrap();
    });
}

/// With 0, 1, 2, ... frames left, until it goes through.
#[test]
fn out_of_memory_changes_nothing() {
    let operations: [fn(&Space, &Space, &CpuPin) -> bool; 7] = [
        |first, _, pin| {
            let fault = PageFault::new(pages(6001, 1).start(), FaultAccess::Write);
            first.on_page_fault(pin, fault).is_ok()
        },
        |first, _, pin| {
            let advised = first.madvise(pin, pages(6000, 1).start(), 3 * 4096, Advice::DontNeed);
            advised.map(|unmapping| unmapping.wait(pin)).is_ok()
        },
        |first, _, pin| {
            let unmapped = first.munmap(pin, pages(6000, 1).start(), 2 * 4096);
            unmapped.map(|unmapping| unmapping.wait(pin)).is_ok()
        },
        |first, other, pin| {
            let shared =
                first.share(pin, pages(0, 1100), other, pages(4000, 1).start(), Protection::USER_DATA);
            assert!(shared.is_ok() || matches!(shared, Err(ShareError::Map(MapError::OutOfFrames(_)))));
            shared.is_ok()
        },
        |first, _, pin| {
            let unmapped = first.unmap(pin, pages(0, 1100));
            assert!(!matches!(unmapped, Err(UnmapError::OutsideSpace(_))));
            unmapped.map(|unmapping| unmapping.wait(pin)).is_ok()
        },
        |_, other, pin| {
            let unmapped = other.unmap(pin, pages(512 * 6 + 100, 50));
            unmapped.map(|unmapping| unmapping.wait(pin)).is_ok()
        },
        |_, other, pin| {
            let mut batch = other.batch(pin);
            let all = batch.unmap(pages(5, 1)).is_ok() && batch.unmap(pages(1500, 1)).is_ok();
            drop(batch);
            all
        },
    ];
    for operation in operations {
        let mut failures = 0;
        for left in 0.. {
            let (sim, service) = booted(1);
            let done = sim.on(CpuId::BOOT, |pin| {
                let start = allocated(service);
                let (first, other) = (service.create_space(pin).unwrap(), service.create_space(pin).unwrap());
                map(&first, pin, pages(0, 1100));
                map(&first, pin, huge(6, 1));
                share(&first, pin, pages(0, 1100), &other);
                other
                    .share(pin, pages(0, 100), &other, pages(1500, 1).start(), Protection::USER_DATA)
                    .unwrap();
                share(&first, pin, huge(6, 1), &other);
                region(&first, pin, pages(6000, 4));
                share(&first, pin, pages(6000, 4), &other);
                write_protect(&first, pin, pages(6000, 4));
                let state = || {
                    let probe = [0, 1, 99, 1000, 1099, 1500, 4000, 512 * 6 + 100, 6000, 6001];
                    let of = |space: &Space| probe.map(|page| space.translate(pin, pages(page, 1).start()));
                    (of(&first), of(&other))
                };
                let taken = take_all_but(service, pin, left);
                let (before, had) = (state(), allocated(service));
                let done = operation(&first, &other, pin);
                if !done && state().1[5].is_some() {
                    assert_eq!((state(), allocated(service)), (before, had), "with {left} frames");
                }
                give_back(service, pin, taken);
                drop((first, other));
                service.run_pending_work(pin);
                assert_eq!(allocated(service), start, "frames leaked, with {left} frames");
                done
            });
            if done {
                break;
            }
            failures += 1;
        }
        assert!(failures > 0, "it allocates nothing, so this tests nothing");
    }
}
