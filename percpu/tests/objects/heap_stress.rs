//! Threads as CPUs, two to four nodes, frees across CPUs, all at once.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../common/mod.rs"]
mod common;

use std::alloc::Layout;
use std::ptr::NonNull;
use std::sync::Mutex;
use std::thread;

use common::{Machine, TestHeap, all_drained, become_cpu, pin, totals};
use topomem_percpu::{Corruption, Heap};

/// An allocation, full of its tag.
struct Held {
    memory: NonNull<u8>,
    layout: Layout,
    tag: u8,
}

// SAFETY: the memory is this value's alone.
unsafe impl Send for Held {}

fn random(state: &mut u64) -> usize {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    (*state >> 11) as usize
}

fn take(heap: &TestHeap<'_>, seed: &mut u64) -> Option<Held> {
    let size = match random(seed) % 8 {
        0..5 => 8 + random(seed) % 120,
        5..7 => 8 + random(seed) % 2000,
        _ => 8 + random(seed) % 20000,
    };
    let layout = Layout::from_size_align(size, 1 << (random(seed) % 7)).unwrap();
    let memory = heap.try_alloc(layout).ok()?;
    let tag = random(seed) as u8;
    // SAFETY: the heap gave that many bytes.
    unsafe { memory.write_bytes(tag, size) };
    Some(Held { memory, layout, tag })
}

fn give(heap: &TestHeap<'_>, held: Held) {
    for at in [0, held.layout.size() / 2, held.layout.size() - 1] {
        // SAFETY: inside the allocation, which was filled.
        let byte = unsafe { held.memory.add(at).read() };
        assert_eq!(byte, held.tag, "somebody else wrote into our memory");
    }
    // SAFETY: `held` is gone with this: allocated with the layout, freed once.
    unsafe { heap.free(held.memory, held.layout) }.unwrap();
}

fn stress(nodes: usize, cpus_per_node: usize, bytes_per_node: usize, rounds: usize) {
    let machine = Machine::new(nodes, cpus_per_node, bytes_per_node);
    let heap = Heap::new(&machine, &machine);
    let mailboxes: Vec<Mutex<Vec<Held>>> = (0..machine.cpus()).map(|_| Mutex::default()).collect();
    thread::scope(|scope| {
        for cpu in 0..machine.cpus() {
            let (heap, mailboxes) = (&heap, &mailboxes);
            scope.spawn(move || {
                become_cpu(cpu);
                let mut seed = 0x9e37_79b9_7f4a_7c15 ^ (cpu as u64 + 1);
                let mut own = Vec::new();
                for round in 0..rounds {
                    match random(&mut seed) % 16 {
                        0..6 => own.extend(take(heap, &mut seed)),
                        6..10 if !own.is_empty() => {
                            let at = random(&mut seed) % own.len();
                            give(heap, own.swap_remove(at));
                        }
                        10..13 => {
                            let to = random(&mut seed) % mailboxes.len();
                            mailboxes[to].lock().unwrap().extend(own.pop());
                        }
                        13..15 => {
                            let arrived = std::mem::take(&mut *mailboxes[cpu].lock().unwrap());
                            arrived.into_iter().for_each(|held| give(heap, held));
                        }
                        _ => {}
                    }
                    match round % (rounds / 5) {
                        0 => heap.cpu_online(&pin()).unwrap_or(()),
                        // Others may hold a shelf for longer than it waits.
                        7 => assert!(matches!(heap.validate(), Ok(()) | Err(Corruption::Busy { .. }))),
                        11 => _ = heap.drain(&pin()),
                        13 => heap.cpu_offline(&pin()).unwrap_or(()),
                        17 => heap.cpu_online(&pin()).unwrap_or(()),
                        _ => {}
                    }
                }
                own.into_iter().for_each(|held| give(heap, held));
            });
        }
    });
    for mailbox in mailboxes {
        mailbox.into_inner().unwrap().into_iter().for_each(|held| give(&heap, held));
    }
    heap.validate().unwrap();
    assert_eq!(totals(&heap).0, 0);
    all_drained(&heap);
    assert_eq!(totals(&heap), (0, 0, 0, 0));
    drop(heap);
    assert_eq!(machine.outstanding(), 0);
}

#[test]
fn two_nodes_with_plenty() {
    if cfg!(miri) { stress(2, 1, 2 << 20, 100) } else { stress(2, 2, 16 << 20, 60_000) }
}

#[test]
#[cfg_attr(miri, ignore = "the same code as above, in longer runs")]
fn four_nodes_running_dry() {
    stress(4, 2, 512 << 10, 40_000);
}

#[test]
#[cfg_attr(miri, ignore = "the same code as above, in longer runs")]
fn one_node_of_eight_cpus() {
    stress(1, 8, 16 << 20, 40_000);
}
