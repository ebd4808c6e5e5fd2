//! What the heap refuses, in every build or in checking ones, and what it must not refuse: giving
//! memory back while none can be had.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../common/mod.rs"]
mod common;

use std::alloc::{GlobalAlloc, Layout};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{Machine, TestHeap, all_drained, all_online, become_cpu, pin, totals};
use topomem_percpu::{
    AllocError, CpuId, CpuPin, Heap, InvalidFree, LargeStats, NodeId, Order, OutOfMemory, PageSource,
    ReallocError, RunLength, SizeClass,
};

const MEGABYTE: usize = 1 << 20;

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, 8).unwrap()
}

fn free(heap: &TestHeap<'_>, memory: NonNull<u8>, layout: Layout) {
    // SAFETY: each test frees what it allocated with the layout, once.
    unsafe { heap.free(memory, layout) }.unwrap();
}

#[test]
fn wrong_frees_of_large_objects_are_refused_in_every_build() {
    let machine = Machine::new(1, 1, 2 * MEGABYTE);
    let heap = Heap::new(&machine, &machine);
    all_online(&heap);
    let (large, half) = (layout(200_000), layout(100_000));
    let memory = heap.try_alloc(large).unwrap();
    let address = memory.addr().get();
    let (stats, pages) = (heap.large_stats(), machine.outstanding());
    let length = RunLength::for_pages(50).unwrap();
    assert_eq!(stats, LargeStats { live: 1, bytes: length.bytes(), ..LargeStats::default() });
    // SAFETY: wrong frees are refused before they touch anything.
    unsafe {
        let wrong = InvalidFree::WrongSize { address, size: half.size(), length };
        assert_eq!(heap.free(memory, half), Err(wrong));
        assert_eq!(heap.try_realloc(memory, half, 90_000), Err(ReallocError::Invalid(wrong)));
        for offset in [64, 32 * 1024, 128 * 1024] {
            let inner = memory.add(offset);
            let not_large = InvalidFree::NotLarge { address: address + offset, size: half.size() };
            assert_eq!(heap.free(inner, half), Err(not_large));
            assert_eq!(heap.try_realloc(inner, half, 200_000), Err(ReallocError::Invalid(not_large)));
        }
        // Larger than any run.
        let giant = layout(1 << 40);
        assert!(matches!(heap.free(memory, giant), Err(InvalidFree::WrongSize { .. })));
        // As a small object. (Its first bytes are no slab's header.)
        memory.write_bytes(0, 64);
        let small = layout(64);
        let class = SizeClass::of(small).unwrap();
        assert_eq!(heap.free(memory, small), Err(InvalidFree::NotInSlab { address, class }));
    }
    assert_eq!((heap.large_stats(), machine.outstanding()), (stats, pages));
    free(&heap, memory, large);
    // In the CPU's cache, then with the source.
    let cached = LargeStats { cached: 1, cached_bytes: length.bytes(), ..LargeStats::default() };
    let twice = [
        (cached, InvalidFree::LargeDoubleFree { address, size: large.size() }),
        (LargeStats::default(), InvalidFree::NotLarge { address, size: large.size() }),
    ];
    for (at, (stats, twice)) in twice.into_iter().enumerate() {
        assert_eq!(heap.large_stats(), stats);
        let pages = machine.outstanding();
        // SAFETY: a second free is refused before it touches anything.
        unsafe {
            assert_eq!(heap.free(memory, large), Err(twice));
            assert_eq!(heap.try_realloc(memory, large, 200_001), Err(ReallocError::Invalid(twice)));
            // As the global allocator, which has nobody to return it to.
            GlobalAlloc::dealloc(&heap, memory.as_ptr(), large);
            assert!(GlobalAlloc::realloc(&heap, memory.as_ptr(), large, 10).is_null());
        }
        assert_eq!(machine.refused.load(Ordering::SeqCst), 2 * (at + 1));
        assert_eq!((heap.large_stats(), machine.outstanding()), (stats, pages));
        heap.validate().unwrap();
        heap.drain(&pin());
    }
}

