//! Pages move between nodes while other CPUs read, write, unmap, protect and fork them.
#![cfg(not(miri))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

use topomem::region::{FaultError, MapRequest, MoveError, PageMove, Placement};
use topomem::sim::{Fault, Sim, SimService};
use topomem::{
    Access, CpuId, CpuPin, FrameRequest, NodeId, PageRange, PageSize, PendingWork, Policy, Protection,
    VirtAddr,
};
use topomem_numa::frames::NodeSet;

mod space_support;
use space_support::{Space, activate, allocated, at, deactivate, finish, touch_at};

const FIRST: u64 = 1000;
const NODES: [NodeId; 2] = [NodeId::ZERO, NodeId::new(1).unwrap()];

fn booted(cpus: usize) -> (&'static Sim, &'static SimService) {
    let sim = Sim::builder().nodes(2).cpus(cpus).memory(32 << 20).build().unwrap();
    (sim, sim.boot_service().unwrap())
}

/// Interrupts come late, so that a write by an old translation is likely where one is possible.
fn booted_late(cpus: usize) -> (&'static Sim, &'static SimService) {
    let sim = Sim::builder().nodes(2).cpus(cpus).memory(32 << 20).delay_interrupts(40, 7).build().unwrap();
    (sim, sim.boot_service().unwrap())
}

/// Makes a region of `count` pages from `FIRST` on.
fn mmap(space: &Space, pin: &CpuPin, count: u64) {
    let request = MapRequest::anonymous(count << 12).placed(Placement::Fixed(at(FIRST)));
    space.mmap(pin, &request).unwrap();
}

/// Moves `count` pages from `FIRST` on to `node`, and returns what has become of each.
fn moved(space: &Space, pin: &CpuPin, count: u64, node: NodeId) -> Vec<Result<NodeId, MoveError>> {
    let mut moves: Vec<PageMove> = (0..count).map(|page| PageMove::new(at(FIRST + page), node)).collect();
    space.move_pages(pin, &mut moves);
    moves.iter().map(|page| page.outcome().unwrap()).collect()
}

#[test]
fn pages_move_with_their_contents() {
    let (sim, service) = booted(1);
    sim.on(CpuId::BOOT, |pin| {
        let before = allocated(service);
        let space = service.create_space(pin).unwrap();
        activate(&space, pin);
        mmap(&space, pin, 200);
        for page in 0..200 {
            touch_at(sim, pin, &space, at(FIRST + page), Some(page)).unwrap();
        }
        let frames = allocated(service);
        for node in [NODES[1], NODES[0], NODES[1], NODES[1]] {
            assert!(moved(&space, pin, 200, node).iter().all(|&outcome| outcome == Ok(node)));
            for page in 0..200 {
                assert_eq!(space.node_of_page(pin, at(FIRST + page)), Ok(node));
                assert_eq!(touch_at(sim, pin, &space, at(FIRST + page), None), Ok(page));
            }
            assert_eq!(allocated(service), frames);
            assert_eq!(space.mapped_pages(), 200);
        }
        finish(sim, service, pin, space, before);
    });
}

