//! Pools: the reserve serves when nothing else does, in every context, and loses nothing.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../common/mod.rs"]
mod common;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Barrier, OnceLock};

use common::{Machine, TestHeap, all_drained, all_online, become_cpu, totals};
use proptest::prelude::*;
use topomem_percpu::{AllocError, Heap, Pool, PoolBox, SizeClass};

const MEGABYTE: usize = 1 << 20;

type Object = [u64; 30];
type TestPool<'p> = Pool<'p, Object, &'p Machine, &'p Machine>;
type TestBox<'p> = PoolBox<'p, Object, &'p Machine, &'p Machine>;

fn check_empty(machine: &Machine, heap: TestHeap<'_>) {
    heap.validate().unwrap();
    all_drained(&heap);
    assert_eq!((totals(&heap), heap.large_stats().live), ((0, 0, 0, 0), 0));
    assert_eq!(machine.refused.load(Ordering::SeqCst), 0);
    drop(heap);
    assert_eq!(machine.outstanding(), 0);
}

/// Lets no page out any more, and takes what the heap has of the pool's objects.
fn exhaust<'p>(
    machine: &Machine,
    pool: &TestPool<'p>,
) -> Vec<topomem_percpu::InHeap<'p, Object, &'p Machine, &'p Machine>> {
    machine.allowance.store(0, Ordering::SeqCst);
    let mut taken = Vec::new();
    while let Ok(object) = pool.heap().try_box([0; 30]) {
        taken.push(object);
    }
    taken
}

#[test]
fn a_reserve_serves_when_nothing_else_does() {
    let machine = Machine::new(2, 1, MEGABYTE);
    let heap = Heap::new(&machine, &machine);
    all_online(&heap);
    {
        let pool: TestPool<'_> = Pool::new(&heap);
        pool.reserve(3).unwrap();
        pool.reserve(2).unwrap();
        pool.reserve(0).unwrap();
        let rest = exhaust(&machine, &pool);
        let mut held = Vec::new();
        for round in 0..4 {
            become_cpu(round % 2);
            held.extend((held.len() as u64..5).map(|number| pool.alloc([number; 30]).unwrap()));
            assert_eq!((pool.reserved(), pool.in_reserve()), (5, 0));
            let refused = pool.alloc([9; 30]).unwrap_err();
            assert_eq!((refused.value, refused.error), ([9; 30], AllocError::OutOfMemory));
            held.drain(..=round);
            assert_eq!(pool.in_reserve(), round + 1, "what is dropped fills the reserve first");
            held.clear();
            assert_eq!(pool.in_reserve(), 5);
        }
        drop(rest);
        // With memory, the reserve is left alone.
        let object = pool.alloc([1; 30]).unwrap();
        assert_eq!((object[29], pool.in_reserve()), (1, 5));
    }
    check_empty(&machine, heap);
}

#[test]
#[cfg_attr(miri, ignore = "takes minutes; the other tests run the same unsafe code")]
fn each_failure_of_the_page_source_leaves_the_reserve_as_it_was() {
    let (mut failed, mut complete) = (0, false);
    for failure in 0..24 {
        for single in [true, false] {
            let machine = Machine::new(1, 1, MEGABYTE);
            let heap = Heap::new(&machine, &machine);
            if failure % 2 == 0 {
                all_online(&heap);
            }
            let failing = if single { &machine.failing } else { &machine.allowance };
            failing.store(failure, Ordering::SeqCst);
            {
                let pool: TestPool<'_> = Pool::new(&heap);
                let mut reserved = 0;
                for count in [3, 200, 9] {
                    let outcome = pool.reserve(count);
                    reserved += if outcome.is_ok() { count } else { 0 };
                    failed += usize::from(outcome.is_err());
                    assert_eq!((pool.reserved(), pool.in_reserve()), (reserved, reserved));
                    assert_eq!(totals(&heap).0 as usize, reserved + blocks(&heap), "after {outcome:?}");
                }
                complete |= reserved == 212 && !single;
                let held: Vec<TestBox<'_>> = (0..reserved).map(|_| pool.alloc([4; 30]).unwrap()).collect();
                drop(held);
                assert_eq!(pool.in_reserve(), reserved);
            }
            check_empty(&machine, heap);
        }
    }
    assert!(failed > 5 && complete, "{failed}");
}

/// Objects of the heap that are none of the pool's: the lists of reserved objects.
fn blocks(heap: &TestHeap<'_>) -> usize {
    let object = SizeClass::of(std::alloc::Layout::new::<Object>());
    let others = SizeClass::all().filter(|class| Some(*class) != object);
    others.map(|class| heap.class_stats(class).live as usize).sum()
}

#[test]
fn objects_without_bytes_and_large_ones() {
    let machine = Machine::new(1, 1, 2 * MEGABYTE);
    let heap = Heap::new(&machine, &machine);
    {
        let empty: Pool<'_, (), &Machine, &Machine> = Pool::new(&heap);
        empty.reserve(2).unwrap();
        let held: Vec<_> = (0..5).map(|_| empty.alloc(()).unwrap()).collect();
        drop(held);
        let large: Pool<'_, [u64; 4000], &Machine, &Machine> = Pool::new(&heap);
        large.reserve(1).unwrap();
        machine.allowance.store(0, Ordering::SeqCst);
        let object = large.alloc([3; 4000]).unwrap();
        assert_eq!(large.alloc([4; 4000]).map(|_| ()).unwrap_err().value, [4; 4000]);
        assert_eq!(object.into_inner(), [3; 4000]);
        assert_eq!(large.in_reserve(), 1);
    }
    check_empty(&machine, heap);
}