#[test]
fn a_small_object_freed_with_another_classes_layout_is_refused_in_every_build() {
    let machine = Machine::new(2, 1, 2 * MEGABYTE);
    let heap = Heap::new(&machine, &machine);
    all_online(&heap);
    let right = layout(64);
    let memory = heap.try_alloc(right).unwrap();
    let address = memory.addr().get();
    for cpu in [0, 1] {
        become_cpu(cpu);
        for size in [8, 72, 128, 16_000] {
            let class = SizeClass::of(layout(size)).unwrap();
            // SAFETY: wrong frees are refused before they touch anything.
            let refused = unsafe { heap.free(memory, layout(size)) };
            assert_eq!(refused, Err(InvalidFree::NotInSlab { address, class }));
        }
        // SAFETY: as above.
        let refused = unsafe { heap.free(memory, layout(20_000)) };
        assert_eq!(refused, Err(InvalidFree::NotLarge { address, size: 20_000 }));
    }
    become_cpu(0);
    assert_eq!(heap.class_stats(SizeClass::of(right).unwrap()).live, 1);
    free(&heap, memory, right);
    all_drained(&heap);
    assert_eq!(totals(&heap), (0, 0, 0, 0));
}

#[test]
#[cfg(any(debug_assertions, feature = "hardened"))]
fn a_change_of_size_of_what_is_not_held_is_refused() {
    let machine = Machine::new(1, 1, MEGABYTE);
    let heap = Heap::new(&machine, &machine);
    all_online(&heap);
    let fifty = layout(50);
    let class = SizeClass::of(fifty).unwrap();
    let memory = heap.try_alloc(fifty).unwrap();
    let address = memory.addr().get();
    // SAFETY: what is wrong is refused before it touches anything.
    unsafe {
        for new_size in [51, 10, 3000, 0] {
            assert_eq!(
                heap.try_realloc(memory.add(8), fifty, new_size),
                Err(ReallocError::Invalid(InvalidFree::InsideObject { address: address + 8, class }))
            );
            let other = SizeClass::of(layout(500)).unwrap();
            assert_eq!(
                heap.try_realloc(memory, layout(500), new_size),
                Err(ReallocError::Invalid(InvalidFree::NotInSlab { address, class: other }))
            );
        }
        heap.free(memory, fifty).unwrap();
        for new_size in [51, 10, 3000, 0] {
            assert_eq!(
                heap.try_realloc(memory, fifty, new_size),
                Err(ReallocError::Invalid(InvalidFree::DoubleFree { address, class }))
            );
        }
    }
    all_drained(&heap);
    assert_eq!(totals(&heap), (0, 0, 0, 0));
}

