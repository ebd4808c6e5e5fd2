//! Arenas: what is handed out is aligned and disjoint, and a reset, a rewind and every failure lose nothing.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../common/mod.rs"]
mod common;

use std::alloc::Layout;
use std::ptr::NonNull;
use std::sync::atomic::Ordering;

use common::{Machine, TestHeap, all_drained, all_online, totals};
use proptest::prelude::*;
use topomem_percpu::{AllocError, Arena, Heap, StaleCheckpoint};

const MEGABYTE: usize = 1 << 20;

fn layout(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).unwrap()
}

fn live(heap: &TestHeap<'_>) -> u64 {
    totals(heap).0 + heap.large_stats().live
}

fn check_empty(machine: &Machine, heap: TestHeap<'_>) {
    heap.validate().unwrap();
    all_drained(&heap);
    assert_eq!((totals(&heap), heap.large_stats().live), ((0, 0, 0, 0), 0));
    assert_eq!(machine.refused.load(Ordering::SeqCst), 0);
    drop(heap);
    assert_eq!(machine.outstanding(), 0);
}

#[test]
fn values_live_side_by_side_until_a_reset() {
    let machine = Machine::new(1, 1, 4 * MEGABYTE);
    let heap = Heap::new(&machine, &machine);
    all_online(&heap);
    {
        let mut arena = Arena::new(&heap);
        let count = if cfg!(miri) { 200 } else { 5000 };
        let mut held = 0;
        for round in 0..3 {
            let numbers: Vec<_> = (0..count).map(|number| arena.alloc(number as u32).unwrap()).collect();
            let name = arena.alloc_bytes(b"name").unwrap();
            name[0] = b'g';
            numbers.into_iter().enumerate().for_each(|(at, number)| {
                *number += 1;
                assert_eq!(*number, at as u32 + 1);
            });
            assert_eq!(name, b"game");
            let before = arena.held_bytes();
            arena.reset();
            assert!(round == 0 || arena.held_bytes() <= held.max(64 << 10), "round {round}: {before}");
            assert_eq!(live(&heap), 1, "one chunk stays");
            held = before;
        }
        // What has no bytes, what is larger than a chunk, and what is aligned to more than one.
        arena.alloc(()).unwrap();
        assert_eq!(arena.alloc([7_u8; 30_000]).unwrap()[29_999], 7);
        assert_eq!(arena.alloc_layout(layout(1, 8192)).unwrap().addr().get() % 8192, 0);
        assert!(matches!(arena.alloc_layout(layout(1 << 40, 1)), Err(AllocError::TooLarge { .. })));
    }
    check_empty(&machine, heap);
}

#[test]
fn a_rewind_goes_back_to_its_place_and_no_other() {
    let machine = Machine::new(1, 1, MEGABYTE);
    let heap = Heap::new(&machine, &machine);
    all_online(&heap);
    {
        let (mut arena, mut other) = (Arena::new(&heap), Arena::new(&heap));
        let beginning = arena.checkpoint();
        arena.alloc_layout(layout(1000, 8)).unwrap();
        let first = arena.checkpoint();
        let given_back = arena.alloc_layout(layout(8, 8)).unwrap();
        let behind = arena.checkpoint();
        arena.alloc_layout(layout(6000, 8)).unwrap();
        let second = arena.checkpoint();
        assert_eq!(live(&heap), 2);
        assert_eq!(other.rewind(first), Err(StaleCheckpoint), "another arena's");
        arena.rewind(second).unwrap();
        arena.rewind(first).unwrap();
        assert_eq!(live(&heap), 1, "the newer chunk is the heap's");
        assert_eq!(arena.rewind(second), Err(StaleCheckpoint));
        assert_eq!(arena.rewind(behind), Err(StaleCheckpoint), "it lies ahead");
        assert_eq!(arena.alloc_layout(layout(8, 8)).unwrap(), given_back);
        arena.rewind(beginning).unwrap();
        assert_eq!((live(&heap), arena.held_bytes()), (0, 0));
        other.rewind(beginning).unwrap();
    }
    check_empty(&machine, heap);
}

