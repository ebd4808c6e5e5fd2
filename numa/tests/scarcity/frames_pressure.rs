//! The reserve below the minimum watermark, and reclaim from the low watermark up to the high one.
// These fill memory, which takes Miri minutes; what is unsafe runs in frames_basic.
#![cfg(not(any(loom, miri)))]
// Helpers outside test functions fail tests by it.
#![allow(clippy::unwrap_used)]

#[path = "../frames/frames_support/mod.rs"]
mod frames_support;

use frames_support::{Host, MIB, Machine, cpu, node, online, pin};
use topomem_numa::frames::{
    AllocError, FrameRequest, Frames, FramesConfig, NodeSet, Policy, Pressure, Watermarks, ZeroedFrames,
    ZoneWatermarks,
};
use topomem_percpu::{CpuSet, Order, PhysFrame};

const MARKS: Watermarks = Watermarks { min: 100, low: 200, high: 300 };

fn config() -> FramesConfig {
    FramesConfig {
        watermarks: ZoneWatermarks::Frames(MARKS),
        zeroed: ZeroedFrames::Frames(0),
        ..FramesConfig::default()
    }
}

/// Two nodes of 8 MiB, CPUs 0 and 1 on node 0, CPU 2 on node 1.
fn two_nodes() -> &'static Frames<Host> {
    let machine = Machine::new(&[(16 * MIB, 24 * MIB, 0), (24 * MIB, 32 * MIB, 1)], &[0, 0, 1]);
    let frames = machine.frames(&config());
    online(frames, 3);
    frames
}

fn on(index: usize) -> FrameRequest {
    FrameRequest::frame().policy(Policy::Bind(NodeSet::of(node(index))))
}

/// What is free of a node at home.
fn home(frames: &Frames<Host>, index: usize) -> u64 {
    frames.stats(node(index)).unwrap().free()
}

fn take_all(frames: &Frames<Host>, by: usize, request: &FrameRequest) -> Vec<PhysFrame> {
    std::iter::from_fn(|| frames.alloc(&pin(by), request).ok()).collect()
}

fn give(frames: &Frames<Host>, by: usize, taken: impl IntoIterator<Item = PhysFrame>) {
    for frame in taken {
        // SAFETY: nobody uses the arena.
        unsafe { frames.free(&pin(by), frame, Order::FRAME) }.unwrap();
    }
}

/// Calls `reclaim` as a service task does, as long as a node is under pressure. Returns how often that was.
fn passes(frames: &Frames<Host>) -> usize {
    (0..1000).take_while(|_| frames.reclaim(&pin(0), || None).is_some()).count()
}

#[test]
fn ordinary_requests_leave_the_reserve_of_each_node_and_entitled_ones_use_it() {
    let frames = two_nodes();
    for (by, index) in [(0, 0), (2, 1)] {
        let taken = take_all(frames, by, &on(index));
        assert_eq!(taken.len() as u64, 2048 - MARKS.min);
        assert_eq!(home(frames, index), MARKS.min);
        assert!(matches!(frames.alloc(&pin(by), &on(index)), Err(AllocError::Exhausted { .. })));
        assert_eq!(frames.stats(node(index)).unwrap().pressure, Pressure::Critical);
    }
    let unbound = frames.alloc(&pin(0), &FrameRequest::frame());
    assert!(matches!(unbound, Err(AllocError::Exhausted { .. })), "no node may be used up: {unbound:?}");
    for order in [Order::FRAME, Order::new(3).unwrap(), Order::new(6).unwrap()] {
        let run = frames.alloc(&pin(0), &FrameRequest::order(order));
        assert!(matches!(run, Err(AllocError::Exhausted { .. })), "{run:?}");
        let run = frames.alloc_run(&pin(0), &FrameRequest::frame(), order.frames(), 1);
        assert!(matches!(run, Err(AllocError::Exhausted { .. })), "{run:?}");
    }
    let reserve = take_all(frames, 0, &FrameRequest::frame().emergency());
    assert_eq!(reserve.len() as u64, 2 * MARKS.min, "the last frame of both nodes");
    frames.validate().unwrap();
}

