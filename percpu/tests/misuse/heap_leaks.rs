//! What is out, by the calls that allocated it.
#![cfg(all(feature = "leak-tracking", not(loom)))]
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../common/mod.rs"]
mod common;

use std::alloc::{GlobalAlloc, Layout};
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use common::recorder::{Hardened, free, heap, layout, reports};
use common::{Machine, become_cpu, pin};
use topomem_percpu::{Caller, Hardening, LiveObjects, Measure, Origin, Site, SizeClass};

const MEGABYTE: usize = 1 << 20;

/// Leak tracking alone, and all measures.
fn measures() -> [Hardening; 2] {
    [Hardening::NONE.with(Measure::Tracking), Hardening::ALL]
}

fn line(origin: Origin) -> u32 {
    let Some(Site::Call(site)) = origin.site else { panic!("{origin:?}") };
    site.line()
}

/// What is out, by site, with the bytes.
fn sites(heap: &Hardened<'_>) -> Vec<(Option<Site>, u64)> {
    let mut all = Vec::new();
    heap.live_by_site(|live| all.push((live.origin.unwrap().site, live.bytes))).unwrap();
    all.sort_by_key(|&(_, bytes)| bytes);
    all
}

#[test]
fn an_allocation_as_global_allocator_has_the_caller_that_the_page_source_names() {
    for set in measures() {
        let machine = Machine::new(1, 1, 4 * MEGABYTE);
        let heap = heap(&machine, set);
        let named = |number| {
            heap.source().caller.store(number, Ordering::Relaxed);
            Caller::new(number).map(Site::Caller)
        };
        // Sizes of each way into the heap: small, medium, strictly aligned, large.
        let shapes = [(24, 8), (3000, 8), (100, 256), (50_000, 8)];
        for layout in shapes.map(layout) {
            let (size, grown) = (layout.size(), layout.size() * 3);
            // SAFETY: memory is used as long as it is allocated, with its layout.
            unsafe {
                let site = named(0xffff_ffff_8000_1235);
                let memory = GlobalAlloc::alloc(&heap, layout);
                assert_eq!(sites(&heap), [(site, size as u64)]);
                let site = named(0x7fff_1234);
                let moved = GlobalAlloc::realloc(&heap, memory, layout, grown);
                assert_eq!(sites(&heap), [(site, grown as u64)], "of a change of size, too");
                let site = named(3);
                let grown_layout = Layout::from_size_align(grown, layout.align()).unwrap();
                let less = GlobalAlloc::realloc(&heap, moved, grown_layout, grown - 1);
                assert_eq!(sites(&heap), [(site, grown as u64 - 1)], "in the same block, too");
                GlobalAlloc::dealloc(
                    &heap,
                    less,
                    Layout::from_size_align_unchecked(grown - 1, layout.align()),
                );
                let site = named(4);
                let zeroed = GlobalAlloc::alloc_zeroed(&heap, layout);
                assert!(std::slice::from_raw_parts(zeroed, size).iter().all(|&byte| byte == 0));
                assert_eq!(sites(&heap), [(site, size as u64)]);
                // The heap's own functions name their calls all the same.
                let own = heap.try_alloc(layout).unwrap();
                assert!(matches!(
                    sites(&heap)[..],
                    [(Some(Site::Call(_)), _), (Some(Site::Caller(_)), _)]
                        | [(Some(Site::Caller(_)), _), (Some(Site::Call(_)), _)]
                ));
                free(&heap, own, layout);
                GlobalAlloc::dealloc(&heap, zeroed, layout);
                named(0);
                let memory = GlobalAlloc::alloc(&heap, layout);
                assert_eq!(sites(&heap), [(None, size as u64)], "the source knows none");
                GlobalAlloc::dealloc(&heap, memory, layout);
            }
        }
        assert_eq!(reports(&heap), []);
    }
}

#[test]
fn a_report_names_the_caller_of_the_global_allocator() {
    let machine = Machine::new(1, 1, MEGABYTE);
    let heap = heap(&machine, Hardening::ALL);
    if !Hardening::ALL.has(Measure::RedZones) {
        return;
    }
    heap.source().caller.store(0x1234, Ordering::Relaxed);
    let layout = layout((64, 8));
    // SAFETY: the layout has bytes.
    let memory = NonNull::new(unsafe { GlobalAlloc::alloc(&heap, layout) }).unwrap();
    // SAFETY: what a program must not do; the byte is in the object's block.
    unsafe { memory.add(64).write(1) };
    // SAFETY: as above: the free is refused.
    unsafe { heap.free(memory, layout) }.unwrap_err();
    let said = reports(&heap)[0].to_string();
    assert!(said.ends_with("; allocated by cpu0 at caller 0x1234"), "{said}");
}

