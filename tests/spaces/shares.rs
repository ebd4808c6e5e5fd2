//! Frames that several mappings share, on a simulated machine: where they go, and when.
// As in spaces.rs.
#![cfg(not(miri))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use topomem::address_space::{MapError, PromoteError, ShareError};
use topomem::page_table::Ownership;
use topomem::region::{Advice, FaultAccess, MapRequest, PageFault, Placement, Resolved};
use topomem::sim::{Fault, Sim, SimService};
use topomem::{
    Access, AddressSpace, CpuId, CpuPin, FrameRequest, Lazy, Order, PageRange, PageSize, PendingWork,
    PhysFrame, Protection, UnmapError, VirtAddr,
};

const BASE: u64 = 0x10_0000_0000;
const HUGE: u64 = 2 << 20;

type Space = AddressSpace<&'static Sim>;

fn booted(cpus: usize) -> (&'static Sim, &'static SimService) {
    let sim = Sim::builder().cpus(cpus).memory(64 << 20).build().unwrap();
    (sim, sim.boot_service().unwrap())
}

fn second() -> CpuId {
    CpuId::new(1).unwrap()
}

fn pages(first: u64, count: u64) -> PageRange {
    PageRange::new(VirtAddr::new(BASE + first * 4096).unwrap(), count, PageSize::Size4KiB).unwrap()
}

fn huge(first: u64, count: u64) -> PageRange {
    PageRange::new(VirtAddr::new(BASE + first * HUGE).unwrap(), count, PageSize::Size2MiB).unwrap()
}

fn map(space: &Space, pin: &CpuPin, range: PageRange) {
    let order = if range.size() == PageSize::Size4KiB { Order::FRAME } else { Order::HUGE };
    space.map(pin, range, FrameRequest::order(order), Protection::USER_DATA).unwrap();
}

/// Shares `from` with the same addresses of `into`.
fn share(space: &Space, pin: &CpuPin, from: PageRange, into: &Space) {
    space.share(pin, from, into, from.start(), Protection::USER_DATA).unwrap();
}

fn unmap(space: &Space, pin: &CpuPin, range: PageRange) {
    space.unmap(pin, range).unwrap().wait(pin);
}

fn activate(space: &Space, pin: &CpuPin) {
    // SAFETY: the CPU is online, and this is no handler.
    unsafe { space.activate(pin) };
}

/// Frames that somebody has.
fn allocated(service: &SimService) -> u64 {
    service.frames().validate().unwrap().allocated
}

fn frame(space: &Space, pin: &CpuPin, range: PageRange) -> PhysFrame {
    PhysFrame::containing_address(space.translate(pin, range.start()).unwrap().address)
}

fn ownership(space: &Space, pin: &CpuPin, range: PageRange) -> Ownership {
    space.translate(pin, range.start()).unwrap().leaf.ownership
}

/// Is `space` told that it is the sole holder of `page`? A sharing that fails, for its target is mapped,
/// leaves the frame to its sole holder.
fn is_told_sole(space: &Space, pin: &CpuPin, page: PageRange) -> bool {
    let failed = space.share(pin, page, space, page.start(), Protection::USER_DATA);
    assert!(matches!(failed, Err(ShareError::Map(MapError::AlreadyMapped { .. }))), "{failed:?}");
    ownership(space, pin, page) == Ownership::Owned
}

/// Takes all frames that the allocator has, but for `left`.
fn take_all_but(service: &SimService, pin: &CpuPin, left: usize) -> Vec<PhysFrame> {
    let mut taken: Vec<PhysFrame> =
        std::iter::from_fn(|| service.frames().alloc(pin, &FrameRequest::frame()).ok()).collect();
    give_back(service, pin, taken.split_off(taken.len() - left));
    taken
}

fn give_back(service: &SimService, pin: &CpuPin, frames: Vec<PhysFrame>) {
    for frame in frames {
        // SAFETY: `take_all_but` allocated it.
        unsafe { service.frames().free(pin, frame, Order::FRAME) }.unwrap();
    }
}

/// Runs `test` with two spaces on one CPU, and checks the account afterwards.
fn with_two(test: impl Fn(&'static Sim, &'static SimService, &CpuPin, &Space, &Space)) {
    let (sim, service) = booted(1);
    sim.on(CpuId::BOOT, |pin| {
        let before = allocated(service);
        let (first, second) = (service.create_space(pin).unwrap(), service.create_space(pin).unwrap());
        test(sim, service, pin, &first, &second);
        activate(&service.kernel_space().unwrap(), pin);
        drop((first, second));
        assert_eq!(service.run_pending_work(pin), PendingWork::Done);
        assert_eq!(allocated(service), before, "frames leaked");
    });
}

