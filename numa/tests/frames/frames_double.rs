//! Second frees, and frees that do not name what was allocated: which are found, and when.
#![cfg(not(loom))]
// Helpers outside test functions fail tests by it.
#![allow(clippy::unwrap_used)]

mod frames_support;

use frames_support::{Host, MIB, Machine, cpu, frame, free, number, online, pin};
use topomem_numa::frames::{DoubleFrees, FrameRequest, Frames, FramesConfig, FreeError};
use topomem_percpu::{Order, PhysFrame};

const ONE: FrameRequest = FrameRequest::frame();
const HUGE: FrameRequest = FrameRequest::order(Order::HUGE);

fn free_run(frames: &Frames<Host>, first: PhysFrame, count: u64) -> Result<(), FreeError> {
    // SAFETY: nobody uses the arena.
    unsafe { frames.free_run(&pin(0), first, count) }
}

/// Which word CPU 0 took its last frame from.
#[derive(PartialEq, Eq)]
enum Current {
    /// One of the next block.
    Other,
    /// One of the block.
    Emptied,
}

fn paranoid() -> FramesConfig {
    FramesConfig { double_frees: DoubleFrees::FoundAtOnce, ..FramesConfig::without_reserve() }
}

/// CPU 0 takes all frames of a block, and one of the next, so that it owns the block no more; CPU 1
/// gives the block back. CPU 0's magazine still has words of it, without frames; its last frame was
/// taken from one of them where `current` says so.
fn block_behind_its_magazine(current: Current) -> (&'static Frames<Host>, Vec<PhysFrame>) {
    let frames = Machine::simple(8, 2).frames(&FramesConfig::without_reserve());
    online(frames, 2);
    let mut all: Vec<_> = (0..513).map(|_| frames.alloc(&pin(0), &ONE).unwrap()).collect();
    all.truncate(512);
    if current == Current::Emptied {
        free(frames, 0, all[511], Order::FRAME).unwrap();
        assert_eq!(frames.alloc(&pin(0), &ONE), Ok(all[511]));
    }
    assert!(all.iter().all(|&of| number(of) / 512 == number(all[0]) / 512));
    for &of in &all {
        free(frames, 1, of, Order::FRAME).unwrap();
    }
    frames.drain(&pin(1));
    (frames, all)
}

#[test]
#[cfg_attr(miri, ignore = "takes thousands of frames, by no unsafe code that the other tests do not run")]
fn a_second_free_into_an_emptied_word_is_found_at_once() {
    let (frames, all) = block_behind_its_magazine(Current::Other);
    let before = frames.validate().unwrap();
    for &of in &all {
        assert_eq!(free(frames, 0, of, Order::FRAME), Err(FreeError::DoubleFree(of)));
    }
    assert_eq!(frames.validate().unwrap(), before);
    // The block is somebody else's, as a whole.
    let mut blocks = std::iter::from_fn(|| frames.alloc(&pin(1), &HUGE).ok());
    assert!(blocks.any(|block| block == frame(number(all[0]) / 512 * 512)));
    for &of in &all {
        let wrong = free(frames, 0, of, Order::FRAME);
        assert!(matches!(wrong, Err(FreeError::WrongOrder { actual: Order::HUGE, .. })), "{wrong:?}");
    }
}

/// The word that the magazine took its last frame from takes them; they are found when it goes home.
#[test]
#[cfg_attr(miri, ignore = "takes thousands of frames, by no unsafe code that the other tests do not run")]
fn a_second_free_into_the_current_word_is_found_when_it_goes_home() {
    let (frames, all) = block_behind_its_magazine(Current::Emptied);
    let taken = all.iter().filter(|&&of| free(frames, 0, of, Order::FRAME).is_ok()).count() as u64;
    assert_eq!(taken, 64);
    frames.drain(&pin(0));
    assert_eq!(frames.cpu_stats(cpu(0)).unwrap().late_doubles, taken);
    let totals = frames.validate().unwrap();
    assert_eq!((totals.free, totals.allocated), (2047, 1));
    let free_frames: u64 = topomem_numa::frames::Zone::ALL
        .iter()
        .map(|&zone| frames.free_estimate(topomem_numa::NodeId::ZERO, zone))
        .sum();
    assert_eq!(free_frames, totals.free);
}

