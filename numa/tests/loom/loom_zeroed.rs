//! loom models of the pool of zeroed frames, running the production code:
//! `RUSTFLAGS="--cfg loom" cargo test -p topomem-numa --release --test loom_zeroed`.
#![cfg(loom)]
// Helpers outside test functions fail tests by it.
#![allow(clippy::unwrap_used)]

mod loom_machine;

use loom::thread;
use loom_machine::{Host, alloc, disjoint, frames_with, free, model, model_with, order, pin, retire};
use topomem_numa::NodeId;
use topomem_numa::frames::{AllocError, FrameRequest, Frames, FramesConfig, ZeroedFrames};
use topomem_percpu::Platform;

/// All but `order` is taken, and a pool wants one frame.
fn almost_full(free: u8) -> &'static Frames<Host> {
    let zeroed = ZeroedFrames::Frames(1);
    let frames = frames_with(1, &FramesConfig { zeroed, ..FramesConfig::without_reserve() });
    for level in free..=8 {
        alloc(frames, 0, level).unwrap();
    }
    frames
}

fn alloc_zeroed(frames: &Frames<Host>, cpu: usize) -> Option<(u64, u64)> {
    let first = frames.alloc(&pin(cpu), &FrameRequest::frame().zeroed()).ok()?;
    let words = frames.platform().phys_to_virt(first.start_address()).cast::<u64>();
    // SAFETY: the frame is this thread's, and lies in the arena.
    let found = unsafe { words.add(511).replace(u64::MAX) };
    assert_eq!(found, 0, "not zeroed: {first:?}");
    let number = first.start_address().as_u64() >> 12;
    Some((number, number + 1))
}

#[test]
fn frames_on_their_way_to_the_pool_are_not_missed() {
    model(|| {
        let frames = almost_full(3);
        let filler = thread::spawn(move || frames.refill_zeroed(&pin(1), 1));
        let run = frames.alloc(&pin(0), &FrameRequest::order(order(3)));
        assert!(!matches!(run, Err(AllocError::Exhausted { .. })), "free frames were missed: {run:?}");
        let filled = filler.join().unwrap();
        assert!(run.is_err() || filled == 0 || frames.validate().unwrap().zeroed == 0);
        frames.validate().unwrap();
        assert!(run.is_ok() || alloc(frames, 0, 3).is_some());
    });
}

#[test]
fn the_pool_is_filled_emptied_and_spilt_at_once() {
    model(|| {
        let frames = almost_full(3);
        assert_eq!(frames.refill_zeroed(&pin(0), 1), 1);
        let taker = thread::spawn(move || alloc_zeroed(frames, 1));
        let spilt = frames.drain_zeroed(NodeId::ZERO);
        let one = taker.join().unwrap();
        assert!(one.is_some() && spilt <= 1);
        let totals = frames.validate().unwrap();
        assert_eq!((totals.free, totals.zeroed), (7, 0));
    });
}

#[test]
fn two_take_from_the_pool_while_it_is_filled() {
    model(|| {
        let frames = almost_full(3);
        assert_eq!(frames.refill_zeroed(&pin(0), 1), 1);
        let other = thread::spawn(move || alloc_zeroed(frames, 1));
        frames.refill_zeroed(&pin(0), 1);
        let one = alloc_zeroed(frames, 0);
        let two = other.join().unwrap();
        disjoint(one, two);
        assert!(one.is_some() && two.is_some());
        frames.validate().unwrap();
    });
}

#[test]
fn retirement_against_a_pool_being_filled() {
    model_with(1, || {
        let frames = almost_full(3);
        // Who is filled or asked next gets the same one.
        assert_eq!(frames.refill_zeroed(&pin(1), 1), 1);
        let bad = alloc_zeroed(frames, 0).unwrap().0;
        free(frames, 0, bad, 0);
        let filler = thread::spawn(move || frames.refill_zeroed(&pin(1), 1));
        retire(frames, 0, bad);
        disjoint(alloc_zeroed(frames, 0), Some((bad, bad + 1)));
        filler.join().unwrap();
        frames.drain_zeroed(NodeId::ZERO);
        assert_eq!(frames.validate().unwrap().retired, 1);
    });
}
