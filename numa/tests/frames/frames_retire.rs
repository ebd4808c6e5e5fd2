//! Bad frames leave circulation wherever they are, and nothing else does.
#![cfg(not(loom))]
// Helpers outside test functions fail tests by it.
#![allow(clippy::unwrap_used)]

mod frames_support;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use frames_support::{Host, MIB, Machine, frame, free, number, online, pin};
use topomem_numa::NodeId;
use topomem_numa::frames::{
    AllocError, FrameRequest, Frames, FramesConfig, FreeError, RetireError, Retired, Retirement,
};
use topomem_percpu::{Order, PhysFrame};

fn order(order: u8) -> Order {
    Order::new(order).unwrap()
}

fn alloc(frames: &Frames<Host>, cpu: usize, order: Order) -> Option<PhysFrame> {
    frames.alloc(&pin(cpu), &FrameRequest::order(order)).ok()
}

/// `mib` MiB from 16 MiB on, and two CPUs.
fn small(mib: u64) -> &'static Frames<Host> {
    let frames = Machine::simple(mib, 2).frames(&FramesConfig::without_reserve());
    online(frames, 2);
    frames
}

fn drain(frames: &Frames<Host>, cpus: usize) {
    (0..cpus).for_each(|cpu| _ = frames.drain(&pin(cpu)));
}

/// Takes all memory frame by frame: none of it may be `bad`.
fn exhaust(frames: &Frames<Host>, bad: &[PhysFrame], expected: u64) {
    drain(frames, 2);
    if cfg!(miri) {
        return;
    }
    let taken: Vec<PhysFrame> = std::iter::from_fn(|| alloc(frames, 0, Order::FRAME)).collect();
    assert_eq!(taken.len() as u64, expected);
    assert!(taken.iter().all(|first| !bad.contains(first)));
    frames.validate().unwrap();
    taken.into_iter().for_each(|first| free(frames, 1, first, Order::FRAME).unwrap());
    drain(frames, 2);
    assert_eq!(frames.validate().unwrap().free, expected);
}

#[test]
fn a_free_frame_leaves_at_once() {
    let frames = small(4);
    // One of a whole block, then one of the block that this broke up.
    let bad = [frame(16 * 256 + 5), frame(16 * 256 + 300)];
    for (gone, &bad) in bad.iter().enumerate() {
        assert_eq!(frames.retire(&pin(0), bad), Ok(Retired::Now));
        assert!(frames.is_retired(bad));
        let totals = frames.validate().unwrap();
        assert_eq!((totals.retired, totals.free), (gone as u64 + 1, 1024 - gone as u64 - 1));
        assert_eq!(totals.allocated, 0);
        let again = RetireError::AlreadyRetired { frame: bad, state: Retirement::Complete };
        assert_eq!(frames.retire(&pin(1), bad), Err(again));
        assert_eq!(free(frames, 0, bad, Order::FRAME), Err(FreeError::DoubleFree(bad)));
    }
    exhaust(frames, &bad, 1022);
    assert_eq!(frames.stats(NodeId::ZERO).unwrap().retired(), 2);
    assert!(frames.retired().eq(bad.map(|bad| (bad, Retirement::Complete))));
    // The other block still serves as a huge page; this one never does.
    assert!(alloc(frames, 0, Order::HUGE).is_some_and(|first| number(first) == 18 * 256));
    assert_eq!(alloc(frames, 0, Order::HUGE), None);
}

#[test]
#[cfg_attr(miri, ignore = "takes minutes; the others run the same unsafe code")]
fn an_allocated_frame_leaves_when_its_run_is_freed() {
    for level in [0, 3, 6, 7, 8, 9, 10, 11] {
        let order = order(level);
        let mib = (order.bytes() / MIB).max(4) * 2;
        // From a multiple of 8 MiB on.
        let frames = small(mib);
        let first = alloc(frames, 0, order).unwrap();
        let bad = frame(number(first) + order.frames() * 2 / 3);
        assert_eq!(frames.retire(&pin(1), bad), Ok(Retired::WhenFreed), "order {level}");
        assert_eq!(frames.validate().unwrap().retired, 0);
        let listed = RetireError::AlreadyRetired { frame: bad, state: Retirement::Pending };
        assert_eq!(frames.retire(&pin(1), bad), Err(listed));
        frames.service(&pin(0));
        free(frames, 0, first, order).unwrap();
        assert!(frames.is_retired(bad));
        assert_eq!(frames.validate().unwrap().retired, 1, "order {level}");
        exhaust(frames, &[bad], mib * 256 - 1);
    }
}