/// Each way to name a run of blocks wrongly, in paranoid mode.
#[test]
#[cfg_attr(miri, ignore = "takes thousands of frames, by no unsafe code that the other tests do not run")]
fn a_run_of_blocks_is_freed_only_as_it_was_allocated() {
    let frames = Machine::new(&[(16 * MIB, 80 * MIB, 0)], &[0, 0]).frames(&paranoid());
    online(frames, 2);
    let before = frames.validate().unwrap();
    let run = frames.alloc_run(&pin(0), &ONE, 1024, 1).unwrap();
    let second = run + 512;
    let wrong = free(frames, 0, run, Order::HUGE);
    assert!(matches!(wrong, Err(FreeError::WrongOrder { .. })), "{wrong:?}");
    let inside = free(frames, 0, second, Order::HUGE);
    assert!(matches!(inside, Err(FreeError::WrongOrder { .. } | FreeError::NotAllocated(_))), "{inside:?}");
    assert!(free_run(frames, run, 512).is_err());
    assert!(free_run(frames, second, 512).is_err());
    assert_eq!(free_run(frames, run, 0), Err(FreeError::NotAllocated(run)));
    free_run(frames, run, 1024).unwrap();
    assert_eq!(free_run(frames, run, 1024), Err(FreeError::DoubleFree(run)));

    let huge = frames.alloc(&pin(0), &HUGE).unwrap();
    assert_eq!(free_run(frames, huge, 512), Err(FreeError::NotAllocated(huge)));
    free(frames, 0, huge, Order::HUGE).unwrap();
    // Held back by the CPU, handed out again, and freed on another.
    assert_eq!(free(frames, 0, huge, Order::HUGE), Err(FreeError::DoubleFree(huge)));
    assert_eq!(frames.alloc(&pin(0), &HUGE), Ok(huge));
    free(frames, 1, huge, Order::HUGE).unwrap();

    let four = frames.alloc(&pin(0), &FrameRequest::order(Order::new(11).unwrap())).unwrap();
    assert!(free(frames, 0, four, Order::HUGE).is_err());
    assert!(free_run(frames, four, 2048).is_err());
    free(frames, 0, four, Order::new(11).unwrap()).unwrap();
    (0..2).for_each(|index| _ = frames.drain(&pin(index)));
    assert_eq!(frames.validate().unwrap(), before);
}

/// Of a run of frames only the whole is one to free.
#[test]
fn the_end_of_a_run_begins_none() {
    let frames = Machine::simple(2, 1).frames(&paranoid());
    online(frames, 1);
    let run = frames.alloc_run(&pin(0), &ONE, 5, 1).unwrap();
    assert_eq!(free(frames, 0, run + 4, Order::FRAME), Err(FreeError::NotAllocated(run + 4)));
    let single = frames.alloc_run(&pin(0), &ONE, 1, 1).unwrap();
    assert_eq!(free_run(frames, single, 0), Err(FreeError::NotAllocated(single)));
    free_run(frames, single, 1).unwrap();
    free_run(frames, run, 5).unwrap();
}

/// Short runs come from and go to the CPU's own words in paranoid mode, too, and each wrong free of one is
/// refused at once: where the run is free with the CPU, where another CPU frees it, and by another order.
#[test]
fn short_runs_are_checked_in_the_magazine() {
    let frames = Machine::simple(8, 2).frames(&paranoid());
    online(frames, 2);
    let total = frames.validate().unwrap().free;
    for level in 1..=5 {
        let order = Order::new(level).unwrap();
        let runs: Vec<_> =
            (0..4).map(|_| frames.alloc(&pin(0), &FrameRequest::order(order)).unwrap()).collect();
        let before = frames.validate().unwrap();
        assert_eq!(before.allocated, 4 * order.frames());
        for &run in &runs[..2] {
            assert!(free(frames, 0, run + 1, Order::FRAME).is_err(), "an inner frame");
            let wrong = FreeError::WrongOrder { frame: run, given: Order::FRAME, actual: order };
            assert_eq!(free(frames, 0, run, Order::FRAME), Err(wrong));
            free(frames, 0, run, order).unwrap();
            for on in [0, 1] {
                assert!(free(frames, on, run, order).is_err(), "{order:?} freed twice, on CPU {on}");
            }
        }
        let after = frames.validate().unwrap();
        assert_eq!(after.in_magazines - before.in_magazines, 2 * order.frames(), "the CPU keeps them");
        // Of these, one is allocated again, and is nobody else's.
        let again = frames.alloc(&pin(0), &FrameRequest::order(order)).unwrap();
        assert!(!runs[2..].contains(&again));
        for run in [again, runs[2], runs[3]] {
            free(frames, 0, run, order).unwrap();
        }
    }
    let totals = frames.validate().unwrap();
    assert_eq!((totals.free + totals.in_magazines, totals.allocated), (total, 0));
}
