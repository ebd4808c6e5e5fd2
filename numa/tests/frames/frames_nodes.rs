//! Which node serves a CPU, and in which order others do: nodes without memory, and nodes that
//! nobody reaches.
// These fill memory, which takes Miri minutes; what is unsafe runs in frames_basic.
#![cfg(not(any(loom, miri)))]
// Helpers outside test functions fail tests by it.
#![allow(clippy::unwrap_used)]

mod frames_support;

use frames_support::{Host, MIB, Machine, cpu, node, online, pin};
use topomem_numa::frames::{Drained, FrameRequest, Frames, FramesConfig, NodeSet, Policy, Zone};
use topomem_percpu::{Order, PhysAddr, PhysFrame};

fn free(frames: &Frames<Host>, index: usize, first: PhysFrame, order: Order) {
    // SAFETY: nobody uses the arena.
    unsafe { frames.free(&pin(index), first, order) }.unwrap();
}

/// Node 0 and 2 have memory, 1 and 3 have none: 1 is nearer to 2, and 3 to 0.
fn two_of_four() -> Machine {
    let mut machine = Machine::new(&[(16 * MIB, 24 * MIB, 0), (32 * MIB, 40 * MIB, 2)], &[0, 1, 2, 3, 3]);
    machine.distances =
        vec![vec![10, 20, 30, 20], vec![30, 10, 20, 20], vec![30, 20, 10, 20], vec![20, 15, 30, 10]];
    machine
}

#[test]
fn a_cpu_without_memory_works_on_the_nearest_node_that_has_some() {
    let frames = two_of_four().frames(&FramesConfig::without_reserve());
    let nodes: Vec<usize> = (0..5).map(|index| frames.node_of_cpu(cpu(index)).index()).collect();
    assert_eq!(nodes, [0, 2, 2, 0, 0]);
    // A CPU that the topology does not name works as node 0's.
    assert_eq!(frames.node_of_cpu(cpu(9)), node(0));
    online(frames, 5);
    let before = frames.validate().unwrap();
    for (index, &home) in nodes.iter().enumerate() {
        for _ in 0..1000 {
            let taken = frames.alloc(&pin(index), &FrameRequest::frame()).unwrap();
            assert_eq!(frames.node_of(taken), Some(node(home)));
            free(frames, index, taken, Order::FRAME);
        }
        let stats = frames.cpu_stats(cpu(index)).unwrap();
        assert_eq!((stats.misses, stats.remote), (1, 0), "CPU {index}: {stats:?}");
    }
    (0..5).for_each(|index| assert_eq!(frames.cpu_offline(&pin(index)), Drained::Everything));
    assert_eq!(frames.validate().unwrap(), before);
}

#[test]
fn blocks_and_zeroed_frames_are_those_of_the_node_that_serves() {
    let mut machine = Machine::new(&[(16 * MIB, 80 * MIB, 1)], &[0]);
    machine.distances = vec![vec![10, 20], vec![20, 10]];
    let frames = machine.frames(&FramesConfig::without_reserve());
    online(frames, 1);
    let block = frames.alloc(&pin(0), &FrameRequest::order(Order::HUGE)).unwrap();
    free(frames, 0, block, Order::HUGE);
    assert_eq!(frames.alloc(&pin(0), &FrameRequest::order(Order::HUGE)), Ok(block), "held back by the CPU");
    assert_eq!(frames.cpu_stats(cpu(0)).unwrap().cached, 0);
    assert_eq!(frames.refill_zeroed(&pin(0), 4), 4);
    frames.alloc(&pin(0), &FrameRequest::frame().zeroed()).unwrap();
    assert_eq!(frames.stats(node(1)).unwrap().zeroed.hits, 1);
}

/// Node 1 has no memory, and its own order of distance counts, not that of the node that serves it.
#[test]
fn beyond_the_serving_node_distance_from_the_own_one_counts() {
    let ranges = [(16 * MIB, 18 * MIB, 0), (32 * MIB, 34 * MIB, 2), (48 * MIB, 50 * MIB, 3)];
    let mut machine = Machine::new(&ranges, &[1]);
    machine.distances =
        vec![vec![10, 15, 20, 40], vec![15, 10, 30, 20], vec![20, 30, 10, 20], vec![40, 20, 20, 10]];
    let frames = machine.frames(&FramesConfig::without_reserve());
    online(frames, 1);
    let taken = std::iter::from_fn(|| frames.alloc(&pin(0), &FrameRequest::frame()).ok());
    let mut order: Vec<usize> = taken.map(|taken| frames.node_of(taken).unwrap().index()).collect();
    assert_eq!(order.len(), 3 * 512);
    order.dedup();
    assert_eq!(order, [0, 3, 2]);
}

/// Boot memory may leave nodes out of its order of distance; their memory is found all the same.
#[test]
fn nodes_left_out_of_the_order_come_last() {
    let mut machine = Machine::new(&[(16 * MIB, 18 * MIB, 1), (32 * MIB, 34 * MIB, 2)], &[0]);
    machine.distances = vec![vec![10, 255, 255], vec![20, 10, 255], vec![20, 20, 10]];
    machine.leaves_out = 255;
    let frames = machine.frames(&FramesConfig::without_reserve());
    online(frames, 1);
    assert_eq!(frames.node_of_cpu(cpu(0)), node(1));
    let request = FrameRequest::frame().policy(Policy::Preferred(node(0)));
    assert_eq!(std::iter::from_fn(|| frames.alloc(&pin(0), &request).ok()).count(), 2 * 512);
}