#[test]
fn what_cannot_move_says_why() {
    let (sim, service) = booted(1);
    sim.on(CpuId::BOOT, |pin| {
        let before = allocated(service);
        let space = service.create_space(pin).unwrap();
        activate(&space, pin);
        mmap(&space, pin, 4);
        touch_at(sim, pin, &space, at(FIRST), Some(7)).unwrap();
        touch_at(sim, pin, &space, at(FIRST + 1), None).unwrap();
        let own = space.node_of_page(pin, at(FIRST)).unwrap();
        let other = NODES[usize::from(own == NODES[0])];
        let expected = [
            Ok(other),
            Err(MoveError::NotMovable),
            Err(MoveError::NotPresent),
            Err(MoveError::NotPresent),
            Err(MoveError::NotMovable),
        ];
        assert_eq!(moved(&space, pin, 5, other), expected);
        // Pages that are not a region's, and addresses that are nobody's.
        let plain = PageRange::page(at(1 << 20), PageSize::Size4KiB);
        space.map(pin, plain, FrameRequest::frame(), Protection::USER_DATA).unwrap();
        let mut moves = [at(1 << 20), at(0), at((1 << 35) - 1)].map(|page| PageMove::new(page, own));
        space.move_pages(pin, &mut moves);
        assert!(moves.iter().all(|page| page.outcome() == Some(Err(MoveError::NotMovable))));
        // Twice the same.
        let mut moves = [PageMove::new(at(FIRST), own), PageMove::new(at(FIRST), own)];
        space.move_pages(pin, &mut moves);
        assert!(moves.iter().all(|page| page.outcome() == Some(Ok(own))), "{moves:?}");
        // Shared with a child, and alone again.
        let child = space.fork(pin).unwrap();
        assert_eq!(moved(&space, pin, 1, other), [Err(MoveError::Shared)]);
        assert_eq!(moved(&space, pin, 1, own), [Ok(own)], "it is there");
        drop(child);
        while service.run_pending_work(pin) != PendingWork::Done {}
        assert_eq!(moved(&space, pin, 1, other), [Ok(other)]);
        assert_eq!(touch_at(sim, pin, &space, at(FIRST), None), Ok(7));
        // A page without access.
        space.mprotect(pin, at(FIRST), 4096, Access::NONE).unwrap().wait(pin);
        assert_eq!(moved(&space, pin, 1, own), [Ok(own)]);
        assert_eq!(touch_at(sim, pin, &space, at(FIRST), None), Err(FaultError::Denied));
        space.mprotect(pin, at(FIRST), 4096, Access::READ).unwrap().wait(pin);
        assert_eq!(moved(&space, pin, 1, other), [Ok(other)]);
        assert_eq!(touch_at(sim, pin, &space, at(FIRST), None), Ok(7));
        assert_eq!(touch_at(sim, pin, &space, at(FIRST), Some(8)), Err(FaultError::Denied));
        finish(sim, service, pin, space, before);
    });
}

#[test]
fn nothing_leaks_if_memory_runs_out_half_way() {
    let (sim, service) = booted(1);
    sim.on(CpuId::BOOT, |pin| {
        let before = allocated(service);
        let space = service.create_space(pin).unwrap();
        activate(&space, pin);
        mmap(&space, pin, 100);
        for page in 0..100 {
            touch_at(sim, pin, &space, at(FIRST + page), Some(page)).unwrap();
        }
        assert!(moved(&space, pin, 100, NODES[0]).iter().all(|&outcome| outcome == Ok(NODES[0])));
        // All of the other node, but for 37 frames.
        let request = FrameRequest::frame().policy(Policy::Bind(NodeSet::of(NODES[1])));
        let mut taken: Vec<_> = core::iter::from_fn(|| service.frames().alloc(pin, &request).ok()).collect();
        let free = |frame| {
            // SAFETY: it was allocated above, and nobody uses it.
            unsafe { service.frames().free(pin, frame, topomem::Order::FRAME) }.unwrap();
        };
        taken.split_off(taken.len() - 37).into_iter().for_each(free);
        let outcomes = moved(&space, pin, 100, NODES[1]);
        let count = outcomes.iter().filter(|&&outcome| outcome == Ok(NODES[1])).count();
        assert!((1..=37).contains(&count), "{count}");
        let failed = |outcome: &&_| matches!(outcome, Err(MoveError::OutOfFrames(_)));
        assert_eq!(outcomes.iter().filter(failed).count(), 100 - count);
        for page in 0..100 {
            assert_eq!(touch_at(sim, pin, &space, at(FIRST + page), None), Ok(page));
        }
        taken.into_iter().for_each(free);
        finish(sim, service, pin, space, before);
    });
}

