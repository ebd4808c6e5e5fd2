//! Where frames come from: nodes by distance, policies, zones.

use topomem_numa::frames::{AllocError, FrameRequest, NodeSet, Policy, Zone};
use topomem_percpu::Order;

use super::{free, node, plain, take_all};
use crate::frames_support::{MIB, Machine, frame, online, pin};

#[test]
#[cfg_attr(miri, ignore = "takes thousands of frames, by no unsafe code that the other tests do not run")]
fn farther_nodes_serve_strictly_by_distance_and_only_when_nearer_ones_are_exhausted() {
    let mut machine = Machine::new(
        &[(16 * MIB, 20 * MIB, 0), (32 * MIB, 36 * MIB, 1), (48 * MIB, 52 * MIB, 2)],
        &[0, 1, 2],
    );
    machine.distances = vec![vec![10, 30, 20], vec![30, 10, 20], vec![20, 25, 10]];
    let frames = machine.frames(&plain());
    online(frames, 3);
    let nodes: Vec<usize> = std::iter::from_fn(|| frames.alloc(&pin(0), &FrameRequest::frame()).ok())
        .map(|first| frames.node_of(first).unwrap().index())
        .collect();
    let expected: Vec<usize> = [0, 2, 1].into_iter().flat_map(|node| vec![node; 1024]).collect();
    assert_eq!(nodes, expected);
    let foreign = frames.stats(node(0)).unwrap();
    assert_eq!((foreign.local, foreign.remote, foreign.foreign), (1024, 0, 2048));
    assert_eq!(frames.stats(node(2)).unwrap().remote, 1024);
    assert_eq!(frames.cpu_stats(crate::frames_support::cpu(0)).unwrap().remote, 2048);
    // Freed frames go home: whoever asks for one of node 1 gets it there.
    free(frames, frame(32 * 256 + 5), Order::FRAME).unwrap();
    free(frames, frame(16 * 256 + 5), Order::FRAME).unwrap();
    assert_eq!(frames.alloc(&pin(0), &FrameRequest::frame()), Ok(frame(16 * 256 + 5)));
    let bound = FrameRequest::frame().policy(Policy::Bind(NodeSet::of(node(1))));
    assert_eq!(frames.alloc(&pin(0), &bound), Ok(frame(32 * 256 + 5)));
    assert!(matches!(frames.alloc(&pin(0), &bound), Err(AllocError::Exhausted { .. })));
    frames.validate().unwrap();
}

#[test]
fn policies_place_frames() {
    let mut machine = Machine::new(
        &[(16 * MIB, 24 * MIB, 0), (32 * MIB, 40 * MIB, 1), (48 * MIB, 56 * MIB, 2)],
        &[0, 1, 2],
    );
    machine.weights = vec![Some(20_000), Some(10_000), Some(10_000)];
    let frames = machine.frames(&plain());
    online(frames, 3);
    let place = |request: &FrameRequest| {
        let first = frames.alloc(&pin(0), request).unwrap();
        frames.node_of(first).unwrap().index()
    };
    let set = NodeSet::of(node(0)).with(node(2));
    assert_eq!(place(&FrameRequest::frame().policy(Policy::Preferred(node(2)))), 2);
    assert_eq!(place(&FrameRequest::frame().node(node(1))), 1);
    let mut turns = [0; 3];
    (0..30).for_each(|_| turns[place(&FrameRequest::frame().policy(Policy::Interleave(set)))] += 1);
    assert_eq!(turns, [15, 0, 15]);
    let mut turns = [0; 3];
    (0..40).for_each(|_| {
        turns[place(&FrameRequest::frame().policy(Policy::WeightedInterleave(NodeSet::ALL)))] += 1;
    });
    assert_eq!(turns, [20, 10, 10]);
    let nowhere = FrameRequest::frame().policy(Policy::Bind(NodeSet::of(node(9))));
    assert!(matches!(frames.alloc(&pin(0), &nowhere), Err(AllocError::InvalidRequest(_))));
    frames.validate().unwrap();
}

#[test]
#[cfg_attr(miri, ignore = "takes thousands of frames, by no unsafe code that the other tests do not run")]
fn zones_fall_back_downwards_only() {
    let mut config = plain();
    config.zones.dma_end = topomem_percpu::PhysAddr::new(18 * MIB);
    config.zones.dma32_end = topomem_percpu::PhysAddr::new(22 * MIB);
    let frames = Machine::simple(8, 1).frames(&config);
    online(frames, 1);
    let low = frames.alloc(&pin(0), &FrameRequest::frame().zone(Zone::Dma)).unwrap();
    assert_eq!(frames.zone_of(low), Some(Zone::Dma));
    let all = take_all(frames, Order::FRAME);
    let zones: Vec<_> = all.iter().map(|&first| frames.zone_of(first).unwrap()).collect();
    assert!(zones.windows(2).all(|pair| pair[0] >= pair[1]), "highest zone first");
    assert_eq!(zones.len(), 2047);
    let normal = all.into_iter().find(|&first| frames.zone_of(first) == Some(Zone::Normal)).unwrap();
    free(frames, normal, Order::FRAME).unwrap();
    assert!(matches!(
        frames.alloc(&pin(0), &FrameRequest::frame().zone(Zone::Dma32)),
        Err(AllocError::Exhausted { zone: Zone::Dma32, .. })
    ));
    frames.validate().unwrap();
}
