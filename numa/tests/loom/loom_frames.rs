//! loom models of the frame allocator's bitmaps, buddy and magazines, running the production code:
//! `RUSTFLAGS="--cfg loom" cargo test -p topomem-numa --release --test loom_frames`.
#![cfg(loom)]

mod loom_machine;

use loom::thread;
use loom_machine::{alloc, disjoint, frames, free, model, pin};
use topomem_percpu::{Order, PhysAddr, PhysFrame};

#[test]
fn refill_against_a_remote_free() {
    model(|| {
        let frames = frames(1);
        frames.cpu_online(&pin(0)).unwrap();
        let kept = alloc(frames, 0, 0).unwrap();
        let given = alloc(frames, 0, 0).unwrap();
        frames.drain(&pin(0));
        let remote = thread::spawn(move || free(frames, 1, given.0, 0));
        let got = alloc(frames, 0, 0);
        disjoint(got, Some(kept));
        remote.join().unwrap();
        frames.drain(&pin(0));
        frames.validate().unwrap();
    });
}

#[test]
fn two_last_frees_promote() {
    model(|| {
        let frames = frames(1);
        let (a, b) = (alloc(frames, 0, 6).unwrap(), alloc(frames, 0, 6).unwrap());
        let other = thread::spawn(move || free(frames, 1, a.0, 6));
        free(frames, 0, b.0, 6);
        other.join().unwrap();
        assert_eq!(frames.validate().unwrap().free, 512);
        assert!(alloc(frames, 0, 9).is_some());
    });
}

#[test]
fn order_7_against_order_0() {
    model(|| {
        let frames = frames(1);
        let rest = alloc(frames, 0, 8).unwrap();
        let other = thread::spawn(move || alloc(frames, 1, 0));
        let run = alloc(frames, 0, 7);
        let one = other.join().unwrap();
        disjoint(run, one);
        disjoint(run, Some(rest));
        assert!(run.is_some() && one.is_some());
        frames.validate().unwrap();
    });
}

#[test]
fn order_8_against_order_7() {
    model(|| {
        let frames = frames(1);
        let rest = alloc(frames, 0, 8).unwrap();
        let other = thread::spawn(move || alloc(frames, 1, 7));
        let run = alloc(frames, 0, 8);
        let half = other.join().unwrap();
        disjoint(run, half);
        assert!(run.is_some() || half.is_some());
        disjoint(half, Some(rest));
        frames.validate().unwrap();
    });
}

#[test]
fn order_9_against_the_frees_that_make_it() {
    model(|| {
        let frames = frames(1);
        let first = alloc(frames, 0, 8).unwrap();
        let other = thread::spawn(move || alloc(frames, 1, 9));
        free(frames, 0, first.0, 8);
        let huge = other.join().unwrap();
        frames.validate().unwrap();
        assert!(huge.is_some() || alloc(frames, 0, 9).is_some());
    });
}

#[test]
fn block_ownership_changes_hands() {
    model(|| {
        let frames = frames(1);
        frames.cpu_online(&pin(0)).unwrap();
        frames.cpu_online(&pin(1)).unwrap();
        let first = alloc(frames, 0, 0).unwrap();
        let other = thread::spawn(move || {
            let got = alloc(frames, 1, 0);
            frames.drain(&pin(1));
            got
        });
        frames.drain(&pin(0));
        let got = other.join().unwrap();
        disjoint(Some(first), got);
        assert!(got.is_some());
        frames.validate().unwrap();
    });
}

#[test]
fn a_flush_against_a_free_of_the_same_word() {
    model(|| {
        let frames = frames(1);
        frames.cpu_online(&pin(0)).unwrap();
        frames.cpu_online(&pin(1)).unwrap();
        let given = alloc(frames, 0, 0).unwrap();
        // The rest of its word goes home while the other CPU frees it straight there.
        let other = thread::spawn(move || free(frames, 1, given.0, 0));
        frames.drain(&pin(0));
        other.join().unwrap();
        frames.drain(&pin(1));
        assert_eq!(frames.validate().unwrap().free, 512);
    });
}

#[test]
fn a_split_against_a_merge() {
    model(|| {
        let frames = frames(2);
        let low = alloc(frames, 0, 9).unwrap();
        // The buddy of `low` may be taken on its own, or with it once it is back.
        let other = thread::spawn(move || alloc(frames, 1, 10));
        free(frames, 0, low.0, 9);
        let half = alloc(frames, 0, 9);
        let both = other.join().unwrap();
        disjoint(half, both);
        assert!(half.is_some() || both.is_some());
        frames.validate().unwrap();
    });
}

#[test]
fn two_claims_of_one_block() {
    model(|| {
        let frames = frames(1);
        let other = thread::spawn(move || alloc(frames, 1, 9));
        let mine = alloc(frames, 0, 9);
        assert!(mine.is_some() != other.join().unwrap().is_some());
        frames.validate().unwrap();
    });
}

#[test]
fn a_block_freed_twice_is_held_back_once() {
    model(|| {
        let frames = frames(32);
        frames.cpu_online(&pin(0)).unwrap();
        frames.cpu_online(&pin(1)).unwrap();
        let block = alloc(frames, 0, 9).unwrap();
        let first = PhysFrame::containing_address(PhysAddr::new(block.0 << 12));
        // SAFETY: nobody uses the frames; the second free is the error that must be found.
        let other = thread::spawn(move || unsafe { frames.free(&pin(1), first, Order::HUGE) }.is_ok());
        // SAFETY: as above.
        let mine = unsafe { frames.free(&pin(0), first, Order::HUGE) }.is_ok();
        assert!(mine != other.join().unwrap());
        let totals = frames.validate().unwrap();
        assert_eq!((totals.allocated, totals.in_magazines), (0, 512));
    });
}