#[test]
fn what_an_entitled_request_takes_brings_no_more_of_the_reserve_to_others() {
    let frames = two_nodes();
    let mut taken = take_all(frames, 0, &on(0));
    let entitled = frames.alloc(&pin(0), &FrameRequest::frame().emergency()).unwrap();
    assert_eq!(
        frames.node_of(entitled),
        Some(node(0)),
        "the own node's reserve before another node's memory"
    );
    assert_eq!(frames.cpu_stats(cpu(0)).unwrap().cached, 0, "the magazine has none of the reserve");
    assert_eq!(home(frames, 0), MARKS.min - 1);
    assert!(frames.alloc(&pin(0), &on(0)).is_err());
    // As soon as there is one more than the reserve, it can be had.
    give(frames, 0, [entitled]);
    frames.drain(&pin(0));
    assert!(frames.alloc(&pin(0), &on(0)).is_err());
    give(frames, 0, taken.pop());
    assert!(frames.alloc(&pin(0), &on(0)).is_ok());
}

#[test]
fn magazines_do_not_refill_near_the_watermark() {
    let frames = two_nodes();
    let high = 2048 - MARKS.low - 2 * 64;
    let plain = FrameRequest::frame();
    let taken: Vec<_> = (0..high).map(|_| frames.alloc(&pin(0), &plain).unwrap()).collect();
    let refills = frames.cpu_stats(cpu(0)).unwrap().refills;
    assert!(refills >= 20, "{refills}");
    let more: Vec<_> = (0..300).map(|_| frames.alloc(&pin(0), &plain).unwrap()).collect();
    assert!(frames.cpu_stats(cpu(0)).unwrap().refills <= refills + 1);
    give(frames, 0, taken.into_iter().chain(more));
}

#[test]
fn the_low_watermark_is_noted_once_and_reclaim_goes_up_to_the_high_one() {
    let frames = two_nodes();
    // CPU 1 of the same node has frames in its magazine, and CPU 2 of the other.
    for by in [1, 2] {
        let taken: Vec<_> =
            (0..60).map(|_| frames.alloc(&pin(by), &FrameRequest::frame()).unwrap()).collect();
        give(frames, by, taken);
    }
    let held = frames.cpu_stats(cpu(1)).unwrap().cached;
    assert!(held >= 60);
    let mut taken = Vec::new();
    while home(frames, 0) > MARKS.low {
        assert!(!frames.is_pressed() && !frames.pressure_due());
        taken.push(frames.alloc(&pin(0), &on(0)).unwrap());
    }
    assert!(!frames.take_pressure_due());
    taken.push(frames.alloc(&pin(0), &on(0)).unwrap());
    assert!(frames.is_pressed() && frames.pressure_due());
    assert!(frames.take_pressure_due());
    assert!(!frames.take_pressure_due(), "one task is enough");
    // The caller has kept 70 frames in one place, and 150 in another.
    let mut kept = vec![taken.split_off(taken.len() - 150), taken.split_off(taken.len() - 70)];
    let mut steps = 0;
    let done = frames
        .reclaim(&pin(0), || {
            let frees = kept.pop()?;
            steps += 1;
            let freed = frees.len() as u64;
            give(frames, 0, frees);
            frames.drain(&pin(0));
            Some(freed)
        })
        .unwrap();
    assert_eq!(
        (done.nodes, done.asked),
        (NodeSet::of(node(0)), CpuSet::of(cpu(1))),
        "not the other node's CPU"
    );
    assert_eq!((steps, done.freed), (2, 220), "70 do not suffice");
    assert!(home(frames, 0) >= MARKS.high);
    frames.service(&pin(1));
    assert_eq!(frames.cpu_stats(cpu(1)).unwrap().cached, 0);
    assert_ne!(frames.cpu_stats(cpu(2)).unwrap().cached, 0);
    assert!(!frames.is_pressed());
}