#[test]
fn no_shrinking_fails() {
    let machine = Machine::new(2, 1, 2 * MEGABYTE);
    let heap = Heap::new(&machine, &machine);
    all_online(&heap);
    let before = totals(&heap);
    // Each is shrunk several times, and grown again within what it has.
    let cases: [&[usize]; 7] = [
        &[8000, 100, 9, 5000, 8],
        &[300, 20, 100],
        &[64, 8, 40],
        &[100_000, 17_000, 40_000, 50, 60_000, 1000],
        &[40_000, 1000, 2000, 33_000],
        &[200_000, 150_000, 100_000, 16],
        &[16_384, 1],
    ];
    // Miri takes its time: one large object, all of whose smaller sizes have no slab yet.
    let cases = if cfg!(miri) { &cases[3..4] } else { &cases[..] };
    let held: Vec<_> = cases.iter().map(|sizes| heap.try_alloc(layout(sizes[0])).unwrap()).collect();
    for (memory, sizes) in held.iter().zip(cases) {
        // SAFETY: the heap gave that many bytes.
        unsafe { memory.write_bytes(0x5a, sizes[0]) };
    }
    // No memory is left: neither pages, nor objects in slabs.
    machine.allowance.store(0, Ordering::SeqCst);
    let mut filler = Vec::new();
    for class in SizeClass::all() {
        while let Ok(object) = heap.try_alloc(layout(class.size())) {
            filler.push((object, layout(class.size())));
        }
    }
    let mut last = Vec::new();
    for (cpu, (mut memory, sizes)) in held.into_iter().zip(cases).enumerate() {
        become_cpu(cpu % 2);
        let mut least = sizes[0];
        for pair in sizes.windows(2) {
            // SAFETY: allocated with that layout, or left with it.
            memory = unsafe { heap.try_realloc(memory, layout(pair[0]), pair[1]) }.unwrap();
            least = least.min(pair[1]);
            for at in [0, least / 2, least - 1] {
                // SAFETY: inside the allocation.
                assert_eq!(unsafe { memory.add(at).read() }, 0x5a);
            }
        }
        last.push((memory, layout(sizes[sizes.len() - 1])));
    }
    // Only the layout that each was left for frees it.
    for &(memory, _) in &last {
        // SAFETY: wrong frees are refused before they touch anything.
        unsafe {
            assert!(matches!(heap.free(memory, layout(5000)), Err(InvalidFree::NotInSlab { .. })));
            assert!(heap.free(memory, layout(400_000)).is_err());
        }
    }
    let live = last.len() + filler.len();
    assert_eq!(totals(&heap).0 + heap.large_stats().live, live as u64);
    for (at, (memory, layout)) in last.into_iter().enumerate() {
        become_cpu(at / 2 % 2);
        if at == 5 {
            heap.cpu_offline(&pin()).unwrap();
        }
        free(&heap, memory, layout);
        if cfg!(any(debug_assertions, feature = "hardened")) {
            // SAFETY: a second free is refused before it touches anything.
            assert!(unsafe { heap.free(memory, layout) }.is_err());
        }
    }
    filler.into_iter().for_each(|(memory, layout)| free(&heap, memory, layout));
    all_drained(&heap);
    heap.validate().unwrap();
    assert_eq!(totals(&heap), before);
    assert_eq!(heap.large_stats(), LargeStats::default());
    drop(heap);
    assert_eq!(machine.outstanding(), 0);
}

#[test]
fn growing_fails_while_no_memory_is_left_and_changes_nothing() {
    let machine = Machine::new(1, 1, MEGABYTE);
    let heap = Heap::new(&machine, &machine);
    all_online(&heap);
    let memory = heap.try_alloc(layout(20_000)).unwrap();
    machine.allowance.store(0, Ordering::SeqCst);
    // SAFETY: allocated with that layout, which holds as long as nothing succeeds.
    let grown = unsafe { heap.try_realloc(memory, layout(20_000), 40_000) };
    assert_eq!(grown, Err(ReallocError::Alloc(AllocError::OutOfMemory)));
    free(&heap, memory, layout(20_000));
}

/// A page source that breaks its promise for one order.
struct Misaligned {
    machine: Machine,
    order: Order,
    given_back: AtomicUsize,
}

// SAFETY: the pages are the machine's, and nobody else's. For one order they begin a few bytes late:
// what the heap is to find.
unsafe impl PageSource for Misaligned {
    fn allocate(&self, pin: &CpuPin, node: NodeId, order: Order) -> Result<NonNull<u8>, OutOfMemory> {
        let run = self.machine.allocate(pin, node, order)?;
        // SAFETY: inside the run.
        if order == self.order { Ok(unsafe { run.add(2048) }) } else { Ok(run) }
    }