/// Says at its end, by a panic or not, that the other CPUs need not go on.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Three CPUs count in words of their own in each page while the boot CPU moves the pages back and forth: each
/// finds the number that it wrote last.
#[test]
fn no_write_is_lost() {
    const PAGES: u64 = 12;
    const NUMBERS: u64 = 150;
    let (sim, service) = booted_late(4);
    let before = sim.on(CpuId::BOOT, |_| allocated(service));
    let space = sim.on(CpuId::BOOT, |pin| {
        let space = service.create_space(pin).unwrap();
        mmap(&space, pin, PAGES);
        activate(&space, pin);
        for page in 0..PAGES {
            touch_at(sim, pin, &space, at(FIRST + page), Some(0)).unwrap();
        }
        space
    });
    let done: [AtomicBool; 3] = Default::default();
    let moves = AtomicU64::new(0);
    sim.run(|pin| {
        activate(&space, pin);
        sim.barrier();
        if let Some(cpu) = pin.cpu().index().checked_sub(1) {
            let _done = Done(&done[cpu]);
            for number in 0..NUMBERS {
                for page in 0..PAGES {
                    let byte = ((FIRST + page) << 12) | (pin.cpu().index() as u64 * 8);
                    let word = VirtAddr::new(byte).unwrap();
                    assert_eq!(touch_at(sim, pin, &space, word, None), Ok(number), "page {page}");
                    touch_at(sim, pin, &space, word, Some(number + 1)).unwrap();
                }
            }
        } else {
            for node in NODES.into_iter().cycle() {
                if done.iter().all(|done| done.load(Ordering::Acquire)) {
                    break;
                }
                let outcomes = moved(&space, pin, PAGES, node);
                let count = outcomes.iter().filter(|&&outcome| outcome == Ok(node)).count();
                moves.fetch_add(count as u64, Ordering::Relaxed);
            }
        }
        sim.barrier();
        deactivate(service, pin);
        sim.barrier();
    });
    let moves = moves.load(Ordering::Relaxed);
    assert!(moves > PAGES, "only {moves} moves");
    sim.on(CpuId::BOOT, |pin| finish(sim, service, pin, space, before));
}

/// One CPU moves pages, another as well, to the other node; the others unmap, map, protect and fork them.
#[test]
fn moves_meet_other_operations() {
    const PAGES: u64 = 16;
    const ROUNDS: u64 = 20;
    let (sim, service) = booted(4);
    let before = sim.on(CpuId::BOOT, |_| allocated(service));
    let space = sim.on(CpuId::BOOT, |pin| {
        let space = service.create_space(pin).unwrap();
        mmap(&space, pin, PAGES);
        space
    });
    let done = AtomicBool::new(false);
    sim.run(|pin| {
        activate(&space, pin);
        sim.barrier();
        match pin.cpu().index() {
            0 | 1 => {
                let node = NODES[pin.cpu().index()];
                while !done.load(Ordering::Acquire) {
                    moved(&space, pin, PAGES, node);
                    sim.take_interrupts();
                }
            }
            2 => {
                let _done = Done(&done);
                for round in 0..ROUNDS {
                    for page in PAGES / 2..PAGES {
                        touch_at(sim, pin, &space, at(FIRST + page), Some(round)).unwrap();
                    }
                    let half = at(FIRST + PAGES / 2);
                    space.mprotect(pin, half, (PAGES / 2) << 12, Access::READ).unwrap().wait(pin);
                    for page in PAGES / 2..PAGES {
                        assert_eq!(touch_at(sim, pin, &space, at(FIRST + page), None), Ok(round));
                        let denied = touch_at(sim, pin, &space, at(FIRST + page), Some(0));
                        assert_eq!(denied, Err(FaultError::Denied));
                    }
                    space.mprotect(pin, half, (PAGES / 2) << 12, Access::WRITE).unwrap().wait(pin);
                    if round % 4 == 3 {
                        space.munmap(pin, half, 4096).unwrap().wait(pin);
                        let request = MapRequest::anonymous(4096).placed(Placement::Fixed(half));
                        space.mmap(pin, &request).unwrap();
                        assert_eq!(touch_at(sim, pin, &space, half, None), Ok(0));
                    }
                }
            }
            _ => {
                let mut number = 1;
                while !done.load(Ordering::Acquire) {
                    for page in 0..PAGES / 2 {
                        touch_at(sim, pin, &space, at(FIRST + page), Some(number)).unwrap();
                    }
                    let child = space.fork(pin).unwrap();
                    touch_at(sim, pin, &space, at(FIRST), Some(number + 1)).unwrap();
                    activate(&child, pin);
                    for page in 0..PAGES / 2 {
                        assert_eq!(touch_at(sim, pin, &child, at(FIRST + page), None), Ok(number));
                    }
                    activate(&space, pin);
                    drop(child);
                    service.run_pending_work(pin);
                    number += 2;
                }
            }
        }
        sim.barrier();
        deactivate(service, pin);
        sim.barrier();
    });
    sim.on(CpuId::BOOT, |pin| finish(sim, service, pin, space, before));
}