#[test]
fn what_one_space_writes_the_other_reads() {
    with_two(|sim, _, pin, first, second| {
        map(first, pin, pages(0, 4));
        first.share(pin, pages(1, 2), second, pages(70, 1).start(), Protection::USER_READ_ONLY).unwrap();
        assert_eq!(second.mapped_pages(), 2);
        assert_eq!(ownership(first, pin, pages(0, 1)), Ownership::Owned);
        assert_eq!(ownership(first, pin, pages(1, 1)), Ownership::Shared);
        assert_eq!(ownership(second, pin, pages(70, 1)), Ownership::Shared);
        activate(first, pin);
        sim.store(pages(2, 1).start(), 22).unwrap();
        activate(second, pin);
        assert_eq!(sim.load(pages(71, 1).start()), Ok(22));
        assert!(sim.store(pages(71, 1).start(), 0).is_err());
        unmap(first, pin, pages(0, 4));
        assert_eq!(sim.load(pages(71, 1).start()), Ok(22), "the frame is still there");
    });
}

#[test]
fn a_frame_is_free_when_its_last_mapping_is_complete() {
    with_two(|_, service, pin, first, second| {
        map(first, pin, pages(0, 1));
        share(first, pin, pages(0, 1), second);
        second.share(pin, pages(0, 1), second, pages(9, 1).start(), Protection::USER_DATA).unwrap();
        let mapped = allocated(service);
        unmap(first, pin, pages(0, 1));
        unmap(second, pin, pages(9, 1));
        assert_eq!(allocated(service), mapped);
        assert!(is_told_sole(second, pin, pages(0, 1)));
        unmap(second, pin, pages(0, 1));
        assert_eq!(allocated(service), mapped - 1);
    });
}

/// Maps a region of `range`'s pages, and touches each.
fn region(space: &Space, pin: &CpuPin, range: PageRange) {
    let placement = Placement::FixedNoReplace(range.start());
    space.mmap(pin, &MapRequest::anonymous(range.pages() * 4096).placed(placement)).unwrap();
    for page in range.iter() {
        space.on_page_fault(pin, PageFault::new(page, FaultAccess::Write)).unwrap();
    }
}

/// Writes to `page`, which is of a region, are answered by a fault from now on.
fn write_protect(space: &Space, pin: &CpuPin, page: PageRange) {
    for access in [Access::READ, Access::WRITE] {
        space.mprotect(pin, page.start(), page.pages() * 4096, access).unwrap().wait(pin);
    }
}

#[test]
fn a_write_fault_copies_while_there_are_others_and_reuses_afterwards() {
    with_two(|sim, service, pin, first, second| {
        region(first, pin, pages(0, 8));
        share(first, pin, pages(0, 3), second);
        write_protect(first, pin, pages(0, 3));
        activate(second, pin);
        (0..3).for_each(|page| sim.store(pages(page, 1).start(), page).unwrap());
        let mapped = allocated(service);
        let fault =
            |page| first.on_page_fault(pin, PageFault::new(pages(page, 1).start(), FaultAccess::Write));
        assert_eq!(fault(1), Ok(Resolved::Copied));
        assert_eq!(allocated(service), mapped + 1);
        assert!(is_told_sole(second, pin, pages(1, 1)), "the copy's ticket was waited for");
        assert_eq!(ownership(first, pin, pages(1, 1)), Ownership::Owned);
        activate(first, pin);
        assert_eq!(sim.load(pages(1, 1).start()), Ok(1));
        sim.store(pages(1, 1).start(), 100).unwrap();
        activate(second, pin);
        assert_eq!(sim.load(pages(1, 1).start()), Ok(1), "it was a copy");
        unmap(second, pin, pages(2, 1));
        let kept = frame(first, pin, pages(2, 1));
        assert_eq!(fault(2), Ok(Resolved::Reused));
        assert_eq!(frame(first, pin, pages(2, 1)), kept);
        activate(first, pin);
        assert_eq!(sim.load(pages(2, 1).start()), Ok(2));
        sim.store(pages(2, 1).start(), 3).unwrap();
        assert!(sim.store(pages(0, 1).start(), 3).is_err());
        first.madvise(pin, pages(0, 1).start(), 4096, Advice::DontNeed).unwrap().wait(pin);
        assert!(is_told_sole(second, pin, pages(0, 1)));
    });
}

