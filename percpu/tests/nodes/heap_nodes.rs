//! The heap on machines of many nodes: each object is of its CPU's node, and goes home from any other.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "../common/mod.rs"]
mod common;

use std::alloc::Layout;
use std::ptr::NonNull;

use common::{Machine, TestHeap, become_cpu, pin};
use topomem_percpu::{Heap, MAX_NODES, NodeId, SizeClass};

/// The first and the last node, and nodes on both sides of each end of a word or page of a table.
const NODES: &[usize] =
    if cfg!(miri) { &[0, 7, 8, 15] } else { &[0, 1, 62, 63, 64, 65, 127, 128, 511, 512, 513, 1022, 1023] };
const PER_NODE: usize = if cfg!(miri) { 3 } else { 300 };

const SMALL: Layout = Layout::new::<[u64; 16]>();
const LARGE: Layout = Layout::new::<[[u8; 4096]; 9]>();

/// A machine with a CPU for each node, which has the node's number.
fn machine() -> Machine {
    Machine::new(MAX_NODES, 1, 2 << 20)
}

fn online(heap: &TestHeap<'_>) {
    for &node in NODES {
        become_cpu(node);
        heap.cpu_online(&pin()).unwrap();
    }
}

fn out(heap: &TestHeap<'_>, node: usize) -> Option<u64> {
    let class = SizeClass::of(SMALL).unwrap();
    heap.node_class_stats(NodeId::new(node).unwrap(), class).map(|stats| stats.out)
}

/// What tables take together: nodes whose numbers differ by this share a bit, or a place in a page.
const STRIDE: usize = if cfg!(miri) { 8 } else { 64 };

/// Frees each object by the CPU of another node, whose number has the same low bits.
fn free_elsewhere(heap: &TestHeap<'_>, objects: &[(usize, NonNull<u8>)], layout: Layout) {
    for &(node, object) in objects {
        let at = NODES.iter().position(|&known| known == node).unwrap();
        let mut others = NODES[at + 1..].iter().chain(&NODES[..at]);
        become_cpu(*others.find(|&&other| other % STRIDE == node % STRIDE).unwrap());
        // SAFETY: the object is live, of this layout, and freed once.
        unsafe { heap.free(object, layout).unwrap() };
    }
}

#[test]
fn objects_go_home_from_any_node() {
    let machine = machine();
    let heap = Heap::new(&machine, &machine);
    online(&heap);
    let mut objects = Vec::new();
    for &node in NODES {
        become_cpu(node);
        for _ in 0..PER_NODE {
            let object = heap.try_alloc(SMALL).unwrap();
            assert_eq!(machine.node_of(object).index(), node);
            objects.push((node, object));
        }
        assert!(out(&heap, node).unwrap() >= PER_NODE as u64);
    }
    assert_eq!(out(&heap, 2), None, "the node was not used");
    free_elsewhere(&heap, &objects, SMALL);
    for &node in NODES {
        become_cpu(node);
        heap.drain(&pin());
    }
    for &node in NODES {
        assert_eq!(out(&heap, node), Some(0), "node {node} has all its objects");
    }
    heap.validate().unwrap();
    assert_eq!(heap.stats().live_bytes, 0);
    assert_eq!(machine.outstanding() as u64, heap.stats().metadata_bytes / 4096, "slabs are left");
    drop(heap);
    assert_eq!(machine.outstanding(), 0);
}

#[test]
fn large_objects_are_kept_by_cpus_of_their_node() {
    let machine = machine();
    let heap = Heap::new(&machine, &machine);
    online(&heap);
    let mut objects = Vec::new();
    for &node in NODES {
        become_cpu(node);
        let object = heap.try_alloc(LARGE).unwrap();
        assert_eq!(machine.node_of(object).index(), node);
        objects.push((node, object));
    }
    free_elsewhere(&heap, &objects, LARGE);
    assert_eq!(heap.large_stats().cached, 0, "another node's runs are not kept");
    for &node in NODES {
        become_cpu(node);
        let object = heap.try_alloc(LARGE).unwrap();
        assert_eq!(machine.node_of(object).index(), node);
        // SAFETY: just allocated.
        unsafe { heap.free(object, LARGE).unwrap() };
    }
    let kept = NODES.iter().filter(|&&node| node < 64).count() as u64;
    assert_eq!(heap.large_stats().cached, kept, "the own node's are, of the first 64 nodes");
    drop(heap);
    assert_eq!(machine.outstanding(), 0);
}

#[test]
fn the_table_names_each_node_in_use() {
    let machine = machine();
    let heap = Heap::new(&machine, &machine);
    online(&heap);
    let last = MAX_NODES - 1;
    become_cpu(last);
    let object = heap.try_alloc(SMALL).unwrap();
    let table = heap.slabinfo().to_string();
    assert!(table.contains(&format!("node{last}: 1 slabs")), "{table}");
    assert!(!table.contains("node0:"), "{table}");
    // SAFETY: just allocated.
    unsafe { heap.free(object, SMALL).unwrap() };
}
