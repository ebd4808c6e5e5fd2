//! The frame allocator on machines of hundreds of nodes: placement beyond the first 64.
// Miri has 16 nodes, and loom four.
#![cfg(not(any(loom, miri)))]
// Helpers outside test functions fail tests by it.
#![allow(clippy::unwrap_used)]

mod frames_support;

use frames_support::{Host, MIB, Machine, cpu, node, online, pin};
use topomem_numa::MAX_NODES;
use topomem_numa::frames::{
    AllocError, FrameRequest, Frames, FramesConfig, InvalidRequest, NodeSet, Policy, Watermarks,
};
use topomem_percpu::{Order, PhysFrame};

/// The frames of each node.
const FRAMES: usize = 512;
const MANY: usize = 320;

fn set(indexes: &[usize]) -> NodeSet {
    indexes.iter().copied().map(node).collect()
}

/// Returns a machine of `nodes` nodes in a row, with 2 MiB and a CPU each; the neighbour above is nearer than that below.
fn row(nodes: usize) -> Machine {
    let start = |index: usize| (16 + 2 * index as u64) * MIB;
    let ranges: Vec<_> = (0..nodes).map(|index| (start(index), start(index + 1), index)).collect();
    let mut machine = Machine::new(&ranges, &(0..nodes).collect::<Vec<_>>());
    let distance = |from: usize, to: usize| match to.abs_diff(from) {
        0 => 10,
        apart => 12 + 2 * apart.min(120) as u8 - u8::from(to > from),
    };
    machine.distances = (0..nodes).map(|from| (0..nodes).map(|to| distance(from, to)).collect()).collect();
    machine
}

fn many() -> &'static Frames<Host> {
    let frames = row(MANY).frames(&FramesConfig::without_reserve());
    online(frames, MANY);
    frames
}

/// Returns the node of each frame that a CPU gets, and the frames, until there are none, or `most`.
fn take(frames: &Frames<Host>, cpu: usize, request: &FrameRequest, most: usize) -> Vec<(usize, PhysFrame)> {
    let taken = std::iter::from_fn(|| frames.alloc(&pin(cpu), request).ok()).take(most);
    taken.map(|taken| (frames.node_of(taken).unwrap().index(), taken)).collect()
}

fn give_back(frames: &Frames<Host>, cpu: usize, taken: Vec<(usize, PhysFrame)>) {
    for (_, first) in taken {
        // SAFETY: nobody uses the arena.
        unsafe { frames.free(&pin(cpu), first, Order::FRAME) }.unwrap();
    }
}

/// Returns how many frames are of each of `nodes`, and of none of them.
fn shares(taken: &[(usize, PhysFrame)], nodes: &[usize]) -> (Vec<usize>, usize) {
    let of = |wanted: usize| taken.iter().filter(|taken| taken.0 == wanted).count();
    let shares: Vec<usize> = nodes.iter().map(|&node| of(node)).collect();
    let others = taken.len() - shares.iter().sum::<usize>();
    (shares, others)
}

#[test]
fn each_cpu_is_served_by_its_node() {
    let frames = many();
    let before = frames.validate().unwrap();
    for index in [0, 1, 63, 64, 65, 127, 128, 255, 256, MANY - 1] {
        assert_eq!(frames.node_of_cpu(cpu(index)), node(index));
        let taken = take(frames, index, &FrameRequest::frame(), 100);
        assert_eq!(shares(&taken, &[index]), (vec![100], 0));
        // Another node's CPU frees them.
        give_back(frames, (index + 64) % MANY, taken);
        let zeroed = take(frames, index, &FrameRequest::frame().zeroed(), 1);
        assert_eq!(shares(&zeroed, &[index]), (vec![1], 0));
        give_back(frames, index, zeroed);
        let near = FrameRequest::frame().node(node(MANY - 1 - index));
        let taken = take(frames, index, &near, 10);
        assert_eq!(shares(&taken, &[MANY - 1 - index]), (vec![10], 0));
        give_back(frames, index, taken);
    }
    for index in 0..MANY {
        frames.drain(&pin(index));
    }
    assert_eq!(frames.validate().unwrap(), before);
}

#[test]
fn bound_requests_get_nothing_else_and_the_nearest_first() {
    let frames = many();
    let nodes = [3, 63, 64, 100, 255, 319];
    let bound = FrameRequest::frame().policy(Policy::Bind(set(&nodes)));
    let taken = take(frames, 70, &bound, usize::MAX);
    let mut order: Vec<usize> = taken.iter().map(|taken| taken.0).collect();
    order.dedup();
    assert_eq!(order, [64, 63, 100, 3, 255, 319]);
    assert_eq!(shares(&taken, &nodes), (vec![FRAMES; 6], 0));
    let exhausted = frames.alloc(&pin(70), &bound);
    assert!(
        matches!(exhausted, Err(AllocError::Exhausted { node, .. }) if node.index() == 64),
        "{exhausted:?}"
    );
    let other = FrameRequest::frame().policy(Policy::Bind(set(&[65])));
    assert_eq!(take(frames, 70, &other, 1)[0].0, 65);
    give_back(frames, 70, taken);
    frames.drain(&pin(70));
    assert_eq!(take(frames, 319, &bound, 1)[0].0, 319);
    // No such nodes.
    let none = frames.alloc(&pin(0), &FrameRequest::frame().policy(Policy::Bind(set(&[MANY, 1000]))));
    assert_eq!(none, Err(AllocError::InvalidRequest(InvalidRequest::NoNode)));
    let unknown = frames.alloc(&pin(0), &FrameRequest::frame().policy(Policy::Preferred(node(MANY))));
    assert_eq!(unknown, Err(AllocError::InvalidRequest(InvalidRequest::UnknownNode(node(MANY)))));
}