/// Another CPU, which answers late, may still use the frame by the first space.
#[test]
fn a_share_counts_until_the_ticket_is_complete() {
    let (sim, service) = booted(2);
    let (first, other) = sim.on(CpuId::BOOT, |pin| {
        let (first, other) = (service.create_space(pin).unwrap(), service.create_space(pin).unwrap());
        map(&first, pin, pages(0, 2));
        share(&first, pin, pages(0, 2), &other);
        (first, other)
    });
    sim.on(second(), |pin| {
        activate(&first, pin);
        sim.store(pages(0, 1).start(), 5).unwrap();
    });
    sim.on(CpuId::BOOT, |pin| {
        let mapped = allocated(service);
        let mut unmapping = first.unmap(pin, pages(0, 2)).unwrap();
        assert!(!unmapping.is_complete());
        unmapping.detach();
        assert_eq!(first.retired_frames(), 2);
        assert!(!is_told_sole(&other, pin, pages(0, 1)), "a TLB has it by the first space");
        unmap(&other, pin, pages(1, 1));
        assert_eq!(service.run_pending_work(pin), PendingWork::Waiting);
        assert_eq!(allocated(service), mapped + 1, "nothing is free, and a gather page more");
    });
    let stale = sim.on(second(), |_| sim.load(pages(0, 1).start()));
    assert!(matches!(stale, Err(Fault::NotPresent { .. })), "the load takes the interrupt first: {stale:?}");
    sim.on(CpuId::BOOT, |pin| {
        let mapped = allocated(service);
        assert!(!is_told_sole(&other, pin, pages(0, 1)));
        assert_eq!(service.run_pending_work(pin), PendingWork::Done);
        assert!(is_told_sole(&other, pin, pages(0, 1)));
        assert_eq!(allocated(service), mapped - 2, "the gather page, and the frame of the other page");
    });
    sim.on(second(), |pin| activate(&service.kernel_space().unwrap(), pin));
}

/// Both spaces retire the same frames at once, and other CPUs answer in either order.
#[test]
fn two_spaces_retire_one_frame_at_once() {
    for first_answers in [1, 2] {
        let (sim, service) = booted(3);
        let cpu = |number| CpuId::new(number).unwrap();
        let spaces = sim.on(CpuId::BOOT, |pin| [0, 1].map(|_| service.create_space(pin).unwrap()));
        let before = allocated(service);
        sim.on(CpuId::BOOT, |pin| {
            map(&spaces[0], pin, pages(0, 3));
            share(&spaces[0], pin, pages(0, 3), &spaces[1]);
        });
        for (number, space) in spaces.iter().enumerate() {
            sim.on(cpu(number + 1), |pin| {
                activate(space, pin);
                sim.store(pages(1, 1).start(), 5).unwrap();
            });
        }
        sim.on(CpuId::BOOT, |pin| {
            for space in &spaces {
                space.unmap(pin, pages(0, 3)).unwrap().detach();
            }
        });
        let tables = 2 * 3;
        for (answered, number) in [first_answers, 3 - first_answers].into_iter().enumerate() {
            sim.on(cpu(number), |_| assert!(sim.load(pages(1, 1).start()).is_err()));
            sim.on(CpuId::BOOT, |pin| {
                let left = service.run_pending_work(pin);
                assert_eq!(left, if answered == 0 { PendingWork::Waiting } else { PendingWork::Done });
                let left = if answered == 0 { 3 + 1 } else { 0 };
                assert_eq!(allocated(service), before + tables + left);
            });
        }
        for number in [1, 2] {
            sim.on(cpu(number), |pin| activate(&service.kernel_space().unwrap(), pin));
        }
    }
}

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

#[test]
fn a_shared_page_is_unmapped_with_what_can_be_freed() {
    with_two(|_, service, pin, first, second| {
        map(first, pin, pages(0, 1));
        share(first, pin, pages(0, 1), second);
        let dropped = service.create_space(pin).unwrap();
        map(&dropped, pin, pages(0, 10));
        let taken = take_all_but(service, pin, 0);
        drop(dropped);
        unmap(second, pin, pages(0, 1));
        give_back(service, pin, taken);
    });
}