#[test]
fn a_heap_without_tracking_asks_for_no_caller() {
    let machine = Machine::new(1, 1, MEGABYTE);
    for set in [Hardening::NONE, Hardening::NONE.with(Measure::Poison)] {
        let heap = heap(&machine, set);
        heap.source().caller.store(0x1234, Ordering::Relaxed);
        // SAFETY: the layout has bytes.
        let memory = NonNull::new(unsafe { GlobalAlloc::alloc(&heap, layout((64, 8))) }).unwrap();
        free(&heap, memory, layout((64, 8)));
        assert_eq!(heap.source().asked.load(Ordering::Relaxed), 0);
    }
}

#[test]
fn a_leak_is_listed_with_its_call_site_and_cpu() {
    for set in measures() {
        let machine = Machine::new(1, 200, 8 * MEGABYTE);
        let heap = heap(&machine, set);
        become_cpu(1);
        heap.cpu_online(&pin()).unwrap();
        let listed = || {
            let mut all = Vec::new();
            heap.live_by_site(|live| all.push(*live)).unwrap();
            all.sort_by_key(|live| live.bytes);
            all
        };
        assert_eq!(listed(), []);
        let layout = layout((100, 8));
        let (mut leaked, mut lines) = (Vec::new(), Vec::new());
        for cpu in 0..2 {
            become_cpu(cpu);
            let freed: Vec<_> = (0..30).map(|_| heap.try_alloc(layout).unwrap()).collect();
            for _ in 0..=cpu {
                leaked.push(heap.try_alloc(layout).unwrap());
                lines.push(line!() - 1);
            }
            freed.into_iter().for_each(|memory| free(&heap, memory, layout));
        }
        let found = listed();
        assert_eq!(found.len(), 2, "{found:?}");
        for (cpu, live) in found.iter().enumerate() {
            let Some(Origin { cpu: by, site: Some(Site::Call(site)) }) = live.origin else {
                panic!("{live:?}")
            };
            assert_eq!((by.index(), site.line()), (cpu, lines[cpu]));
            assert!(site.file().ends_with("heap_leaks.rs"));
            let objects = 1 + cpu as u64;
            assert_eq!(*live, LiveObjects { origin: live.origin, objects, bytes: 100 * objects });
        }
        // A report names the site, too.
        // SAFETY: what a program must not do, undone at once.
        unsafe {
            let byte = leaked[0].sub(1);
            let saved = byte.read();
            byte.write(!saved);
            if set.has(Measure::RedZones) {
                heap.free(leaked[0], layout).unwrap_err();
                assert_eq!(reports(&heap)[0].origin, found[0].origin);
            }
            byte.write(saved);
        }
        // More than the table has places for at first.
        let cpus = 2..if cfg!(miri) { 5 } else { 200 };
        let of_cpu = |cpu| {
            become_cpu(cpu);
            heap.try_alloc(layout).unwrap()
        };
        let held: Vec<_> = cpus.map(of_cpu).collect();
        let found = listed();
        assert_eq!(found.len(), 2 + held.len());
        assert_eq!(found.iter().map(|live| live.bytes).sum::<u64>(), 300 + 100 * held.len() as u64);
        held.into_iter().for_each(|memory| free(&heap, memory, layout));
        for memory in leaked {
            free(&heap, memory, layout);
        }
        assert_eq!(listed(), []);
        for cpu in 0..2 {
            become_cpu(cpu);
            heap.drain(&pin());
        }
        assert!(SizeClass::all().all(|class| heap.class_stats(class).slabs == 0));
    }
}