/// Frames that `count` requests by `policy` get from each node.
fn shares(frames: &Frames<Host>, nodes: usize, count: usize, request: &FrameRequest) -> Vec<usize> {
    let mut shares = vec![0; nodes];
    for _ in 0..count {
        let taken = frames.alloc(&pin(0), request).unwrap();
        shares[frames.node_of(taken).unwrap().index()] += 1;
    }
    shares
}

fn three_nodes(weights: &[Option<u32>]) -> Machine {
    let ranges = [(16 * MIB, 24 * MIB, 0), (32 * MIB, 40 * MIB, 1), (48 * MIB, 56 * MIB, 2)];
    let mut machine = Machine::new(&ranges, &[0, 1, 2]);
    machine.weights = weights.to_vec();
    machine
}

#[test]
fn a_node_of_unknown_bandwidth_weighs_as_the_slowest() {
    let weighted = FrameRequest::frame().policy(Policy::WeightedInterleave(NodeSet::ALL));
    let frames = three_nodes(&[Some(32_000), None, Some(16_000)]).frames(&FramesConfig::without_reserve());
    online(frames, 3);
    assert_eq!(shares(frames, 3, 100, &weighted), [50, 25, 25]);
    let frames = three_nodes(&[]).frames(&FramesConfig::without_reserve());
    online(frames, 3);
    assert_eq!(shares(frames, 3, 99, &weighted), [33, 33, 33]);
}

/// A turn of a node without memory would be its neighbour's.
#[test]
fn nodes_without_memory_have_no_turn() {
    let mut machine = Machine::new(&[(16 * MIB, 24 * MIB, 0), (32 * MIB, 40 * MIB, 1)], &[0, 0, 2]);
    machine.weights = vec![Some(32_000), Some(8_000), None];
    machine.distances = vec![vec![10, 20, 20], vec![20, 10, 15], vec![20, 15, 10]];
    let frames = machine.frames(&FramesConfig::without_reserve());
    online(frames, 3);
    let weighted = FrameRequest::frame().policy(Policy::WeightedInterleave(NodeSet::ALL));
    assert_eq!(shares(frames, 3, 100, &weighted), [80, 20, 0]);
    let even = FrameRequest::frame().policy(Policy::Interleave(NodeSet::ALL));
    assert_eq!(shares(frames, 3, 100, &even), [50, 50, 0]);
    // None of the set has any: the nearest node.
    let alone = FrameRequest::frame().policy(Policy::Interleave(NodeSet::of(node(2))));
    assert_eq!(shares(frames, 3, 10, &alone), [0, 10, 0]);
}

/// Node 2's memory is above what the requests allow, so node 1, its neighbour, must not get its
/// turns.
#[test]
fn nodes_without_memory_for_the_request_have_no_turn() {
    let mut machine = three_nodes(&[]);
    machine.distances = vec![vec![10, 20, 20], vec![20, 10, 15], vec![20, 15, 10]];
    let mut config = FramesConfig::without_reserve();
    config.zones.dma32_end = PhysAddr::new(40 * MIB);
    let frames = machine.frames(&config);
    online(frames, 3);
    let even = FrameRequest::frame().policy(Policy::Interleave(NodeSet::ALL));
    assert_eq!(shares(frames, 3, 100, &even.zone(Zone::Dma32)), [50, 50, 0]);
    assert_eq!(shares(frames, 3, 100, &even.below(PhysAddr::new(40 * MIB))), [50, 50, 0]);
}

#[test]
fn users_of_different_sets_do_not_take_each_others_turns() {
    let frames = three_nodes(&[]).frames(&FramesConfig::without_reserve());
    online(frames, 3);
    let two = FrameRequest::frame().policy(Policy::Interleave(NodeSet::of(node(0)).with(node(1))));
    let all = FrameRequest::frame().policy(Policy::Interleave(NodeSet::ALL));
    let (mut of_two, mut of_all) = ([0; 3], [0; 3]);
    for _ in 0..60 {
        for (request, shares) in [(&two, &mut of_two), (&all, &mut of_all)] {
            let taken = frames.alloc(&pin(0), request).unwrap();
            shares[frames.node_of(taken).unwrap().index()] += 1;
        }
    }
    assert_eq!((of_two, of_all), ([30, 30, 0], [20, 20, 20]));
    // Nor do two users of one set.
    let (mut first, mut second) = (0, 0);
    for _ in 0..100 {
        for on_0 in [&mut first, &mut second] {
            let taken = frames.alloc(&pin(0), &two).unwrap();
            *on_0 += usize::from(frames.node_of(taken) == Some(node(0)));
        }
    }
    assert!((30..70).contains(&first) && (30..70).contains(&second), "{first} and {second} of 100");
}

/// The memory map may cut one node's memory anywhere: a run may lie in two pieces.
#[test]
fn a_run_across_pieces_that_touch_is_freed() {
    let ranges = [(16 * MIB, 17 * MIB, 0), (17 * MIB, 18 * MIB, 0), (18 * MIB, 20 * MIB, 0)];
    let frames = Machine::new(&ranges, &[0]).frames(&FramesConfig::without_reserve());
    let before = frames.validate().unwrap();
    let run = frames.alloc_run(&pin(0), &FrameRequest::frame(), 300, 1).unwrap();
    // SAFETY: nobody uses the arena.
    unsafe { frames.free_run(&pin(0), run, 300) }.unwrap();
    // The cut block is whole all the same.
    let blocks: Vec<_> =
        std::iter::from_fn(|| frames.alloc(&pin(0), &FrameRequest::order(Order::HUGE)).ok()).collect();
    assert_eq!(blocks.len(), 2);
    blocks.into_iter().for_each(|first| free(frames, 0, first, Order::HUGE));
    frames.drain(&pin(0));
    assert_eq!(frames.validate().unwrap(), before);
}