/// A dropped space drops its shares: at once where no CPU has it active, and where one is lazy in it.
#[test]
fn a_dropped_space_holds_no_shares() {
    for lazy in [false, true] {
        let (sim, service) = booted(2);
        let (before, first) = sim.on(CpuId::BOOT, |pin| {
            let first = service.create_space(pin).unwrap();
            map(&first, pin, pages(0, 100));
            map(&first, pin, huge(4, 2));
            (allocated(service), first)
        });
        let dropped = sim.on(CpuId::BOOT, |pin| {
            let dropped = service.create_space(pin).unwrap();
            share(&first, pin, pages(0, 100), &dropped);
            share(&first, pin, huge(4, 2), &dropped);
            unmap(&dropped, pin, pages(512 * 5 + 9, 1));
            unmap(&first, pin, pages(0, 10));
            dropped
        });
        sim.on(second(), |pin| {
            activate(&dropped, pin);
            sim.store(pages(50, 1).start(), 50).unwrap();
            if lazy {
                // SAFETY: the CPU touches nothing of the space until `leave_lazy`.
                unsafe { service.shootdown().enter_lazy(pin, Lazy::Idle) };
            } else {
                activate(&service.kernel_space().unwrap(), pin);
            }
        });
        drop(dropped);
        sim.on(CpuId::BOOT, |pin| {
            // Tables wait for the lazy CPU.
            let expected = if lazy { PendingWork::Waiting } else { PendingWork::Done };
            assert_eq!(service.run_pending_work(pin), expected);
            assert!(is_told_sole(&first, pin, pages(50, 1)));
            assert!(is_told_sole(&first, pin, huge(4, 1)));
            assert!(is_told_sole(&first, pin, huge(5, 1)));
        });
        sim.on(second(), |pin| {
            if lazy {
                service.shootdown().leave_lazy(pin);
                assert!(sim.load(pages(50, 1).start()).is_err(), "a stale translation");
                activate(&service.kernel_space().unwrap(), pin);
            }
        });
        sim.on(CpuId::BOOT, |pin| {
            assert_eq!(service.run_pending_work(pin), PendingWork::Done);
            assert_eq!(allocated(service), before - 10);
        });
    }
}

/// Each CPU shares its page with all others, in rounds that overlap: who is quick maps what others have
/// just let go, while who is slow still reads.
#[test]
fn no_cpu_ever_reads_what_a_frame_became_later() {
    const CPUS: usize = 3;
    const ROUNDS: u64 = 60;
    let (sim, service) = booted(CPUS);
    let before = sim.on(CpuId::BOOT, |_| allocated(service));
    let spaces: Vec<Space> =
        sim.on(CpuId::BOOT, |pin| (0..CPUS).map(|_| service.create_space(pin).unwrap()).collect());
    let tag = |cpu: usize, round: u64, page: u64| 1 + page + 8 * (cpu as u64 + 8 * round);
    sim.run(|pin| {
        let me = pin.cpu().index();
        let slot = |cpu: usize, round: u64| pages(cpu as u64 * 40 + round % 2 * 8, 4);
        activate(&spaces[me], pin);
        for round in 0..ROUNDS {
            let mine = slot(me, round);
            map(&spaces[me], pin, mine);
            for (page, address) in (0..).zip(mine.iter()) {
                sim.store(address, tag(me, round, page)).unwrap();
            }
            for (other, space) in spaces.iter().enumerate().filter(|&(other, _)| other != me) {
                let read_only = (other as u64 + round).is_multiple_of(2);
                let protection = if read_only { Protection::USER_READ_ONLY } else { Protection::USER_DATA };
                spaces[me].share(pin, mine, space, mine.start(), protection).unwrap();
            }
            sim.barrier();
            for cpu in (0..CPUS).map(|step| (me + step) % CPUS) {
                let theirs = slot(cpu, round);
                for (page, address) in (0..).zip(theirs.iter()) {
                    assert_eq!(sim.load(address), Ok(tag(cpu, round, page)), "CPU {me}, round {round}");
                }
                let unmapping = spaces[me].unmap(pin, theirs).unwrap();
                match (cpu as u64 + round) % 3 {
                    0 => unmapping.detach(),
                    _ => unmapping.wait(pin),
                }
                if me == 0 {
                    service.run_pending_work(pin);
                }
            }
        }
        sim.barrier();
        activate(&service.kernel_space().unwrap(), pin);
    });
    drop(spaces);
    sim.on(CpuId::BOOT, |pin| {
        while service.run_pending_work(pin) != PendingWork::Done {}
        assert_eq!(allocated(service), before);
    });
}