    unsafe fn free(&self, pin: &CpuPin, run: NonNull<u8>, order: Order) {
        let base = run.as_ptr().map_addr(|address| address & !2048);
        if base != run.as_ptr() {
            self.given_back.fetch_add(1, Ordering::SeqCst);
        }
        // SAFETY: `allocate` had the run from the machine.
        unsafe { self.machine.free(pin, NonNull::new(base).unwrap(), order) };
    }

    fn node_of_cpu(&self, cpu: CpuId) -> NodeId {
        self.machine.node_of_cpu(cpu)
    }
}

#[test]
fn a_misaligned_run_is_refused_and_given_back() {
    let mut orders = 0;
    for order in (0..7).filter_map(Order::new) {
        let source =
            Misaligned { machine: Machine::new(1, 1, MEGABYTE), order, given_back: AtomicUsize::new(0) };
        let mut refused = 0;
        {
            let platform = Machine::new(1, 1, MEGABYTE);
            let heap = Heap::new(&platform, &source);
            let online = heap.cpu_online(&pin());
            refused += usize::from(matches!(online, Err(AllocError::MisalignedRun { .. })));
            for size in [8, 64, 256, 2000, 16_000, 20_000, 40_000, 100_000, 200_000] {
                match heap.try_alloc(layout(size)) {
                    // SAFETY: the heap gave that many bytes, freed once.
                    Ok(memory) => unsafe {
                        memory.write_bytes(1, size);
                        heap.free(memory, layout(size)).unwrap();
                    },
                    Err(AllocError::MisalignedRun { address, order: asked }) => {
                        // A run whose length is no order's need not be aligned to more than a page.
                        assert_eq!(address % 4096, 2048);
                        assert!(asked == order || asked == Order::FRAME, "{asked:?}");
                        refused += 1;
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            heap.validate().unwrap();
        }
        // Some orders are never asked for; a CPU goes on without magazines.
        let given_back = source.given_back.load(Ordering::SeqCst);
        assert!(given_back >= refused && (refused > 0) == (given_back > 0), "{given_back}, {refused}");
        orders += usize::from(refused > 0);
        assert_eq!(source.machine.outstanding(), 0);
    }
    assert!(orders >= 5, "{orders}");
}

#[test]
fn layouts_at_the_edge_of_the_address_space_are_refused() {
    let machine = Machine::new(1, 1, MEGABYTE);
    let heap = Heap::new(&machine, &machine);
    all_online(&heap);
    let before = machine.outstanding();
    let largest = isize::MAX as usize;
    for (size, align) in
        [(largest, 1), (largest - 4095, 4096), (1, 1 << 62), (0, 1 << 62), ((1 << 30) + 1, 8)]
    {
        let layout = Layout::from_size_align(size, align).unwrap();
        match heap.try_alloc(layout) {
            Ok(memory) => {
                assert_eq!((size, memory.addr().get() % align), (0, 0));
                free(&heap, memory, layout);
            }
            Err(error) => assert_eq!(error, AllocError::TooLarge { size, align }),
        }
    }
    let memory = heap.try_alloc(layout(100)).unwrap();
    for new_size in [usize::MAX, largest + 1, largest, 1 << 40] {
        // SAFETY: allocated with that layout, which holds as long as nothing succeeds.
        let grown = unsafe { heap.try_realloc(memory, layout(100), new_size) };
        assert!(matches!(grown, Err(ReallocError::Alloc(AllocError::TooLarge { .. }))), "{grown:?}");
    }
    // To nothing and back: an allocation of no bytes is no memory.
    // SAFETY: allocated with that layout; each change takes the last one's place.
    let nothing = unsafe { heap.try_realloc(memory, layout(100), 0) }.unwrap();
    // SAFETY: as above.
    let memory = unsafe { heap.try_realloc(nothing, layout(0), 100) }.unwrap();
    free(&heap, memory, layout(100));
    all_drained(&heap);
    assert_eq!(totals(&heap), (0, 0, 0, 0));
    assert!(machine.outstanding() >= before);
}
