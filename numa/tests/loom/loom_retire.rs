//! loom models of the retirement of bad frames, running the production code:
//! `RUSTFLAGS="--cfg loom" cargo test -p topomem-numa --release --test loom_retire`.
#![cfg(loom)]
// Helpers outside test functions fail tests by it.
#![allow(clippy::unwrap_used)]

mod loom_machine;

use loom::thread;
use loom_machine::{START, alloc, disjoint, frames, free, gone, model, model_with, pin, retire};
use topomem_numa::frames::Retired;

#[test]
fn retirement_against_the_free_that_makes_a_block_whole() {
    model(|| {
        let frames = frames(1);
        let run = alloc(frames, 0, 6).unwrap();
        let other = thread::spawn(move || retire(frames, 1, run.0 + 3));
        free(frames, 0, run.0, 6);
        other.join().unwrap();
        gone(frames, run.0 + 3);
        assert!(alloc(frames, 0, 9).is_none());
    });
}

#[test]
fn retirement_against_a_huge_page() {
    model(|| {
        let frames = frames(1);
        let other = thread::spawn(move || retire(frames, 1, START / 4096 + 3));
        let huge = alloc(frames, 0, 9);
        let when = other.join().unwrap();
        assert!(when != Retired::Now || huge.is_none());
        if let Some((first, _)) = huge {
            free(frames, 0, first, 9);
        }
        gone(frames, START / 4096 + 3);
    });
}

/// CPU 1 frees a run of order `level` with the bad frame, while CPU 0 retires that and at once asks
/// for `wanted`: it must not get the frame, nor a block around it.
fn ask_after_retiring(level: u8, wanted: u8) {
    // One preemption, in the free, which the yield lets begin: with more, there are too many ways.
    model_with(1, move || {
        let frames = frames(1);
        let run = alloc(frames, 1, level).unwrap();
        frames.cpu_online(&pin(0)).unwrap();
        let other = thread::spawn(move || free(frames, 1, run.0, level));
        retire(frames, 0, run.0);
        thread::yield_now();
        let got = alloc(frames, 0, wanted);
        disjoint(got, Some((run.0, run.0 + 1)));
        other.join().unwrap();
        if let Some((first, _)) = got {
            free(frames, 0, first, wanted);
        }
        frames.drain(&pin(0));
        gone(frames, run.0);
    });
}

#[test]
fn retired_while_freed_is_not_claimed_from_a_bitmap() {
    ask_after_retiring(6, 6);
}

#[test]
fn retired_while_freed_is_not_claimed_from_the_buddy() {
    ask_after_retiring(9, 9);
}

#[test]
fn retired_while_freed_is_not_claimed_by_breaking_a_block() {
    ask_after_retiring(9, 6);
}

#[test]
fn retired_while_freed_does_not_come_by_a_refill() {
    ask_after_retiring(9, 0);
}

#[test]
fn retirement_against_a_block_broken_up() {
    model(|| {
        let frames = frames(1);
        let other = thread::spawn(move || retire(frames, 1, START / 4096 + 3));
        let run = alloc(frames, 0, 6);
        let when = other.join().unwrap();
        let run = run.unwrap();
        assert!(when != Retired::Now || run.0 > START / 4096 + 3);
        free(frames, 0, run.0, 6);
        gone(frames, START / 4096 + 3);
    });
}

#[test]
fn retirement_against_a_refill() {
    model(|| {
        let frames = frames(1);
        frames.cpu_online(&pin(0)).unwrap();
        let kept = alloc(frames, 0, 0).unwrap();
        frames.drain(&pin(0));
        let bad = kept.0 + 1;
        let other = thread::spawn(move || retire(frames, 1, bad));
        let got = alloc(frames, 0, 0).unwrap();
        other.join().unwrap();
        free(frames, 0, got.0, 0);
        free(frames, 0, kept.0, 0);
        gone(frames, bad);
    });
}

#[test]
fn a_magazine_that_answers_does_not_take_the_frame_back() {
    model(|| {
        let frames = frames(1);
        frames.cpu_online(&pin(0)).unwrap();
        let bad = alloc(frames, 0, 0).unwrap().0;
        let other = thread::spawn(move || retire(frames, 1, bad));
        frames.service(&pin(0));
        free(frames, 0, bad, 0);
        other.join().unwrap();
        gone(frames, bad);
        assert!(alloc(frames, 0, 0).is_some_and(|(first, _)| first != bad));
    });
}
