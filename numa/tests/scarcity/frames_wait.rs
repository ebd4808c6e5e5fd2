//! Waiting for memory: in order, without loss, and safe to cancel.
//!
//! Nothing but `wake_waiters` calls a waker, so the tests call it as a kernel's executor does.
#![cfg(not(loom))]
// Helpers outside test functions fail tests by it.
#![allow(clippy::unwrap_used)]

#[path = "../frames/frames_support/mod.rs"]
mod frames_support;

use std::future::Future;
use std::pin::{Pin, pin as pinned};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use frames_support::{Host, Machine, online, pin};
use topomem_numa::frames::{AllocError, AllocFuture, FrameRequest, Frames, FramesConfig};
use topomem_percpu::{Order, PhysFrame};

#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn poll(future: Pin<&mut AllocFuture<'_, Host>>, woken: &Arc<Count>) -> Poll<Result<PhysFrame, AllocError>> {
    future.poll(&mut Context::from_waker(&Waker::from(woken.clone())))
}

fn wakes(woken: &Arc<Count>) -> usize {
    woken.0.load(Ordering::Relaxed)
}

/// What the kernel does between two tasks: wakes whoever is due.
fn wake_due(frames: &Frames<Host>) {
    frames.wake_waiters(&pin(0));
    assert!(!frames.wakers_due());
}

/// 2 MiB, all taken.
fn exhausted() -> (&'static Frames<Host>, Vec<PhysFrame>) {
    let frames = Machine::simple(2, 2).frames(&FramesConfig::without_reserve());
    online(frames, 2);
    let all = std::iter::from_fn(|| frames.alloc(&pin(0), &FrameRequest::frame()).ok()).collect();
    (frames, all)
}

fn free(frames: &Frames<Host>, cpu: usize, first: PhysFrame) {
    // SAFETY: nobody uses the arena.
    unsafe { frames.free(&pin(cpu), first, Order::FRAME) }.unwrap();
}

#[test]
fn waiters_are_served_in_order() {
    let (frames, mut all) = exhausted();
    let (first_woken, second_woken) = (Arc::new(Count::default()), Arc::new(Count::default()));
    let mut first = pinned!(frames.alloc_async(FrameRequest::frame()));
    let mut second = pinned!(frames.alloc_async(FrameRequest::frame()));
    assert!(poll(first.as_mut(), &first_woken).is_pending());
    assert!(poll(second.as_mut(), &second_woken).is_pending());
    free(frames, 1, all.pop().unwrap());
    assert!(frames.wakers_due());
    assert_eq!(wakes(&first_woken), 0, "a free calls no waker");
    wake_due(frames);
    assert!(wakes(&first_woken) > 0);
    let before = wakes(&second_woken);
    // A poll out of turn does not overtake.
    assert!(poll(second.as_mut(), &second_woken).is_pending());
    assert!(poll(first.as_mut(), &first_woken).is_ready());
    wake_due(frames);
    assert!(wakes(&second_woken) > before, "the next one may try");
    assert!(poll(second.as_mut(), &second_woken).is_pending());
    free(frames, 1, all.pop().unwrap());
    assert!(poll(second.as_mut(), &second_woken).is_ready());
}

#[test]
fn a_free_into_a_magazine_reaches_who_waits() {
    let (frames, mut all) = exhausted();
    // CPU 1 has the words of what it frees next in its magazine.
    free(frames, 1, all.pop().unwrap());
    let taken = frames.alloc(&pin(1), &FrameRequest::frame()).unwrap();
    let woken = Arc::new(Count::default());
    let mut waiting = pinned!(frames.alloc_async(FrameRequest::frame()));
    assert!(poll(waiting.as_mut(), &woken).is_pending());
    free(frames, 1, taken);
    // It may have become a hit; then the owner was asked to give it up.
    frames.service(&pin(1));
    wake_due(frames);
    assert!(wakes(&woken) > 0);
    assert_eq!(poll(waiting.as_mut(), &woken), Poll::Ready(Ok(taken)));
}

#[test]
fn who_cannot_be_served_lets_the_next_one_try() {
    let (frames, mut all) = exhausted();
    let woken = Arc::new(Count::default());
    let mut huge = pinned!(frames.alloc_async(FrameRequest::order(Order::HUGE)));
    let mut small = pinned!(frames.alloc_async(FrameRequest::frame()));
    let huge_woken = Arc::new(Count::default());
    assert!(poll(huge.as_mut(), &huge_woken).is_pending());
    assert!(poll(small.as_mut(), &woken).is_pending());
    free(frames, 0, all.pop().unwrap());
    wake_due(frames);
    assert_eq!((wakes(&huge_woken), wakes(&woken)), (1, 0));
    let before = wakes(&woken);
    assert!(poll(huge.as_mut(), &huge_woken).is_pending());
    wake_due(frames);
    assert!(wakes(&woken) > before);
    assert!(poll(small.as_mut(), &woken).is_ready());
}