#[test]
#[cfg_attr(miri, ignore = "an address that the heap has on record has no provenance")]
fn large_objects_are_listed_with_their_call_sites() {
    for set in measures() {
        let machine = Machine::new(1, 2, 2 * MEGABYTE);
        let heap = heap(&machine, set);
        let mut held = Vec::new();
        let mut lines = Vec::new();
        for (cpu, size, count) in [(0, 40_001, 2), (1, 100_000, 1), (0, 100, 3), (1, 20_000, 40)] {
            become_cpu(cpu);
            lines.push((cpu, line!() + 1, count, size as u64 * count));
            held.extend((0..count).map(|_| (heap.try_alloc(layout((size, 8))).unwrap(), size)));
        }
        become_cpu(0);
        let listed = || {
            let mut all = Vec::new();
            heap.live_by_site(|live| {
                let origin = live.origin.unwrap();
                all.push((origin.cpu.index(), line(origin), live.objects, live.bytes));
            })
            .unwrap();
            all.sort_unstable();
            all
        };
        // One line allocates for both CPUs.
        let mut expected = Vec::new();
        for cpu in 0..2 {
            let of_cpu = || lines.iter().filter(move |line| line.0 == cpu);
            let (objects, bytes) = (of_cpu().map(|line| line.2).sum(), of_cpu().map(|line| line.3).sum());
            expected.push((cpu, lines[0].1, objects, bytes));
        }
        assert_eq!(listed(), expected, "{set:?}");
        // What a CPU keeps for its next large objects is not out.
        for (memory, size) in held {
            free(&heap, memory, layout((size, 8)));
        }
        assert!(heap.large_stats().cached > 0);
        assert_eq!(listed(), []);
        assert_eq!(reports(&heap), []);
    }
}

#[test]
#[cfg_attr(miri, ignore = "takes minutes; loom explores the protocol")]
fn large_objects_are_listed_while_others_free_them() {
    let machine = Machine::new(2, 2, 4 * MEGABYTE);
    let heap = common::heap(&machine, true);
    common::all_online(&heap);
    let (done, listed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for cpu in 0..2 {
            let (heap, done) = (&heap, &done);
            scope.spawn(move || {
                become_cpu(cpu);
                for round in 0..4000 {
                    let layout = layout(([20_000, 40_000, 130_000][round % 3], 8));
                    let memory = heap.try_alloc(layout).unwrap();
                    // SAFETY: the heap has just given it, and it is freed once.
                    unsafe {
                        memory.write_bytes(0x11, layout.size());
                        heap.free(memory, layout).unwrap();
                    }
                    // So that runs go back to the source.
                    heap.drain(&pin());
                }
                done.fetch_add(1, Ordering::SeqCst);
            });
        }
        let (heap, done, listed) = (&heap, &done, &listed);
        scope.spawn(move || {
            become_cpu(2);
            while done.load(Ordering::SeqCst) < 2 {
                heap.live_by_site(|live| {
                    listed.fetch_add(live.objects as usize, Ordering::Relaxed);
                })
                .unwrap();
            }
        });
    });
    assert!(listed.into_inner() > 0, "nothing was seen");
    assert_eq!(heap.large_stats().live, 0);
    drop(heap);
    assert_eq!(machine.outstanding(), 0);
}

#[test]
fn a_list_of_what_is_out_calls_the_page_source_without_a_lock() {
    static MACHINE: OnceLock<Machine> = OnceLock::new();
    static HEAP: OnceLock<common::TestHeap<'static>> = OnceLock::new();
    static WATCHING: AtomicBool = AtomicBool::new(false);
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    // More call sites than the table has places for at first; each CPU has its own.
    const CPUS: usize = if cfg!(miri) { 113 } else { 200 };

    let machine = MACHINE.get_or_init(|| {
        Machine::new(1, CPUS, 2 * MEGABYTE).hooked(|| {
            if let Some(heap) = HEAP.get()
                && WATCHING.load(Ordering::SeqCst)
            {
                // A lock that this context holds would be said to be busy.
                heap.validate().unwrap();
                CALLS.fetch_add(1, Ordering::SeqCst);
            }
        })
    });
    let heap = HEAP.get_or_init(|| common::heap(machine, true));
    let layout = layout((100, 8));
    for cpu in 0..CPUS {
        become_cpu(cpu);
        heap.try_alloc(layout).unwrap();
    }
    become_cpu(0);
    WATCHING.store(true, Ordering::SeqCst);
    let mut objects = 0;
    heap.live_by_site(|live| objects += live.objects).unwrap();
    WATCHING.store(false, Ordering::SeqCst);
    assert_eq!(objects, CPUS as u64);
    // Two tables, and both go back.
    assert_eq!(CALLS.load(Ordering::SeqCst), 4);
}
