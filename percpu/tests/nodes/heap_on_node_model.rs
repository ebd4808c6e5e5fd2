//! Allocations on chosen nodes agree with a model.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../common/mod.rs"]
mod common;

use std::alloc::Layout;
use std::ptr::NonNull;
use std::sync::atomic::Ordering;

use allocator_api2::alloc::Allocator;
use common::{Machine, TestHeap, all_measures, all_online, become_cpu, check_empty, totals};
use proptest::prelude::*;
use topomem_percpu::{Heap, NodeId, OnNode};

const MEGABYTE: usize = 1 << 20;

fn layout(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).unwrap()
}

fn node(index: usize) -> NodeId {
    NodeId::new(index).unwrap()
}

fn free(heap: &TestHeap<'_>, memory: NonNull<u8>, layout: Layout) {
    // SAFETY: the test frees what it allocated with the layout, once.
    unsafe { heap.free(memory, layout) }.unwrap();
}

#[derive(Debug, Clone)]
enum Operation {
    Allocate { cpu: usize, node: usize, size: usize, align_log: u32 },
    Change { cpu: usize, node: usize, which: usize, size: usize, align_log: u32 },
    Free { cpu: usize, which: usize },
    PendingWork(usize),
}

fn operation() -> impl Strategy<Value = Operation> {
    let (cpu, node, which) = (0..4_usize, 0..2_usize, 0..1000_usize);
    let size = prop_oneof![4 => 0..400_usize, 2 => 400..6000_usize, 1 => 6000..50_000_usize];
    let align_log = prop_oneof![4 => Just(3), 1 => 0..9_u32];
    prop_oneof![
        4 => (cpu.clone(), node.clone(), size.clone(), align_log.clone())
            .prop_map(|(cpu, node, size, align_log)| Operation::Allocate { cpu, node, size, align_log }),
        3 => (cpu.clone(), node, which.clone(), size, align_log).prop_map(
            |(cpu, node, which, size, align_log)| Operation::Change { cpu, node, which, size, align_log }
        ),
        3 => (cpu.clone(), which).prop_map(|(cpu, which)| Operation::Free { cpu, which }),
        1 => cpu.prop_map(Operation::PendingWork),
    ]
}

/// A block of the model, all of whose bytes are `tag`.
struct Held {
    memory: NonNull<u8>,
    layout: Layout,
    tag: u8,
}

impl Held {
    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the block is the model's, with that layout; every byte was written when it was taken.
        unsafe { std::slice::from_raw_parts_mut(self.memory.as_ptr(), self.layout.size()) }
    }
}

/// Grows or shrinks a block on a node, as containers do.
fn change(on: OnNode<'_, &Machine, &Machine>, held: &Held, new: Layout) -> Option<NonNull<u8>> {
    // SAFETY: held with that layout; on success the model forgets the old block.
    let block = unsafe {
        match new.size() >= held.layout.size() {
            true => on.grow(held.memory, held.layout, new),
            false => on.shrink(held.memory, held.layout, new),
        }
    };
    block.ok().map(NonNull::cast)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 48, failure_persistence: None, ..ProptestConfig::default()
    })]

    #[test]
    #[cfg_attr(miri, ignore = "takes minutes; the other tests run the same unsafe code")]
    fn blocks_on_nodes_agree_with_a_model(
        operations in prop::collection::vec(operation(), 1..400),
        hardened in any::<bool>(),
    ) {
        let machine = Machine::new(2, 2, 8 * MEGABYTE);
        let heap = if hardened { all_measures(&machine) } else { Heap::new(&machine, &machine) };
        all_online(&heap);
        let mut model: Vec<Held> = Vec::new();
        for (tag, operation) in operations.into_iter().enumerate() {
            let tag = tag as u8;
            match operation {
                Operation::Allocate { cpu, node: on, size, align_log } => {
                    become_cpu(cpu);
                    let layout = layout(size, 1 << align_log);
                    let memory = heap.alloc_on(node(on), layout).unwrap();
                    // The nodes are large enough for all of it.
                    prop_assert!(size == 0 || machine.node_of(memory) == node(on));
                    let mut held = Held { memory, layout, tag };
                    // SAFETY: the heap gave that many bytes.
                    unsafe { memory.write_bytes(tag, size) };
                    prop_assert_eq!(held.bytes().len(), size);
                    model.push(held);
                }
                Operation::Change { cpu, node: on, which, size, align_log } => {
                    become_cpu(cpu);
                    if model.is_empty() {
                        continue;
                    }
                    let at = which % model.len();
                    let new = layout(size, 1 << align_log);
                    let old = model[at].layout;
                    let changed = change(heap.on(node(on)).unwrap(), &model[at], new).unwrap();
                    prop_assert_eq!(changed.addr().get() % new.align(), 0);
                    let moved = changed != model[at].memory && size > 0;
                    prop_assert!(!moved || machine.node_of(changed) == node(on));
                    // SAFETY: the heap gave that many bytes; the first ones were copied.
                    unsafe {
                        let kept = old.size().min(size);
                        prop_assert!((0..kept).all(|byte| changed.add(byte).read() == model[at].tag));
                        changed.write_bytes(tag, size);
                    }
                    model[at] = Held { memory: changed, layout: new, tag };
                }
                Operation::Free { cpu, which } => {
                    become_cpu(cpu);
                    if !model.is_empty() {
                        let mut held = model.swap_remove(which % model.len());
                        let tag = held.tag;
                        prop_assert!(held.bytes().iter().all(|&byte| byte == tag));
                        free(&heap, held.memory, held.layout);
                    }
                }
                Operation::PendingWork(cpu) => {
                    become_cpu(cpu);
                    heap.reclaim(&common::pin());
                    heap.run_pending_work(&common::pin());
                }
            }
        }
        let held = model.iter().filter(|held| held.layout.size() > 0).count() as u64;
        prop_assert_eq!(totals(&heap).0 + heap.large_stats().live, held);
        for mut held in model {
            let tag = held.tag;
            prop_assert!(held.bytes().iter().all(|&byte| byte == tag));
            free(&heap, held.memory, held.layout);
        }
        prop_assert_eq!(machine.refused.load(Ordering::SeqCst), 0);
        check_empty(&machine, heap, "the model");
    }
}