#[test]
fn dropping_a_woken_waiter_wakes_the_next_and_loses_nothing() {
    let (frames, mut all) = exhausted();
    let (first_woken, second_woken) = (Arc::new(Count::default()), Arc::new(Count::default()));
    let mut first = Box::pin(frames.alloc_async(FrameRequest::frame()));
    let mut second = Box::pin(frames.alloc_async(FrameRequest::frame()));
    assert!(poll(first.as_mut(), &first_woken).is_pending());
    assert!(poll(second.as_mut(), &second_woken).is_pending());
    wake_due(frames);
    free(frames, 1, all.pop().unwrap());
    wake_due(frames);
    assert!(wakes(&first_woken) > 0);
    let before = wakes(&second_woken);
    drop(first);
    assert_eq!(wakes(&second_woken), before, "a drop calls no waker");
    wake_due(frames);
    assert!(wakes(&second_woken) > before);
    assert!(poll(second.as_mut(), &second_woken).is_ready());
    drop(second);
    frames.drain(&pin(1));
    assert_eq!(frames.validate().unwrap().free, 0);
    for first in all {
        free(frames, 0, first);
    }
    frames.drain(&pin(0));
    assert_eq!(frames.validate().unwrap().free, 511);
}

/// Its waker owns another future that waits, so that dropping the waker drops that.
struct Owner {
    _owned: Pin<Box<AllocFuture<'static, Host>>>,
}

impl Wake for Owner {
    fn wake(self: Arc<Self>) {}
}

#[test]
fn a_waker_that_owns_a_waiting_future_may_be_dropped_by_a_poll() {
    let (frames, _) = exhausted();
    let woken = Arc::new(Count::default());
    let mut inner = Box::pin(frames.alloc_async(FrameRequest::frame()));
    assert!(poll(inner.as_mut(), &woken).is_pending());
    let mut outer = Box::pin(frames.alloc_async(FrameRequest::frame()));
    let owner = Waker::from(Arc::new(Owner { _owned: inner }));
    assert!(outer.as_mut().poll(&mut Context::from_waker(&owner)).is_pending());
    drop(owner);
    // Another task polls it: the waker before, the last that owns the other future, is dropped.
    assert!(poll(outer.as_mut(), &woken).is_pending());
    wake_due(frames);
}

/// A waker of which the last owner drops its future, and frees its frame, when it is woken.
struct Task(&'static Frames<Host>, std::sync::Mutex<Option<Pin<Box<AllocFuture<'static, Host>>>>>);

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        let future = self.1.lock().unwrap().take();
        drop(future);
        // Whatever a waker does is allowed: it is called with nothing held.
        let first = self.0.alloc(&pin(0), &FrameRequest::frame()).unwrap();
        free(self.0, 0, first);
    }
}

#[test]
fn a_waker_may_drop_its_future_allocate_and_free() {
    let (frames, mut all) = exhausted();
    let task = Arc::new(Task(frames, std::sync::Mutex::new(None)));
    let mut future = Box::pin(frames.alloc_async(FrameRequest::frame()));
    let waker = Waker::from(task.clone());
    assert!(future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    *task.1.lock().unwrap() = Some(future);
    free(frames, 1, all.pop().unwrap());
    assert_eq!(frames.wake_waiters(&pin(0)), 1);
    wake_due(frames);
    drop(waker);
    assert_eq!(Arc::strong_count(&task), 1, "no slot keeps a waker");
}

#[test]
fn a_dropped_future_leaves_its_waker_to_the_next_call() {
    let (frames, _) = exhausted();
    let woken = Arc::new(Count::default());
    let mut future = Box::pin(frames.alloc_async(FrameRequest::frame()));
    assert!(poll(future.as_mut(), &woken).is_pending());
    drop(future);
    assert_eq!(Arc::strong_count(&woken), 2, "a drop drops no waker");
    assert!(frames.wakers_due());
    assert_eq!(frames.wake_waiters(&pin(0)), 0);
    assert_eq!((Arc::strong_count(&woken), wakes(&woken)), (1, 0));
}

#[test]
fn more_futures_than_places_are_served_too() {
    let (frames, all) = exhausted();
    let woken = Arc::new(Count::default());
    let mut futures: Vec<_> = (0..80).map(|_| Box::pin(frames.alloc_async(FrameRequest::frame()))).collect();
    for future in &mut futures {
        assert!(poll(future.as_mut(), &woken).is_pending());
    }
    // Those without a place have woken themselves.
    assert_eq!(wakes(&woken), 80 - 64);
    all[..80].iter().for_each(|&first| free(frames, 1, first));
    for _ in 0..4 {
        wake_due(frames);
        futures.retain_mut(|future| poll(future.as_mut(), &woken).is_pending());
    }
    assert!(futures.is_empty());
}

#[test]
fn owned_frames_go_back() {
    let frames = Machine::simple(2, 1).frames(&FramesConfig::without_reserve());
    online(frames, 1);
    let owned = frames.alloc_owned(&FrameRequest::order(Order::HUGE)).unwrap();
    assert_eq!(frames.validate().unwrap().allocated, 512);
    drop(owned);
    assert_eq!(frames.validate().unwrap().allocated, 0);
    let (first, order) = frames.alloc_owned(&FrameRequest::frame()).unwrap().into_raw();
    assert_eq!((frames.validate().unwrap().allocated, order), (1, Order::FRAME));
    free(frames, 0, first);
}