#[test]
#[cfg_attr(miri, ignore = "takes minutes; the others run the same unsafe code")]
fn a_contiguous_run_leaves_all_but_its_bad_frames() {
    let frames = small(16);
    for count in [70, 512, 1100] {
        let first = frames.alloc_run(&pin(0), &FrameRequest::frame(), count, 1).unwrap();
        let bad = frame(number(first) + count - 3);
        assert_eq!(frames.retire(&pin(0), bad), Ok(Retired::WhenFreed));
        // SAFETY: nobody uses the arena.
        unsafe { frames.free_run(&pin(0), first, count) }.unwrap();
        assert!(frames.is_retired(bad));
        frames.validate().unwrap();
    }
    exhaust(frames, &[], 16 * 256 - 3);
}

#[test]
fn a_cached_frame_leaves_when_its_cpu_drains() {
    let frames = small(4);
    let taken = alloc(frames, 1, Order::FRAME).unwrap();
    let cached = frame(number(taken) + 1);
    // This CPU's own cache goes home at once.
    let own = alloc(frames, 0, Order::FRAME).unwrap();
    free(frames, 0, own, Order::FRAME).unwrap();
    assert_eq!(frames.retire(&pin(0), own), Ok(Retired::Now));
    assert_eq!(frames.retire(&pin(0), cached), Ok(Retired::WhenDrained));
    assert!(!frames.is_retired(cached));
    frames.service(&pin(1));
    assert!(frames.is_retired(cached));
    assert_eq!(frames.validate().unwrap().retired, 2);
    free(frames, 1, taken, Order::FRAME).unwrap();
    exhaust(frames, &[own, cached], 1022);
}

#[test]
#[cfg_attr(miri, ignore = "takes minutes; the others run the same unsafe code")]
fn a_block_that_a_cpu_holds_back_leaves_when_it_drains() {
    // Enough that a CPU may hold a block back.
    let frames = small(128);
    let huge = alloc(frames, 1, Order::HUGE).unwrap();
    free(frames, 1, huge, Order::HUGE).unwrap();
    let bad = [frame(number(huge) + 100), frame(number(huge) + 200)];
    assert_eq!(frames.retire(&pin(0), bad[0]), Ok(Retired::WhenDrained));
    // The CPU may hand it out before it drains.
    assert_eq!(alloc(frames, 1, Order::HUGE), Some(huge));
    frames.service(&pin(1));
    assert_eq!(frames.retire(&pin(0), bad[1]), Ok(Retired::WhenFreed));
    // Not held back again.
    free(frames, 1, huge, Order::HUGE).unwrap();
    assert!(bad.iter().all(|&bad| frames.is_retired(bad)));
    assert_eq!(frames.validate().unwrap().in_magazines, 0);
    exhaust(frames, &bad, 128 * 256 - 2);
}

#[test]
fn a_magazine_does_not_take_the_frame_back() {
    let frames = small(4);
    let taken: Vec<_> = (0..8).map(|_| alloc(frames, 0, Order::FRAME).unwrap()).collect();
    assert_eq!(frames.retire(&pin(1), taken[3]), Ok(Retired::WhenFreed));
    frames.service(&pin(0));
    for &first in &taken {
        // In between, magazines would like to have the block again.
        let other = alloc(frames, 0, Order::FRAME).unwrap();
        free(frames, 0, first, Order::FRAME).unwrap();
        free(frames, 0, other, Order::FRAME).unwrap();
    }
    assert!(frames.is_retired(taken[3]));
    exhaust(frames, &[taken[3]], 1023);
}

#[test]
fn wrong_frames_are_refused() {
    let machine = Machine::simple(4, 1).reserve(17 * MIB, 17 * MIB + 0x1000);
    let frames = machine.frames(&FramesConfig::without_reserve());
    let (outside, reserved) = (frame(20 * 256), frame(17 * 256));
    assert_eq!(frames.retire(&pin(0), outside), Err(RetireError::OutOfRange(outside)));
    assert_eq!(frames.retire(&pin(0), reserved), Err(RetireError::Reserved(reserved)));
    assert!(!frames.is_retired(outside) && !frames.is_retired(reserved));
    for index in 0..64 {
        assert_eq!(frames.retire(&pin(0), frame(18 * 256 + index * 3)), Ok(Retired::Now));
    }
    assert_eq!(frames.retire(&pin(0), frame(18 * 256 + 1)), Err(RetireError::Full { limit: 64 }));
    let totals = frames.validate().unwrap();
    assert_eq!((totals.retired, totals.free), (64, 1024 - 1 - 64));
}