#[test]
#[cfg_attr(
    miri,
    ignore = "takes minutes; loom explores the protocol, and the other tests run the unsafe code"
)]
fn no_cpu_fails_while_no_more_are_out_than_were_reserved() {
    const CPUS: usize = 4;
    let machine = Machine::new(2, CPUS / 2, MEGABYTE);
    let heap = Heap::new(&machine, &machine);
    all_online(&heap);
    {
        let pool: TestPool<'_> = Pool::new(&heap);
        pool.reserve(CPUS * 3).unwrap();
        let rest = exhaust(&machine, &pool);
        let (start, taken) = (Barrier::new(CPUS), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for cpu in 0..CPUS {
                let (pool, start, taken) = (&pool, &start, &taken);
                scope.spawn(move || {
                    become_cpu(cpu);
                    start.wait();
                    for round in 0..3000 {
                        let held: Vec<_> = (0..1 + round % 3)
                            .map(|_| pool.alloc([(cpu + round) as u64; 30]).expect("a reserved object"))
                            .collect();
                        taken.fetch_add(held.len(), Ordering::Relaxed);
                        assert!(held.iter().all(|object| **object == [(cpu + round) as u64; 30]));
                    }
                });
            }
        });
        assert_eq!((pool.in_reserve(), taken.into_inner()), (CPUS * 3, CPUS * 6000));
        drop(rest);
    }
    check_empty(&machine, heap);
}

#[test]
fn nested_uses_are_served_from_the_reserve() {
    static MACHINE: OnceLock<Machine> = OnceLock::new();
    static HEAP: OnceLock<TestHeap<'static>> = OnceLock::new();
    static POOL: OnceLock<TestPool<'static>> = OnceLock::new();
    static DRY: AtomicBool = AtomicBool::new(false);
    static SERVED: AtomicUsize = AtomicUsize::new(0);
    // The source is called from inside an allocation: what it does there is what an interrupt handler
    // does that comes at this point.
    let machine = MACHINE.get_or_init(|| {
        Machine::new(1, 1, MEGABYTE).hooked(|| {
            if let Some(pool) = POOL.get()
                && DRY.load(Ordering::SeqCst)
            {
                let objects = [1, 2].map(|number| pool.alloc([number; 30]).unwrap());
                assert!(objects.iter().all(|object| object[0] > 0));
                SERVED.fetch_add(2, Ordering::SeqCst);
            }
        })
    });
    let heap = HEAP.get_or_init(|| Heap::new(machine, machine));
    all_online(heap);
    let pool = POOL.get_or_init(|| Pool::new(heap));
    pool.reserve(3).unwrap();
    let rest = exhaust(machine, pool);
    DRY.store(true, Ordering::SeqCst);
    let object = pool.alloc([7; 30]).unwrap();
    DRY.store(false, Ordering::SeqCst);
    assert!(SERVED.load(Ordering::SeqCst) >= 2, "the heap asked the source in vain");
    assert_eq!((object[0], pool.in_reserve()), (7, 2));
    drop((object, rest));
    assert_eq!(pool.in_reserve(), 3);
}

#[derive(Debug, Clone)]
enum Operation {
    Alloc(usize),
    Free {
        cpu: usize,
        which: usize,
    },
    Reserve(usize),
    /// So many pages may be had from here on.
    Allow(i64),
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        8 => (0..4_usize).prop_map(Operation::Alloc),
        6 => (0..4_usize, 0..1000_usize).prop_map(|(cpu, which)| Operation::Free { cpu, which }),
        1 => (0..20_usize).prop_map(Operation::Reserve),
        2 => prop_oneof![2 => Just(0), 1 => 0..12_i64].prop_map(Operation::Allow),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    #[cfg_attr(miri, ignore = "takes minutes; the other tests run the same unsafe code")]
    fn a_pool_agrees_with_a_model(operations in prop::collection::vec(operation(), 1..300)) {
        let machine = Machine::new(2, 2, MEGABYTE);
        let heap = Heap::new(&machine, &machine);
        all_online(&heap);
        {
            let pool: TestPool<'_> = Pool::new(&heap);
            let (mut held, mut reserved): (Vec<(TestBox<'_>, u64)>, usize) = (Vec::new(), 0);
            for (number, operation) in operations.into_iter().enumerate() {
                match operation {
                    Operation::Alloc(cpu) => {
                        become_cpu(cpu);
                        match pool.alloc([number as u64; 30]) {
                            Ok(object) => held.push((object, number as u64)),
                            Err(refused) => {
                                prop_assert_eq!(refused.value[0], number as u64);
                                prop_assert!(held.len() >= reserved, "{} out of {reserved}", held.len());
                            }
                        }
                    }
                    Operation::Free { cpu, which } => {
                        become_cpu(cpu);
                        if !held.is_empty() {
                            let at = which % held.len();
                            let (object, number) = held.swap_remove(at);
                            prop_assert_eq!(object.into_inner(), [number; 30]);
                        }
                    }
                    Operation::Reserve(count) => {
                        let before = pool.in_reserve();
                        let added = if pool.reserve(count).is_ok() { count } else { 0 };
                        reserved += added;
                        prop_assert_eq!((pool.reserved(), pool.in_reserve()), (reserved, before + added));
                    }
                    Operation::Allow(pages) => machine.allowance.store(pages, Ordering::SeqCst),
                }
                prop_assert!(held.len() + pool.in_reserve() >= reserved);
                // Counted now and then: it looks at every class.
                if number % 64 == 0 {
                    prop_assert_eq!(totals(&heap).0 as usize, held.len() + pool.in_reserve() + blocks(&heap));
                }
            }
            prop_assert!(held.iter().all(|(object, number)| **object == [*number; 30]));
        }
        check_empty(&machine, heap);
    }
}
