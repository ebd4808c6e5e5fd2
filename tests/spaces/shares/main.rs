//! Frames that several mappings share, on a simulated machine: where they go, and when.
// As in spaces.rs.
#![cfg(not(miri))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod refusals;
mod runs;

use topomem::address_space::{MapError, ShareError};
use topomem::page_table::Ownership;
use topomem::region::{Advice, FaultAccess, MapRequest, PageFault, Placement, Resolved};
use topomem::sim::{Fault, Sim, SimService};
use topomem::{
    Access, AddressSpace, CpuId, CpuPin, FrameRequest, Lazy, Order, PageRange, PageSize, PendingWork,
    PhysFrame, Protection, VirtAddr,
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