#[test]
fn everything_may_go() {
    // An edge block of 40 frames, and nothing else.
    let frames =
        Machine::new(&[(16 * MIB, 16 * MIB + 40 * 4096, 0)], &[0]).frames(&FramesConfig::without_reserve());
    online(frames, 1);
    for index in 0..40 {
        assert_eq!(frames.retire(&pin(0), frame(16 * 256 + index)), Ok(Retired::Now));
    }
    assert!(matches!(frames.alloc(&pin(0), &FrameRequest::frame()), Err(AllocError::Exhausted { .. })));
    assert_eq!(frames.validate().unwrap().retired, 40);
}

/// xorshift64*, seeded per thread.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % limit
    }
}

/// What a request that begins now must not get.
struct Gone([AtomicU64; 64]);

impl Gone {
    fn touched(&self, first: u64, count: u64) -> bool {
        self.0
            .iter()
            .map(|gone| gone.load(Ordering::Acquire))
            .any(|gone| (first..first + count).contains(&gone))
    }
}

#[test]
#[cfg_attr(miri, ignore = "its CPUs wait for each other's moves, which takes Miri minutes")]
fn nobody_gets_a_retired_frame_while_all_allocate() {
    let (rounds, workers, retirements) = (60, 2, 48);
    for seed in 1..=rounds {
        // 1 CPU more than workers: it retires.
        let mib = 8;
        let frames = Machine::simple(mib, workers + 1).frames(&FramesConfig::without_reserve());
        online(frames, workers + 1);
        let gone = Gone(std::array::from_fn(|_| AtomicU64::new(u64::MAX)));
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            for cpu in 0..workers {
                let (gone, done) = (&gone, &done);
                scope.spawn(move || work(frames, cpu, seed, gone, done));
            }
            let mut random = Random(seed * 77 + 1);
            for index in 0..retirements {
                let bad = frame(16 * 256 + random.below(mib * 256));
                match frames.retire(&pin(workers), bad) {
                    Ok(Retired::Now) => gone.0[index].store(number(bad), Ordering::Release),
                    Ok(_) | Err(RetireError::AlreadyRetired { .. }) => {}
                    Err(other) => panic!("{other}"),
                }
                // Whoever has it still: it does not come back to the CPU that retired it.
                let order = order(random.below(10) as u8);
                if let Some(first) = alloc(frames, workers, order) {
                    let run = first..=frame(number(first) + order.frames() - 1);
                    assert!(!frames.retired().any(|(bad, _)| run.contains(&bad)), "{run:?}");
                    free(frames, workers, first, order).unwrap();
                }
                (0..random.below(2000)).for_each(|_| std::hint::spin_loop());
            }
            done.store(true, Ordering::Release);
        });
        drain(frames, workers + 1);
        let listed = frames.retired().count() as u64;
        assert!(frames.retired().all(|(_, state)| state == Retirement::Complete), "seed {seed}");
        let totals = frames.validate().unwrap();
        assert_eq!((totals.retired, totals.free, totals.allocated), (listed, mib * 256 - listed, 0));
    }
}

/// Allocates and frees runs of all orders until `done`; then frees all.
fn work(frames: &Frames<Host>, cpu: usize, seed: u64, gone: &Gone, done: &AtomicBool) {
    let mut random = Random(seed * 1000 + cpu as u64);
    let mut held: Vec<(PhysFrame, Order)> = Vec::new();
    while !done.load(Ordering::Acquire) {
        frames.service(&pin(cpu));
        if random.below(100) < 55 {
            let order = order(random.below(11) as u8);
            let before: Vec<u64> = gone.0.iter().map(|gone| gone.load(Ordering::Acquire)).collect();
            if let Some(first) = alloc(frames, cpu, order) {
                let run = number(first)..number(first) + order.frames();
                assert!(before.iter().all(|gone| !run.contains(gone)), "{run:?} has a retired frame");
                held.push((first, order));
            }
        } else if !held.is_empty() {
            let at = random.below(held.len() as u64) as usize;
            let (first, order) = held.swap_remove(at);
            assert!(!gone.touched(number(first), order.frames()), "retired while allocated");
            free(frames, cpu, first, order).unwrap();
        }
    }
    held.into_iter().for_each(|(first, order)| free(frames, cpu, first, order).unwrap());
}
