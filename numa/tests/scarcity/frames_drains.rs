//! Drains: who is asked, who answers, and that whoever waits is woken.
// These fill memory, which takes Miri minutes; what is unsafe runs in frames_basic.
#![cfg(not(any(loom, miri)))]
// Helpers outside test functions fail tests by it.
#![allow(clippy::unwrap_used)]

#[path = "../frames/frames_support/mod.rs"]
mod frames_support;

use std::future::Future;
use std::pin::{Pin, pin as pinned};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use frames_support::{Host, MIB, Machine, cpu, online, pin};
use topomem_numa::NodeId;
use topomem_numa::frames::{
    AllocError, AllocFuture, DoubleFrees, Drained, FrameRequest, Frames, FramesConfig, NodeSet, Policy, Zone,
};
use topomem_percpu::{Order, PhysFrame};

const ONE: FrameRequest = FrameRequest::frame();
const HUGE: FrameRequest = FrameRequest::order(Order::HUGE);

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

fn free(frames: &Frames<Host>, cpu: usize, first: PhysFrame, order: Order) {
    // SAFETY: nobody uses the arena.
    unsafe { frames.free(&pin(cpu), first, order) }.unwrap();
}

fn cached(frames: &Frames<Host>, index: usize) -> u64 {
    frames.cpu_stats(cpu(index)).unwrap().cached
}

/// CPU 1 holds the only free block back; then `give_up`: whoever waits for a block must be woken.
fn held_back_then(give_up: impl FnOnce(&Frames<Host>)) {
    let frames = Machine::simple(128, 2).frames(&FramesConfig::without_reserve());
    online(frames, 2);
    let one = frames.alloc(&pin(1), &HUGE).unwrap();
    free(frames, 1, one, Order::HUGE);
    let rest = std::iter::from_fn(|| frames.alloc(&pin(0), &HUGE).ok()).count();
    assert_eq!((rest, cached(frames, 1)), (63, 512));
    let woken = Arc::new(Count::default());
    let mut waiting = pinned!(frames.alloc_async(HUGE));
    assert!(poll(waiting.as_mut(), &woken).is_pending());
    frames.wake_waiters(&pin(0));
    assert_eq!(woken.0.load(Ordering::Relaxed), 0, "CPU 1 has not answered");
    give_up(frames);
    assert_eq!(frames.wake_waiters(&pin(1)), 1);
    assert_eq!(poll(waiting.as_mut(), &woken), Poll::Ready(Ok(one)));
}

#[test]
fn a_held_block_that_goes_home_wakes() {
    held_back_then(|frames| frames.service(&pin(1)));
    held_back_then(|frames| assert_eq!(frames.drain(&pin(1)), Drained::Everything));
    held_back_then(|frames| assert_eq!(frames.cpu_offline(&pin(1)), Drained::Everything));
}

#[test]
fn a_use_of_any_order_answers() {
    let orders = [0, 3, 6, 8, 9, 10].map(|order| Order::new(order).unwrap());
    for order in orders {
        let frames = Machine::simple(8, 2).frames(&FramesConfig::without_reserve());
        online(frames, 2);
        let kept = frames.alloc(&pin(1), &ONE).unwrap();
        assert!(cached(frames, 1) > 0);
        let run = frames.alloc(&pin(0), &FrameRequest::order(order)).unwrap();
        frames.request_drain(cpu(1));
        // A free answers; of a single frame, one that is no quick hit.
        free(frames, 1, run, order);
        assert_eq!(cached(frames, 1), 0, "a free of order {}", order.get());
        free(frames, 1, kept, Order::FRAME);

        let kept = frames.alloc(&pin(1), &ONE).unwrap();
        frames.request_drain(cpu(1));
        let near = FrameRequest::order(order).node(NodeId::ZERO);
        let run = frames.alloc(&pin(1), &near).unwrap();
        assert_eq!(cached(frames, 1), 0, "an allocation of order {}", order.get());
        frames.request_drain(cpu(1));
        free(frames, 1, run, order);
        free(frames, 1, kept, Order::FRAME);
    }
}

