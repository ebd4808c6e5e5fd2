//! loom models of futures that wait for memory, running the production code:
//! `RUSTFLAGS="--cfg loom" cargo test -p topomem-numa --release --test loom_wait`.
#![cfg(loom)]
// Helpers outside test functions fail tests by it.
#![allow(clippy::unwrap_used)]

mod loom_machine;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use loom::thread;
use loom_machine::{Host, alloc, frames, free, model, pin};
use topomem_numa::frames::{AllocError, AllocFuture, FrameRequest, Frames};
use topomem_percpu::PhysFrame;

#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn poll(
    future: Pin<&mut AllocFuture<'static, Host>>,
    woken: &Arc<Count>,
) -> Poll<Result<PhysFrame, AllocError>> {
    future.poll(&mut Context::from_waker(&Waker::from(woken.clone())))
}

/// All is taken but for one frame, which the caller has.
fn exhausted() -> (&'static Frames<Host>, u64) {
    let frames = frames(1);
    (1..=8).for_each(|level| _ = alloc(frames, 0, level).unwrap());
    let one = alloc(frames, 0, 0).unwrap();
    alloc(frames, 0, 0).unwrap();
    (frames, one.0)
}

#[test]
fn a_free_wakes_or_is_seen() {
    model(|| {
        let (frames, one) = exhausted();
        let other = thread::spawn(move || {
            free(frames, 1, one, 0);
            frames.wake_waiters(&pin(1));
        });
        let woken = Arc::new(Count::default());
        let mut future = Box::pin(frames.alloc_async(FrameRequest::frame()));
        let first = poll(future.as_mut(), &woken);
        other.join().unwrap();
        if first.is_pending() {
            frames.wake_waiters(&pin(0));
            assert_eq!(woken.0.load(Ordering::SeqCst), 1);
            assert!(poll(future.as_mut(), &woken).is_ready());
        }
    });
}

#[test]
fn a_future_dropped_while_it_is_woken_leaves_nothing() {
    model(|| {
        let (frames, one) = exhausted();
        let woken = Arc::new(Count::default());
        let mut future = Box::pin(frames.alloc_async(FrameRequest::frame()));
        assert!(poll(future.as_mut(), &woken).is_pending());
        free(frames, 0, one, 0);
        let other = thread::spawn(move || frames.wake_waiters(&pin(1)));
        drop(future);
        other.join().unwrap();
        frames.wake_waiters(&pin(0));
        assert!(!frames.wakers_due());
        assert_eq!(Arc::strong_count(&woken), 1, "no slot keeps the waker");
    });
}

#[test]
fn a_wake_up_for_a_future_that_goes_is_the_next_ones() {
    model(|| {
        let (frames, one) = exhausted();
        let [first_woken, second_woken] = [(); 2].map(|()| Arc::new(Count::default()));
        let mut first = Box::pin(frames.alloc_async(FrameRequest::frame()));
        let mut second = Box::pin(frames.alloc_async(FrameRequest::frame()));
        assert!(poll(first.as_mut(), &first_woken).is_pending());
        assert!(poll(second.as_mut(), &second_woken).is_pending());
        let other = thread::spawn(move || {
            free(frames, 1, one, 0);
            frames.wake_waiters(&pin(1));
        });
        drop(first);
        other.join().unwrap();
        frames.wake_waiters(&pin(0));
        assert!(second_woken.0.load(Ordering::SeqCst) > 0);
        assert!(poll(second.as_mut(), &second_woken).is_ready());
    });
}

#[test]
fn a_poll_beside_a_wake_is_polled_again_or_tries() {
    model(|| {
        let (frames, one) = exhausted();
        let woken = Arc::new(Count::default());
        let mut future = Box::pin(frames.alloc_async(FrameRequest::frame()));
        assert!(poll(future.as_mut(), &woken).is_pending());
        free(frames, 0, one, 0);
        let other = thread::spawn(move || _ = frames.wake_waiters(&pin(1)));
        // Another waker now: whoever is woken last must be the newer one, or the poll succeeds.
        let newer = Arc::new(Count::default());
        let second = poll(future.as_mut(), &newer);
        other.join().unwrap();
        if second.is_pending() {
            frames.wake_waiters(&pin(0));
            assert!(newer.0.load(Ordering::SeqCst) > 0);
        }
    });
}
