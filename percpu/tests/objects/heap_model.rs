//! Random operation logs, run on the heap and on a plain model: they must agree.
#![cfg(not(any(loom, miri)))]
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../common/mod.rs"]
mod common;

use std::alloc::Layout;
use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::atomic::Ordering;

use common::{Machine, all_drained, become_cpu, pin, totals};
use proptest::prelude::*;
use topomem_percpu::SizeClass;

const NODES: usize = 3;
const CPUS: usize = 6;

#[derive(Debug, Clone)]
enum Operation {
    Alloc { cpu: usize, size: usize, align_log: u32, zeroed: bool },
    Free { cpu: usize, which: usize },
    Realloc { cpu: usize, which: usize, size: usize },
    Online(usize),
    Offline(usize),
    Drain(usize),
}

fn size() -> impl Strategy<Value = usize> {
    prop_oneof![6 => 0usize..300, 2 => 300usize..5000, 1 => 5000usize..60_000, 1 => 60_000usize..270_000]
}

fn operation() -> impl Strategy<Value = Operation> {
    let (cpu, which) = (0..CPUS, 0usize..1000);
    prop_oneof![
        8 => (cpu.clone(), size(), 0u32..14, any::<bool>())
            .prop_map(|(cpu, size, align_log, zeroed)| Operation::Alloc { cpu, size, align_log, zeroed }),
        6 => (cpu.clone(), which.clone()).prop_map(|(cpu, which)| Operation::Free { cpu, which }),
        2 => (cpu.clone(), which, size())
            .prop_map(|(cpu, which, size)| Operation::Realloc { cpu, which, size }),
        1 => cpu.clone().prop_map(Operation::Online),
        1 => cpu.clone().prop_map(Operation::Offline),
        1 => cpu.prop_map(Operation::Drain),
    ]
}

/// The model: what is held, by address, with the byte that fills it.
struct Held {
    layout: Layout,
    tag: u8,
}

fn check_and_fill(memory: NonNull<u8>, held: &Held, checked: usize) {
    // SAFETY: the heap gave that many bytes, which the model holds until it frees them.
    let bytes = unsafe { std::slice::from_raw_parts_mut(memory.as_ptr(), held.layout.size()) };
    assert!(bytes[..checked].iter().all(|&byte| byte == held.tag));
    bytes.fill(held.tag);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_heap_agrees_with_the_model(
        hardened in any::<bool>(),
        operations in prop::collection::vec(operation(), 1..600),
    ) {
        let machine = Machine::new(NODES, CPUS / NODES, 2 << 20);
        let heap = common::heap(&machine, hardened);
        let mut model: BTreeMap<NonNull<u8>, Held> = BTreeMap::new();
        for (number, operation) in operations.into_iter().enumerate() {
            let tag = number as u8;
            if number % 8 == 0 {
                prop_assert_eq!(heap.validate(), Ok(()));
                // A hardened heap's blocks are larger than what is asked for.
                let large = model.values().filter(|held| SizeClass::of(held.layout).is_none());
                prop_assert!(hardened || heap.large_stats().live == large.count() as u64);
            }
            let chosen = |which: usize| model.keys().nth(which % model.len().max(1)).copied();
            match operation {
                Operation::Alloc { cpu, size, align_log, zeroed } => {
                    become_cpu(cpu);
                    let layout = Layout::from_size_align(size, 1 << align_log).unwrap();
                    let memory = if zeroed { heap.try_alloc_zeroed(layout) } else { heap.try_alloc(layout) };
                    let Ok(memory) = memory else { continue };
                    prop_assert_eq!(memory.addr().get() % layout.align(), 0);
                    if size == 0 {
                        continue;
                    }
                    let end = memory.addr().get() + size;
                    let below = model.range(..memory).next_back();
                    prop_assert!(below.is_none_or(|(at, held)| at.addr().get() + held.layout.size() <= memory.addr().get()));
                    prop_assert!(model.range(memory..).next().is_none_or(|(at, _)| at.addr().get() >= end));
                    if zeroed {
                        check_and_fill(memory, &Held { layout, tag: 0 }, size);
                    }
                    let held = Held { layout, tag };
                    check_and_fill(memory, &held, 0);
                    model.insert(memory, held);
                }
                Operation::Free { cpu, which } => {
                    become_cpu(cpu);
                    let Some(memory) = chosen(which) else { continue };
                    let Some(held) = model.remove(&memory) else { continue };
                    check_and_fill(memory, &held, held.layout.size());
                    // SAFETY: the model held it, with the layout that it was allocated with.
                    prop_assert_eq!(unsafe { heap.free(memory, held.layout) }, Ok(()));
                }
                Operation::Realloc { cpu, which, size } => {
                    become_cpu(cpu);
                    let Some(memory) = chosen(which) else { continue };
                    let Some(mut held) = model.remove(&memory) else { continue };
                    // SAFETY: the model held it with that layout, and holds from here on what comes back.
                    match unsafe { heap.try_realloc(memory, held.layout, size) } {
                        Ok(moved) => {
                            let kept = held.layout.size().min(size);
                            held.layout = Layout::from_size_align(size, held.layout.align()).unwrap();
                            check_and_fill(moved, &held, kept);
                            if size > 0 {
                                model.insert(moved, held);
                            }
                        }
                        Err(_) => {
                            prop_assert!(size > held.layout.size(), "shrinking failed");
                            check_and_fill(memory, &held, held.layout.size());
                            model.insert(memory, held);
                        }
                    }
                }
                Operation::Online(cpu) => {
                    become_cpu(cpu);
                    let _ = heap.cpu_online(&pin());
                }
                Operation::Offline(cpu) => {
                    become_cpu(cpu);
                    let _ = heap.cpu_offline(&pin());
                }
                Operation::Drain(cpu) => {
                    become_cpu(cpu);
                    heap.drain(&pin());
                }
            }
        }
        prop_assert_eq!(heap.validate(), Ok(()));
        prop_assert_eq!(totals(&heap).0 + heap.large_stats().live, model.len() as u64);
        for (memory, held) in model {
            check_and_fill(memory, &held, held.layout.size());
            // SAFETY: the model held it, with the layout that it was allocated with.
            prop_assert_eq!(unsafe { heap.free(memory, held.layout) }, Ok(()));
        }
        all_drained(&heap);
        prop_assert_eq!(totals(&heap), (0, 0, 0, 0));
        drop(heap);
        prop_assert_eq!(machine.outstanding(), 0);
        prop_assert_eq!(machine.refused.load(Ordering::SeqCst), 0);
    }
}
