//! loom models of requests for the last free frames while these move, running the production code:
//! `RUSTFLAGS="--cfg loom" cargo test -p topomem-numa --release --test loom_scarce`.
//!
//! What is asked for is free throughout, so nobody may be told that memory is exhausted.
#![cfg(loom)]
// Helpers outside test functions fail tests by it.
#![allow(clippy::unwrap_used)]

mod loom_machine;

use loom::thread;
use loom_machine::{Host, alloc, frames, frames_of_two_nodes, free, model, model_with, order, pin};
use topomem_numa::NodeId;
use topomem_numa::frames::{AllocError, FrameRequest, Frames, NodeSet, Policy};
use topomem_percpu::{Order, PhysFrame};

const ONE: FrameRequest = FrameRequest::frame();

fn assert_not_exhausted(outcome: &Result<PhysFrame, AllocError>) {
    assert!(!matches!(outcome, Err(AllocError::Exhausted { .. })), "free frames were missed: {outcome:?}");
}

/// All frames but `left` of them are taken, on CPU 0.
fn almost_full(left: u8) -> &'static Frames<Host> {
    let frames = frames(1);
    (left..=8).for_each(|level| _ = alloc(frames, 0, level).unwrap());
    frames
}

#[test]
fn a_refill() {
    model(|| {
        // Two frames.
        let frames = almost_full(1);
        frames.cpu_online(&pin(1)).unwrap();
        let other = thread::spawn(move || alloc(frames, 1, 0));
        let mine = frames.alloc(&pin(0), &ONE);
        let theirs = other.join().unwrap();
        assert_not_exhausted(&mine);
        assert!(theirs.is_some() || mine.is_ok());
    });
}

/// As `a_refill`, by a run of two frames: the word that it takes is the CPU's own block's.
#[test]
fn a_refill_for_a_run() {
    model(|| {
        // Two runs.
        let frames = almost_full(2);
        frames.cpu_online(&pin(1)).unwrap();
        let other = thread::spawn(move || alloc(frames, 1, 1));
        let mine = frames.alloc(&pin(0), &FrameRequest::order(order(1)));
        let theirs = other.join().unwrap();
        assert_not_exhausted(&mine);
        assert!(theirs.is_some() || mine.is_ok());
    });
}

/// A block of 32, the words of which CPU 1 holds; all others are taken.
fn almost_full_but_for_words() -> &'static Frames<Host> {
    let frames = frames(32);
    frames.cpu_online(&pin(1)).unwrap();
    let half = alloc(frames, 1, 8).unwrap();
    free(frames, 1, half.0, 8);
    assert_eq!(frames.validate().unwrap().in_magazines, 512);
    (9..=13).for_each(|level| _ = alloc(frames, 0, level).unwrap());
    frames
}

#[test]
fn hits_of_words() {
    model(|| {
        // CPU 1 takes a half of the block out, and gives it back.
        let frames = almost_full_but_for_words();
        let other = thread::spawn(move || {
            let half = alloc(frames, 1, 8).unwrap();
            free(frames, 1, half.0, 8);
        });
        let mine = frames.alloc(&pin(0), &FrameRequest::order(order(8)));
        other.join().unwrap();
        assert_not_exhausted(&mine);
    });
}

#[test]
fn words_going_home() {
    // One preemption: with more, there are too many ways.
    model_with(1, || {
        let frames = almost_full_but_for_words();
        // All but one.
        (6..=8).for_each(|level| _ = alloc(frames, 1, level).unwrap());
        let other = thread::spawn(move || _ = frames.drain(&pin(1)));
        let mine = frames.alloc(&pin(0), &FrameRequest::order(order(6)));
        other.join().unwrap();
        assert_not_exhausted(&mine);
        let totals = frames.validate().unwrap();
        assert_eq!((totals.free, totals.in_magazines), (if mine.is_ok() { 0 } else { 64 }, 0));
    });
}

#[test]
fn a_block_broken_up() {
    for level in [0, 8] {
        model(move || {
            let frames = frames(1);
            let other = thread::spawn(move || alloc(frames, 1, level));
            let mine = frames.alloc(&pin(0), &FrameRequest::order(order(level)));
            other.join().unwrap();
            assert_not_exhausted(&mine);
        });
    }
}

#[test]
#[ignore = "takes minutes; the stepper runs the same at every instruction"]
fn an_owned_block_given_up() {
    // One preemption: with more, there are too many ways.
    model_with(1, || {
        let frames = frames(1);
        frames.cpu_online(&pin(1)).unwrap();
        let one = alloc(frames, 1, 0).unwrap();
        free(frames, 1, one.0, 0);
        let other = thread::spawn(move || _ = frames.drain(&pin(1)));
        let mine = frames.alloc(&pin(0), &FrameRequest::order(Order::HUGE));
        assert_not_exhausted(&mine);
        other.join().unwrap();
    });
}

#[test]
fn hits() {
    model(|| {
        // CPU 1 has a frame in its magazine, gives another to it, and takes one out.
        let frames = almost_full(2);
        let far = alloc(frames, 0, 0).unwrap();
        (0..2).for_each(|_| _ = alloc(frames, 0, 0).unwrap());
        frames.cpu_online(&pin(1)).unwrap();
        let last = alloc(frames, 1, 0).unwrap();
        free(frames, 1, last.0, 0);
        let other = thread::spawn(move || {
            free(frames, 1, far.0, 0);
            alloc(frames, 1, 0)
        });
        let mine = frames.alloc(&pin(0), &ONE);
        other.join().unwrap();
        assert_not_exhausted(&mine);
    });
}

#[test]
fn a_claim_after_a_free() {
    model(|| {
        // CPU 1 frees a run, then takes another of the same size: one is free at every instant.
        let frames = almost_full(7);
        let first = alloc(frames, 1, 6).unwrap();
        let other = thread::spawn(move || {
            free(frames, 1, first.0, 6);
            alloc(frames, 1, 6)
        });
        let mine = frames.alloc(&pin(0), &FrameRequest::order(order(6)));
        other.join().unwrap();
        assert_not_exhausted(&mine);
    });
}

#[test]
fn a_word_on_its_way_to_another_node() {
    model(|| {
        let frames = frames_of_two_nodes();
        let bound = |level| {
            let set = NodeSet::of(NodeId::new(1).unwrap());
            FrameRequest::order(order(level)).policy(Policy::Bind(set))
        };
        let take = |level| frames.alloc(&pin(1), &bound(level)).unwrap().start_address().as_u64() >> 12;
        (2..=8).for_each(|level| _ = take(level));
        let four = [take(0), take(0), take(0), take(0)];
        frames.cpu_online(&pin(0)).unwrap();
        // The first goes straight home, the second gathers.
        free(frames, 0, four[0], 0);
        free(frames, 0, four[1], 0);
        assert_eq!(take(0), four[0]);
        let other = thread::spawn(move || _ = frames.drain(&pin(0)));
        let mine = frames.alloc(&pin(1), &bound(0));
        other.join().unwrap();
        assert_not_exhausted(&mine);
    });
}