#[test]
fn preferred_nodes_come_first_and_then_their_neighbours() {
    let frames = many();
    for preferred in [64, 130, 250] {
        let request = FrameRequest::frame().policy(Policy::Preferred(node(preferred)));
        let taken = take(frames, 0, &request, 2 * FRAMES + 1);
        let mut order: Vec<usize> = taken.iter().map(|taken| taken.0).collect();
        order.dedup();
        assert_eq!(order, [preferred, preferred + 1, preferred - 1]);
    }
}

#[test]
fn turns_go_around_nodes_of_several_words() {
    let frames = many();
    let nodes = [0, 63, 64, 65, 190, 319];
    let even = FrameRequest::frame().policy(Policy::Interleave(set(&nodes)));
    let taken = take(frames, 7, &even, 600);
    assert_eq!(shares(&taken, &nodes), (vec![100; 6], 0));
    // Sets that differ in a far node only have turns of their own.
    let [one, other] = [set(&[0, 200]), set(&[0, 201])].map(Policy::Interleave);
    let [mut on_200, mut on_201] = [0, 0];
    for _ in 0..40 {
        on_200 += shares(&take(frames, 9, &FrameRequest::frame().policy(one), 1), &[200]).0[0];
        on_201 += shares(&take(frames, 9, &FrameRequest::frame().policy(other), 1), &[201]).0[0];
    }
    assert_eq!((on_200, on_201), (20, 20));
    let all = take(frames, 8, &FrameRequest::frame().policy(Policy::Interleave(NodeSet::ALL)), MANY);
    assert_eq!(shares(&all, &(0..MANY).collect::<Vec<_>>()), (vec![1; MANY], 0));
    let by_number = |number| frames.interleaved(&Policy::Interleave(set(&nodes)), number).unwrap().index();
    assert_eq!([0, 1, 2, 3, 4, 5, 6].map(by_number), [0, 63, 64, 65, 190, 319, 0]);
}

#[test]
fn weights_count_beyond_the_first_word() {
    let mut machine = row(MANY);
    machine.weights = vec![None; MANY];
    for (index, weight) in [(1, 8_000), (64, 16_000), (128, 32_000), (300, 8_000)] {
        machine.weights[index] = Some(weight);
    }
    let frames = machine.frames(&FramesConfig::without_reserve());
    online(frames, 2);
    let nodes = [1, 64, 128, 300];
    let policy = Policy::WeightedInterleave(set(&nodes));
    let taken = take(frames, 0, &FrameRequest::frame().policy(policy), 160);
    assert_eq!(shares(&taken, &nodes), (vec![20, 40, 80, 20], 0));
    let mut by_number = [0; 4];
    for number in 0..80 {
        let chosen = frames.interleaved(&policy, number).unwrap().index();
        by_number[nodes.iter().position(|&node| node == chosen).unwrap()] += 1;
    }
    assert_eq!(by_number, [10, 20, 40, 10]);
}

#[test]
fn pressure_names_the_nodes() {
    let mut config = FramesConfig::without_reserve();
    let marks = Watermarks { min: 10, low: 100, high: 200 };
    config.watermarks = topomem_numa::frames::ZoneWatermarks::Frames(marks);
    let frames = row(MANY).frames(&config);
    online(frames, MANY);
    let pressed = [5, 64, 127, 300];
    for &index in &pressed {
        assert!(!frames.take_pressure_due());
        let bound = FrameRequest::frame().policy(Policy::Bind(set(&[index])));
        assert!(!take(frames, 0, &bound, 450).is_empty());
        assert!(frames.is_pressed() && frames.take_pressure_due(), "node {index}");
    }
    let reclaimed = frames.reclaim(&pin(0), || None).unwrap();
    assert_eq!(reclaimed.nodes, set(&pressed));
    assert!(!frames.is_pressed());
    assert_eq!(frames.reclaim(&pin(0), || None), None);
}

/// As many nodes as there can be.
#[test]
fn the_last_node() {
    let frames = row(MAX_NODES).frames(&FramesConfig::without_reserve());
    let last = MAX_NODES - 1;
    for index in [0, 64, last] {
        frames.cpu_online(&pin(index)).unwrap();
        let taken = take(frames, index, &FrameRequest::frame(), FRAMES + 1);
        let beyond = if index == last { last - 1 } else { index + 1 };
        assert_eq!(shares(&taken, &[index, beyond]), (vec![FRAMES, 1], 0));
        give_back(frames, index, taken);
        frames.drain(&pin(index));
    }
    let all = take(frames, 0, &FrameRequest::frame().policy(Policy::Interleave(NodeSet::ALL)), MAX_NODES);
    assert_eq!(shares(&all, &(0..MAX_NODES).collect::<Vec<_>>()), (vec![1; MAX_NODES], 0));
    assert_eq!(frames.node_with_memory(node(last)), Some(node(last)));
    assert_eq!(frames.stats(node(last)).unwrap().all_free(), FRAMES as u64 - 1);
    frames.validate().unwrap();
}