/// In paranoid mode, too, where the usual paths are others.
#[test]
fn a_checked_use_of_a_word_answers() {
    let config = FramesConfig { double_frees: DoubleFrees::FoundAtOnce, ..FramesConfig::without_reserve() };
    for order in [0, 3].map(|order| Order::new(order).unwrap()) {
        let frames = Machine::simple(8, 1).frames(&config);
        online(frames, 1);
        let request = FrameRequest::order(order);
        let [first, second] = [(); 2].map(|()| frames.alloc(&pin(0), &request).unwrap());
        let held = cached(frames, 0);
        assert!(held > 0);
        frames.request_drain(cpu(0));
        free(frames, 0, first, order);
        assert!(cached(frames, 0) <= order.frames(), "{order:?}: a free of what the word has answers");
        free(frames, 0, second, order);
        // The CPU has a word again, and is asked again.
        for _ in 0..2 {
            frames.alloc(&pin(0), &request).unwrap();
        }
        let (held, before) = (cached(frames, 0), frames.cpu_stats(cpu(0)).unwrap().flushes);
        assert!(held > 0);
        frames.request_drain(cpu(0));
        frames.alloc(&pin(0), &request).unwrap();
        let flushes = frames.cpu_stats(cpu(0)).unwrap().flushes;
        assert!(flushes > before, "{order:?}: an allocation from the word answers");
    }
}

#[test]
fn a_run_of_any_length_answers() {
    let frames = Machine::simple(8, 2).frames(&FramesConfig::without_reserve());
    online(frames, 2);
    for count in [5, 600] {
        let kept = frames.alloc(&pin(1), &ONE).unwrap();
        frames.request_drain(cpu(1));
        let run = frames.alloc_run(&pin(1), &ONE, count, 1).unwrap();
        assert_eq!(cached(frames, 1), 0);
        let again = frames.alloc(&pin(1), &ONE).unwrap();
        frames.request_drain(cpu(1));
        // SAFETY: nobody uses the arena.
        unsafe { frames.free_run(&pin(1), run, count) }.unwrap();
        assert_eq!(cached(frames, 1), 0);
        [kept, again].into_iter().for_each(|first| free(frames, 1, first, Order::FRAME));
    }
}

#[test]
fn only_magazines_with_frames_of_the_zone_are_asked() {
    // 2 MiB below 16 MiB, 8 MiB above.
    let frames = Machine::new(&[(14 * MIB, 24 * MIB, 0)], &[0, 0]).frames(&FramesConfig::without_reserve());
    online(frames, 2);
    let low = ONE.zone(Zone::Dma);
    while frames.alloc(&pin(0), &low).is_ok() {}
    let kept = frames.alloc(&pin(1), &ONE).unwrap();
    assert!(cached(frames, 1) > 0);
    for _ in 0..3 {
        assert!(matches!(frames.alloc(&pin(0), &low), Err(AllocError::Exhausted { .. })));
    }
    frames.service(&pin(1));
    assert!(cached(frames, 1) > 0, "CPU 1 was asked for frames that it has not");
    free(frames, 1, kept, Order::FRAME);
}

#[test]
fn a_block_that_a_cpu_refills_from_is_asked_for_only_if_all_of_it_is_free() {
    let frames = Machine::simple(2, 2).frames(&FramesConfig::without_reserve());
    online(frames, 2);
    let kept = frames.alloc(&pin(1), &ONE).unwrap();
    // CPU 1 still owns the block, and all of it but one frame is at home.
    while frames.alloc(&pin(1), &ONE).is_ok_and(|_| cached(frames, 1) > 0) {}
    assert!(matches!(frames.alloc(&pin(0), &HUGE), Err(AllocError::Exhausted { .. })));
    free(frames, 1, kept, Order::FRAME);
}

#[test]
fn a_bind_set_is_searched_by_the_requesters_distances() {
    let node = |index| NodeId::new(index).unwrap();
    let set = NodeSet::of(node(1)).with(node(2)).with(node(3));
    let request = ONE.policy(Policy::Bind(set));
    // Node 1, the nearest of the set, is farther from node 2 than from node 3, or does not reach it.
    for from_1_to_2 in [30, 255] {
        let range = |index: u64| (16 * (index + 1) * MIB, (16 * (index + 1) + 2) * MIB, index as usize);
        let mut machine = Machine::new(&[range(0), range(1), range(2), range(3)], &[0, 1, 2, 3]);
        machine.distances = vec![
            vec![10, 12, 20, 30],
            vec![12, 10, from_1_to_2, 12],
            vec![20, from_1_to_2, 10, 12],
            vec![30, 12, 12, 10],
        ];
        machine.leaves_out = 255;
        let frames = machine.frames(&FramesConfig::without_reserve());
        online(frames, 4);
        let mut seen = Vec::new();
        let error = loop {
            match frames.alloc(&pin(0), &request) {
                Ok(first) => seen.push(frames.node_of(first).unwrap().index()),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, AllocError::Exhausted { .. }), "{error}");
        assert_eq!(seen.len(), 3 * 512);
        seen.dedup();
        assert_eq!(seen, [1, 2, 3]);
    }
}