#[test]
#[cfg_attr(miri, ignore = "takes minutes; the other tests run the same unsafe code")]
fn each_failure_of_the_page_source_leaves_the_arena_as_it_was() {
    let (mut failed, mut complete) = (0, false);
    for failure in 0..24 {
        for single in [true, false] {
            let machine = Machine::new(1, 1, 2 * MEGABYTE);
            let heap = Heap::new(&machine, &machine);
            let failing = if single { &machine.failing } else { &machine.allowance };
            failing.store(failure, Ordering::SeqCst);
            {
                let mut arena = Arena::new(&heap);
                let mut served = 0;
                for round in 0..2 {
                    for (number, size) in [24, 3000, 5000, 9, 40_000, 12_000, 100].into_iter().enumerate() {
                        let before = (arena.checkpoint(), arena.held_bytes(), live(&heap));
                        match arena.alloc_layout(layout(size, 8)) {
                            // SAFETY: the arena gave that many bytes.
                            Ok(memory) => unsafe {
                                memory.write_bytes(number as u8, size);
                                served += 1;
                            },
                            Err(error) => {
                                failed += 1;
                                assert_eq!(error, AllocError::OutOfMemory);
                                assert_eq!((arena.checkpoint(), arena.held_bytes(), live(&heap)), before);
                                if let Err(no_room) = arena.alloc([3_u8; 40_000]) {
                                    assert_eq!(
                                        (no_room.value[0], no_room.error),
                                        (3, AllocError::OutOfMemory)
                                    );
                                }
                            }
                        }
                    }
                    if round == 0 {
                        arena.reset();
                        assert!(live(&heap) <= 1);
                    }
                }
                complete |= served == 14 && !single;
            }
            check_empty(&machine, heap);
        }
    }
    assert!(failed > 10 && complete, "{failed}");
}

#[derive(Debug, Clone)]
enum Operation {
    Alloc {
        size: usize,
        align_log: u32,
    },
    Checkpoint,
    Rewind(usize),
    Reset,
    /// So many pages may be had from here on.
    Allow(i64),
}

fn operation() -> impl Strategy<Value = Operation> {
    let size = prop_oneof![6 => 0..200_usize, 2 => 200..5000_usize, 1 => 5000..50_000_usize];
    prop_oneof![
        12 => (size, 0..8_u32).prop_map(|(size, align_log)| Operation::Alloc { size, align_log }),
        3 => Just(Operation::Checkpoint),
        2 => (0..100_usize).prop_map(Operation::Rewind),
        1 => Just(Operation::Reset),
        1 => prop_oneof![1 => 0..5_i64, 3 => Just(-1)].prop_map(Operation::Allow),
    ]
}

/// What the arena handed out, all of whose bytes are `tag`.
#[derive(Debug, Clone, Copy)]
struct Held {
    memory: NonNull<u8>,
    size: usize,
    tag: u8,
}

impl Held {
    fn is_intact(&self) -> bool {
        // SAFETY: the arena gave that many bytes, and has not taken them back.
        let bytes = unsafe { std::slice::from_raw_parts(self.memory.as_ptr(), self.size) };
        bytes.iter().all(|&byte| byte == self.tag)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    #[cfg_attr(miri, ignore = "takes minutes; the other tests run the same unsafe code")]
    fn an_arena_agrees_with_a_model(operations in prop::collection::vec(operation(), 1..200)) {
        let machine = Machine::new(1, 1, 8 * MEGABYTE);
        let heap = Heap::new(&machine, &machine);
        {
            let mut arena = Arena::new(&heap);
            let mut model: Vec<Held> = Vec::new();
            // Places, and how much was held there.
            let mut places = Vec::new();
            for (tag, operation) in operations.into_iter().enumerate() {
                match operation {
                    Operation::Alloc { size, align_log } => {
                        let Ok(memory) = arena.alloc_layout(layout(size, 1 << align_log)) else { continue };
                        prop_assert_eq!(memory.addr().get() % (1 << align_log), 0);
                        // SAFETY: the arena gave that many bytes.
                        unsafe { memory.write_bytes(tag as u8, size) };
                        model.push(Held { memory, size, tag: tag as u8 });
                    }
                    Operation::Checkpoint => places.push((arena.checkpoint(), model.len())),
                    Operation::Rewind(which) => {
                        if !places.is_empty() {
                            let at = which % places.len();
                            prop_assert_eq!(arena.rewind(places[at].0), Ok(()));
                            model.truncate(places[at].1);
                            // Those behind it are stale.
                            places.truncate(at + 1);
                        }
                    }
                    Operation::Reset => {
                        arena.reset();
                        model.clear();
                        places.clear();
                    }
                    Operation::Allow(pages) => machine.allowance.store(pages, Ordering::SeqCst),
                }
                // Whatever overlaps overwrites.
                if tag % 16 == 0 {
                    prop_assert!(model.iter().all(Held::is_intact));
                }
            }
            prop_assert!(model.iter().all(Held::is_intact));
        }
        check_empty(&machine, heap);
    }
}