#[test]
fn reclaim_stops_as_soon_as_the_high_watermark_is_reached() {
    let frames = two_nodes();
    let mut taken = take_all(frames, 0, &on(0));
    assert!(frames.is_pressed());
    let mut steps = 0;
    let done = frames.reclaim(&pin(0), || {
        steps += 1;
        let frees = taken.split_off(taken.len() - 50);
        give(frames, 0, frees);
        frames.drain(&pin(0));
        Some(50)
    });
    assert_eq!((steps, done.unwrap().freed), (4, 200));
    assert_eq!(home(frames, 0), MARKS.high);
}

#[test]
fn pools_of_zeroed_frames_go_home_under_pressure() {
    let machine = Machine::new(&[(16 * MIB, 24 * MIB, 0)], &[0]);
    let frames = machine.frames(&FramesConfig { zeroed: ZeroedFrames::Frames(40), ..config() });
    online(frames, 1);
    while frames.refill_zeroed(&pin(0), 8) > 0 {}
    let mut taken = Vec::new();
    while !frames.is_pressed() {
        taken.push(frames.alloc(&pin(0), &FrameRequest::frame()).unwrap());
    }
    assert_eq!(frames.stats(node(0)).unwrap().zeroed.frames, 40);
    assert!(frames.reclaim(&pin(0), || None).unwrap().freed >= 40);
    assert_eq!(frames.stats(node(0)).unwrap().zeroed.frames, 0);
}

/// What nobody can reclaim costs a few attempts: neither allocations that go on nor requests that fail make a service
/// task loop.
#[test]
fn reclaim_in_vain_is_not_repeated_for_ever() {
    let frames = two_nodes();
    let entitled = on(0).emergency();
    let (mut taken, mut count) = (Vec::new(), 0);
    while let Ok(frame) = frames.alloc(&pin(0), &entitled) {
        taken.push(frame);
        count += passes(frames);
    }
    assert_eq!(taken.len(), 2048);
    assert!((2..=8).contains(&count), "{count} passes: at 200, 100, 50, … frames");
    count = 0;
    for _ in 0..1000 {
        assert!(frames.alloc(&pin(0), &on(0)).is_err());
        count += passes(frames);
    }
    assert!((1..=10).contains(&count), "{count} passes: at refusals 1, 2, 4, 8, …");
    // When memory has come back, the first alarm is at the low watermark again.
    give(frames, 0, taken.drain(..));
    frames.drain(&pin(0));
    while home(frames, 0) > MARKS.low {
        taken.push(frames.alloc(&pin(0), &on(0)).unwrap());
    }
    assert!(!frames.is_pressed());
    taken.push(frames.alloc(&pin(0), &on(0)).unwrap());
    assert!(frames.is_pressed());
}

#[test]
fn the_default_reserve_is_in_proportion() {
    let machine = Machine::new(&[(16 * MIB, 80 * MIB, 0), (80 * MIB, 272 * MIB, 1)], &[0, 1]);
    let frames = machine.frames(&FramesConfig::default());
    online(frames, 2);
    // 4 * sqrt(256 * 1024) KiB are 2 MiB, a quarter of which is node 0's.
    let taken = take_all(frames, 0, &on(0));
    assert_eq!(taken.len() as u64, 16_384 - 128);
    assert_eq!(take_all(frames, 0, &on(0).emergency()).len(), 128);
}

#[test]
fn without_a_reserve_nothing_is_noted_and_the_last_frame_can_be_had() {
    let machine = Machine::new(&[(16 * MIB, 24 * MIB, 0)], &[0]);
    let frames = machine.frames(&FramesConfig::without_reserve());
    online(frames, 1);
    assert_eq!(take_all(frames, 0, &FrameRequest::frame()).len(), 2048);
    assert!(!frames.is_pressed() && !frames.pressure_due());
    assert_eq!(frames.reclaim(&pin(0), || unreachable!("nobody asked")), None);
}
