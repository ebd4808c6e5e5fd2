//! The arena against a plain model.

use core::ptr::NonNull;
use std::boxed::Box;
use std::vec::Vec;

use proptest::prelude::*;
use topomem_percpu::sync::atomic::AtomicPtr;

use super::super::node::{CHUNK, Node};
use super::*;

const FIRST: u64 = 1 << 20;
const COUNT: u64 = 1 << 16;

fn nodes() -> Nodes {
    let chunks: Vec<AtomicPtr<Node>> = (0..4).map(|_| AtomicPtr::new(core::ptr::null_mut())).collect();
    Nodes::new(Box::leak(chunks.into_boxed_slice()))
}

fn add_chunk(arena: &mut Arena, nodes: &Nodes) {
    let chunk: Box<[Node]> = (0..CHUNK).map(|_| Node::new()).collect();
    let first = NonNull::from(Box::leak(chunk)).cast();
    // SAFETY: the nodes are leaked, and have the next number.
    let numbers = unsafe { nodes.add_chunk(arena.chunks(), first) };
    arena.add_nodes(nodes, numbers);
}

fn arena() -> (Arena, Nodes) {
    let (mut arena, nodes) = (Arena::new(), nodes());
    add_chunk(&mut arena, &nodes);
    assert!(arena.add_addresses(&nodes, FIRST, COUNT));
    (arena, nodes)
}

#[derive(Debug, Clone)]
enum Step {
    Reserve { count: u64, huge: bool },
    Release { which: usize },
    Extend { which: usize, more: u64 },
    Split { which: usize, part: u64 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let count = prop_oneof![1u64..20, 1u64..5000];
    let step = prop_oneof![
        4 => (count, any::<bool>()).prop_map(|(count, huge)| Step::Reserve { count, huge }),
        3 => any::<usize>().prop_map(|which| Step::Release { which }),
        1 => (any::<usize>(), 1u64..600).prop_map(|(which, more)| Step::Extend { which, more }),
        1 => (any::<usize>(), 0u64..100).prop_map(|(which, part)| Step::Split { which, part }),
    ];
    prop::collection::vec(step, 1..200)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Reservations never overlap, and all addresses come back.
    #[test]
    #[cfg_attr(miri, ignore = "takes minutes; the other tests cover the unsafe code")]
    fn reservations_never_overlap(steps in steps()) {
        let (mut arena, nodes) = arena();
        let mut held: Vec<(NodeNumber, u64, u64)> = Vec::new();
        for step in steps {
            match step {
                Step::Reserve { count, huge } => {
                    let (align, end) = if huge { (512, End::Low) } else { (1, End::High) };
                    if let Ok(number) = arena.reserve(&nodes, count, align, end) {
                        let node = nodes.find(number).unwrap();
                        prop_assert_eq!((node.count(), node.start() % align), (count, 0));
                        held.push((number, node.first(), count));
                    }
                }
                Step::Release { which } if !held.is_empty() => {
                    let (number, ..) = held.swap_remove(which % held.len());
                    arena.release(&nodes, number);
                }
                Step::Extend { which, more } if !held.is_empty() => {
                    let index = which % held.len();
                    if arena.extend(&nodes, held[index].0, more) {
                        held[index].2 += more;
                    }
                }
                Step::Split { which, part } if !held.is_empty() => {
                    let index = which % held.len();
                    let (number, first, count) = held[index];
                    let kept = 1 + part % count;
                    if kept < count && let Some(rest) = arena.split(&nodes, number, kept) {
                        held[index].2 = kept;
                        held.push((rest, first + kept, count - kept));
                    }
                }
                _ => {}
            }
            prop_assert!(arena.is_consistent(&nodes, FIRST, COUNT));
            let mut places: Vec<_> = held.iter().map(|&(_, first, count)| (first, first + count)).collect();
            places.sort_unstable();
            prop_assert!(places.windows(2).all(|pair| pair[0].1 <= pair[1].0), "{:?}", places);
            for &(number, first, count) in &held {
                let node = nodes.find(number).unwrap();
                prop_assert_eq!((node.first(), node.count(), node.state()), (first, count, State::Held));
            }
            let used: u64 = held.iter().map(|&(_, _, count)| count).sum();
            prop_assert_eq!(arena.vacant(), COUNT - used);
        }
        held.into_iter().for_each(|(number, ..)| arena.release(&nodes, number));
        prop_assert!(arena.is_consistent(&nodes, FIRST, COUNT));
        prop_assert_eq!(nodes.find(arena.lowest().unwrap()).unwrap().count(), COUNT);
    }
}

#[test]
fn what_does_not_fit_changes_nothing() {
    let (mut arena, nodes) = arena();
    assert_eq!(arena.reserve(&nodes, COUNT + 1, 1, End::Low), Err(Unreserved::NoAddresses));
    let all = arena.reserve(&nodes, COUNT, 1, End::High).unwrap();
    assert_eq!(arena.reserve(&nodes, 1, 1, End::High), Err(Unreserved::NoAddresses));
    assert!(!arena.extend(&nodes, all, 1));
    arena.release(&nodes, all);
    assert_eq!(arena.vacant(), COUNT);
    assert!(arena.is_consistent(&nodes, FIRST, COUNT));
}

#[test]
fn without_spare_nodes_nothing_is_reserved() {
    let (mut arena, nodes) = arena();
    let mut held = Vec::new();
    let full = loop {
        match arena.reserve(&nodes, 2, 1, End::Low) {
            Ok(number) => held.push(number),
            Err(why) => break why,
        }
    };
    assert_eq!(full, Unreserved::NoNodes);
    assert!(held.len() > CHUNK - 4);
    add_chunk(&mut arena, &nodes);
    assert!(arena.reserve(&nodes, 2, 1, End::Low).is_ok());
    assert!(arena.is_consistent(&nodes, FIRST, COUNT));
}
