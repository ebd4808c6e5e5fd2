//! Waiting for memory: in order, without loss, and safe to cancel.
#![cfg(not(loom))]
// Helpers outside test functions fail tests by it.
#![allow(clippy::unwrap_used)]

mod frames_support;

use std::future::Future;
use std::pin::{Pin, pin as pinned};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use frames_support::{Host, Machine, online, pin};
use topomem_numa::frames::{AllocError, AllocFuture, FrameRequest, Frames, FramesConfig};
use topomem_percpu::Order;
use x86_64::structures::paging::PhysFrame;

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

/// 2 MiB, all taken.
fn exhausted() -> (&'static Frames<Host>, Vec<PhysFrame>) {
    let frames = Machine::simple(2, 2).frames(&FramesConfig::default());
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
    assert!(wakes(&first_woken) > 0);
    let before = wakes(&second_woken);
    // A poll out of turn does not overtake.
    assert!(poll(second.as_mut(), &second_woken).is_pending());
    assert!(poll(first.as_mut(), &first_woken).is_ready());
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
    let before = wakes(&woken);
    assert!(poll(huge.as_mut(), &huge_woken).is_pending());
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
    free(frames, 1, all.pop().unwrap());
    assert!(wakes(&first_woken) > 0);
    let before = wakes(&second_woken);
    assert_eq!(before, 0, "not its turn");
    drop(first);
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

#[test]
fn owned_frames_go_back() {
    let frames = Machine::simple(2, 1).frames(&FramesConfig::default());
    online(frames, 1);
    let owned = frames.alloc_owned(&FrameRequest::order(Order::HUGE)).unwrap();
    assert_eq!(frames.validate().unwrap().allocated, 512);
    drop(owned);
    assert_eq!(frames.validate().unwrap().allocated, 0);
    let (first, order) = frames.alloc_owned(&FrameRequest::frame()).unwrap().into_raw();
    assert_eq!((frames.validate().unwrap().allocated, order), (1, Order::FRAME));
    free(frames, 0, first);
}