#[test]
fn pages_move_without_blocking() {
    let (sim, service) = booted(2);
    let before = sim.on(CpuId::BOOT, |_| allocated(service));
    let space = sim.on(CpuId::BOOT, |pin| service.create_space(pin).unwrap());
    let done = AtomicBool::new(false);
    sim.run(|pin| {
        activate(&space, pin);
        if pin.cpu() == CpuId::BOOT {
            mmap(&space, pin, 100);
            for page in 0..100 {
                touch_at(sim, pin, &space, at(FIRST + page), Some(page)).unwrap();
            }
        }
        sim.barrier();
        if pin.cpu() == CpuId::BOOT {
            let _done = Done(&done);
            for round in 0..4 {
                let node = NODES[round % 2];
                let mut moves: Vec<_> = (0..100).map(|page| PageMove::new(at(FIRST + page), node)).collect();
                sim.block_on(space.move_pages_async(&mut moves), || {
                    let _ = service.wake_due(pin);
                });
                assert!(moves.iter().all(|page| page.outcome().is_some()));
            }
        } else {
            while !done.load(Ordering::Acquire) {
                for page in 0..100 {
                    assert_eq!(touch_at(sim, pin, &space, at(FIRST + page), None), Ok(page));
                }
            }
        }
        sim.barrier();
        deactivate(service, pin);
        sim.barrier();
    });
    sim.on(CpuId::BOOT, |pin| finish(sim, service, pin, space, before));
}

/// The other CPU does not answer: a move that is given up then leaves the pages as they were.
#[test]
fn a_dropped_move_gives_the_pages_back() {
    let (sim, service) = booted(2);
    let before = sim.on(CpuId::BOOT, |_| allocated(service));
    let space = sim.on(CpuId::BOOT, |pin| service.create_space(pin).unwrap());
    sim.on(CpuId::BOOT, |pin| {
        activate(&space, pin);
        mmap(&space, pin, 3);
        touch_at(sim, pin, &space, at(FIRST), Some(5)).unwrap();
    });
    sim.on(CpuId::new(1).unwrap(), |pin| {
        activate(&space, pin);
        assert_eq!(touch_at(sim, pin, &space, at(FIRST), None), Ok(5));
    });
    sim.on(CpuId::BOOT, |pin| {
        let own = space.node_of_page(pin, at(FIRST)).unwrap();
        let other = NODES[usize::from(own == NODES[0])];
        let mut moves = [PageMove::new(at(FIRST), other)];
        {
            let mut moving = pin!(space.move_pages_async(&mut moves));
            let mut context = Context::from_waker(Waker::noop());
            assert_eq!(moving.as_mut().poll(&mut context), Poll::Pending);
            assert!(matches!(sim.load(at(FIRST)), Err(Fault::NotPresent { .. })), "it is hidden");
            // A fault does not wait for ever for a task that may not run.
            assert_eq!(touch_at(sim, pin, &space, at(FIRST), None), Ok(5));
            assert_eq!(moving.as_mut().poll(&mut context), Poll::Pending);
        }
        assert_eq!(moves[0].outcome(), Some(Err(MoveError::Busy)));
        assert_eq!(sim.load(at(FIRST)), Ok(5), "it is as before");
        assert_eq!(space.node_of_page(pin, at(FIRST)), Ok(own));
    });
    sim.on(CpuId::new(1).unwrap(), |pin| deactivate(service, pin));
    sim.on(CpuId::BOOT, |pin| finish(sim, service, pin, space, before));
}
