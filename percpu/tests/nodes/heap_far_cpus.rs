//! CPUs with far numbers, whose places lie in pages that the heap takes, while memory runs out at any moment.
// There are fewer CPUs under Miri.
#![cfg(not(any(loom, miri)))]
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../common/mod.rs"]
mod common;

use std::alloc::Layout;
use std::ptr::NonNull;
use std::sync::atomic::Ordering;

use common::{Machine, become_cpu, pin, totals};
use proptest::prelude::*;
use topomem_percpu::{Heap, MAX_CPUS};

/// The last near CPU and the first far one, both sides of a page's border, and the last.
const CPUS: [usize; 7] = [0, 63, 64, 511, 512, 1024, MAX_CPUS - 1];

#[derive(Debug, Clone, Copy)]
enum Action {
    Online,
    Offline,
    Allocate(usize),
    AllocateMany(usize, usize),
    Free(u16),
    Drain,
    Reclaim,
    RunPendingWork,
}

/// An object, and the byte that it is filled with.
struct Object(NonNull<u8>, Layout, u8);

impl Object {
    fn new(memory: NonNull<u8>, layout: Layout, byte: u8) -> Object {
        // SAFETY: the heap gave that many bytes.
        unsafe { memory.write_bytes(byte, layout.size()) };
        Object(memory, layout, byte)
    }

    fn check(&self) {
        let Object(memory, layout, byte) = self;
        // SAFETY: the object's bytes.
        let bytes = unsafe { std::slice::from_raw_parts(memory.as_ptr(), layout.size()) };
        assert!(bytes.iter().all(|found| found == byte), "another owner wrote to the object");
    }
}

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, 8).unwrap()
}

fn action() -> impl Strategy<Value = Action> {
    let size = prop_oneof![Just(16_usize), Just(64), Just(1000), Just(8000), Just(30_000)];
    prop_oneof![
        4 => Just(Action::Online),
        1 => Just(Action::Offline),
        8 => size.clone().prop_map(Action::Allocate),
        4 => (size, 1_usize..200).prop_map(|(size, count)| Action::AllocateMany(size, count)),
        8 => any::<u16>().prop_map(Action::Free),
        1 => Just(Action::Drain),
        1 => Just(Action::Reclaim),
        1 => Just(Action::RunPendingWork),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost_whenever_memory_runs_out(
        steps in proptest::collection::vec((0..CPUS.len(), action(), prop_oneof![Just(-1_i64), 0_i64..4]), 1..300),
    ) {
        let machine = Machine::new(2, 1, 8 << 20);
        let heap = Heap::new(&machine, &machine);
        let mut objects: Vec<Object> = Vec::new();
        for (index, &(cpu, action, allowance)) in steps.iter().enumerate() {
            become_cpu(CPUS[cpu]);
            machine.allowance.store(allowance, Ordering::SeqCst);
            let byte = index as u8;
            match action {
                Action::Online => drop(heap.cpu_online(&pin())),
                Action::Offline => drop(heap.cpu_offline(&pin())),
                Action::Allocate(size) => {
                    let memory = heap.try_alloc(layout(size));
                    objects.extend(memory.map(|memory| Object::new(memory, layout(size), byte)));
                }
                Action::AllocateMany(size, count) => {
                    let mut many = vec![NonNull::dangling(); count];
                    let served = heap.alloc_many(layout(size), &mut many).map_or_else(|some| some.served, |()| count);
                    prop_assert!(many[served..].iter().all(|&place| place == NonNull::dangling()), "unchanged");
                    objects.extend(many[..served].iter().map(|&memory| Object::new(memory, layout(size), byte)));
                }
                Action::Free(which) if !objects.is_empty() => {
                    let Object(memory, layout, _) = {
                        let object = objects.swap_remove(usize::from(which) % objects.len());
                        object.check();
                        object
                    };
                    // SAFETY: allocated with that layout, and used no more.
                    unsafe { heap.free(memory, layout) }.unwrap();
                }
                Action::Free(_) => {}
                Action::Drain => drop(heap.drain(&pin())),
                Action::Reclaim => drop(heap.reclaim(&pin())),
                Action::RunPendingWork => drop(heap.run_pending_work(&pin())),
            }
        }
        machine.allowance.store(-1, Ordering::SeqCst);
        heap.validate().unwrap();
        let small = objects.iter().filter(|object| object.1.size() < 16 << 10).count() as u64;
        prop_assert_eq!(totals(&heap).0, small);
        for object in &objects {
            object.check();
            // SAFETY: as above.
            unsafe { heap.free(object.0, object.1) }.unwrap();
        }
        for cpu in CPUS {
            become_cpu(cpu);
            // A CPU that was never online has nothing to give back.
            let _ = heap.cpu_offline(&pin());
        }
        heap.drain(&pin());
        heap.validate().unwrap();
        prop_assert_eq!((totals(&heap).0, totals(&heap).3, heap.large_stats().live), (0, 0, 0));
        drop(heap);
        prop_assert_eq!(machine.outstanding(), 0);
        become_cpu(0);
    }
}
