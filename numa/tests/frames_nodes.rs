//! Which node serves a CPU, and in which order others do: nodes without memory, and nodes that
//! nobody reaches.
#![cfg(not(loom))]
// Helpers outside test functions fail tests by it.
#![allow(clippy::unwrap_used)]

mod frames_support;

use frames_support::{Host, MIB, Machine, cpu, online, pin};
use topomem_numa::NodeId;
use topomem_numa::frames::{FrameRequest, Frames, FramesConfig, Policy};
use topomem_percpu::Order;
use x86_64::structures::paging::PhysFrame;

fn node(index: usize) -> NodeId {
    NodeId::new(index).unwrap()
}

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
    let frames = two_of_four().frames(&FramesConfig::default());
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
    (0..5).for_each(|index| frames.cpu_offline(&pin(index)));
    assert_eq!(frames.validate().unwrap(), before);
}

#[test]
fn blocks_and_zeroed_frames_are_those_of_the_node_that_serves() {
    let mut machine = Machine::new(&[(16 * MIB, 80 * MIB, 1)], &[0]);
    machine.distances = vec![vec![10, 20], vec![20, 10]];
    let frames = machine.frames(&FramesConfig::default());
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
    let frames = machine.frames(&FramesConfig::default());
    online(frames, 1);
    let taken = std::iter::from_fn(|| frames.alloc(&pin(0), &FrameRequest::frame()).ok());
    let mut order: Vec<usize> = taken.map(|taken| frames.node_of(taken).unwrap().index()).collect();
    assert_eq!(order.len(), 3 * 512);
    order.dedup();
    assert_eq!(order, [0, 3, 2]);
}

/// A ground may leave nodes out of its order of distance; their memory is found all the same.
#[test]
fn nodes_left_out_of_the_order_come_last() {
    let mut machine = Machine::new(&[(16 * MIB, 18 * MIB, 1), (32 * MIB, 34 * MIB, 2)], &[0]);
    machine.distances = vec![vec![10, 255, 255], vec![20, 10, 255], vec![20, 20, 10]];
    machine.leaves_out = 255;
    let frames = machine.frames(&FramesConfig::default());
    online(frames, 1);
    assert_eq!(frames.node_of_cpu(cpu(0)), node(1));
    let request = FrameRequest::frame().policy(Policy::Preferred(node(0)));
    assert_eq!(std::iter::from_fn(|| frames.alloc(&pin(0), &request).ok()).count(), 2 * 512);
}
