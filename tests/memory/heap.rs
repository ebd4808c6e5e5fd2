//! The kernel's heap as part of the service: what memory pressure takes back from it, on which
//! node it works, and what it tells the kernel.
// Miri runs the heap's own tests; whole machines take it too long.
#![cfg(not(miri))]
#![allow(clippy::unwrap_used, missing_docs)]

use std::alloc::{GlobalAlloc, Layout};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex};

use topomem::percpu::{AllocOnError, RunLength, SizeClass, UnknownNode};
use topomem::sim::{Sim, SimService};
use topomem::{CpuId, CpuPin, FrameRequest, InvalidFree, NodeId, PhysFrame, Platform};

const MEGABYTE: u64 = 1 << 20;

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, 8).unwrap()
}

fn booted(nodes: usize, cpus: usize, memory: u64) -> (&'static Sim, &'static SimService) {
    let sim = Sim::builder().nodes(nodes).cpus(cpus).memory(memory).build().unwrap();
    (sim, sim.boot_service().unwrap())
}

fn allocated(service: &SimService) -> u64 {
    service.frames().validate().unwrap().allocated
}

/// Objects on their way from one CPU to another.
struct Sent(Vec<NonNull<u8>>);

// SAFETY: whoever has the value owns the objects.
unsafe impl Send for Sent {}

impl Sent {
    fn allocate(service: &SimService, layout: Layout, count: usize) -> Sent {
        let heap = service.heap().unwrap().heap();
        Sent((0..count).map(|_| heap.try_alloc(layout).unwrap()).collect())
    }

    fn free(self, service: &SimService, layout: Layout) {
        let heap = service.heap().unwrap().heap();
        // SAFETY: allocated with that layout, and owned by the value.
        self.0.into_iter().for_each(|object| unsafe { heap.free(object, layout) }.unwrap());
    }
}

/// Takes every frame that the service gives; says how many.
fn take_all(service: &SimService, pin: &CpuPin) -> u64 {
    let mut count = 0;
    while service.alloc(pin, &FrameRequest::frame()).is_ok() {
        count += 1;
    }
    count
}

#[test]
fn frames_of_objects_freed_on_another_node_come_back() {
    let (sim, service) = booted(2, 2, 64 * MEGABYTE);
    let (layout, other) = (layout(1024), CpuId::new(1).unwrap());
    let before = allocated(service);
    let objects = sim.on(CpuId::BOOT, |_| Sent::allocate(service, layout, 10_000));
    let full = allocated(service) - before;
    sim.on(other, move |_| objects.free(service, layout));
    // Without anybody allocating or tending on node 0.
    let left = allocated(service) - before;
    assert!(left < full / 4, "{left} of {full} frames are allocated, with no object live");
    sim.run(|pin| {
        service.run_pending_work(pin);
    });
    let kept = allocated(service) - before;
    assert!(kept < 300, "{kept}");
}

#[test]
fn memory_pressure_takes_what_the_heap_caches() {
    let (sim, service) = booted(2, 4, 64 * MEGABYTE);
    let layouts = [64, 512, 1024, 4096, 16_384].map(layout);
    let before = allocated(service);
    sim.run(|_| {
        for layout in layouts {
            Sent::allocate(service, layout, 200).free(service, layout);
        }
    });
    assert!(allocated(service) - before > 64, "the heap caches: {}", allocated(service) - before);
    // CPU 0 takes all, magazines of other CPUs are asked for, and answered by their tasks.
    let taken = sim.on(CpuId::BOOT, |pin| take_all(service, pin));
    sim.run(|pin| {
        service.run_pending_work(pin);
    });
    let more = sim.on(CpuId::BOOT, |pin| take_all(service, pin));
    let heap = service.heap().unwrap().heap();
    let again = sim.run(|pin| heap.drain(pin));
    assert_eq!(again.iter().sum::<u64>(), 0, "after {taken} and {more} frames the heap had some left");
    sim.on(CpuId::BOOT, |_| {
        for class in layouts.into_iter().filter_map(SizeClass::of) {
            assert_eq!(heap.class_stats(class).slabs, 0, "{class}");
        }
    });
}

#[test]
fn memory_pressure_inside_an_allocation_of_the_heap_is_relieved() {
    let (sim, service) = booted(1, 2, 32 * MEGABYTE);
    let (cached, wanted) = (layout(1024), layout(64));
    sim.on(CpuId::BOOT, |pin| {
        // What is freed stays with the CPU and in the depot.
        Sent::allocate(service, cached, 300).free(service, cached);
        while service.frames().alloc(pin, &FrameRequest::frame().emergency()).is_ok() {}
        // Each slab needs a frame that only the heap has.
        let objects = Sent::allocate(service, wanted, 200);
        objects.free(service, wanted);
        service.heap().unwrap().heap().validate().unwrap();
    });
}

#[test]
fn a_cpu_on_a_node_without_memory_uses_its_magazines_and_leaves_nothing() {
    let sim = Sim::builder()
        .nodes(2)
        .cpus(2)
        .memory(64 * MEGABYTE)
        .node_cpus(0, 1)
        .node_cpus(1, 1)
        .node_memory(0, 64 * MEGABYTE)
        .node_memory(1, 0)
        .build()
        .unwrap();
    let service = sim.boot_service().unwrap();
    let (layout, lonely) = (layout(256), CpuId::new(1).unwrap());
    let before = allocated(service);
    sim.on(lonely, |_| {
        for _ in 0..100 {
            Sent::allocate(service, layout, 200).free(service, layout);
        }
    });
    let stats = service.heap().unwrap().heap().cpu_stats(lonely).unwrap();
    assert!(stats.misses * 10 < stats.hits && stats.remote_frees == 0, "{stats:?}");
    // Its objects' home is the node that it works on, so that the other CPU there frees them by itself.
    let objects = sim.on(lonely, |_| Sent::allocate(service, layout, 10));
    sim.on(CpuId::BOOT, |_| objects.free(service, layout));
    assert_eq!(service.heap().unwrap().heap().cpu_stats(CpuId::BOOT).unwrap().remote_frees, 0);
    assert!(allocated(service) - before < 300, "{}", allocated(service) - before);
}

#[test]
fn objects_lie_on_the_node_that_they_are_asked_for() {
    let sim = Sim::builder()
        .nodes(3)
        .cpus(3)
        .memory(64 * MEGABYTE)
        .node_memory(0, 32 * MEGABYTE)
        .node_memory(1, 32 * MEGABYTE)
        .node_memory(2, 0)
        .build()
        .unwrap();
    let service = sim.boot_service().unwrap();
    let heap = service.heap().unwrap().heap();
    let nodes = [0, 1, 2, 3].map(|index| NodeId::new(index).unwrap());
    sim.run(|_| {
        for layout in [64, 2000, 100_000].map(layout) {
            for node in &nodes[..2] {
                let memory = heap.alloc_on(*node, layout).unwrap();
                let frame = PhysFrame::containing_address(service.platform().virt_to_phys(memory));
                assert_eq!(service.frames().node_of(frame), Some(*node));
                // SAFETY: allocated with that layout, and not used any more.
                unsafe { heap.free(memory, layout) }.unwrap();
            }
        }
        assert_eq!(heap.on(nodes[1]).unwrap().node(), nodes[1]);
        assert_ne!(heap.on(nodes[2]).unwrap().node(), nodes[2], "the node has no memory");
        let unknown = Err(AllocOnError::UnknownNode(UnknownNode { node: nodes[3] }));
        assert_eq!(heap.alloc_on(nodes[3], layout(64)), unknown);
    });
}

#[test]
fn a_cpu_whose_node_is_full_does_not_grow_the_heap() {
    let (sim, service) = booted(2, 2, 64 * MEGABYTE);
    let layout = layout(64);
    let grown = sim.on(CpuId::BOOT, |pin| {
        let home = service.node_of_cpu(pin.cpu());
        while let Ok(frame) = service.alloc(pin, &FrameRequest::frame()) {
            if service.frames().node_of(frame) != Some(home) {
                break;
            }
        }
        let before = allocated(service);
        for _ in 0..5000 {
            Sent::allocate(service, layout, 1).free(service, layout);
        }
        allocated(service) - before
    });
    assert!(grown < 100, "{grown} frames, with one object live at most");
}

#[test]
fn runs_take_the_frames_of_their_length_and_are_aligned() {
    let (sim, service) = booted(1, 1, 64 * MEGABYTE);
    sim.on(CpuId::BOOT, |pin| {
        let heap = service.heap().unwrap().heap();
        let round = |pages: u64, align: usize| {
            let layout = Layout::from_size_align(pages as usize * 4096, align).unwrap();
            let memory = heap.try_alloc(layout).unwrap();
            assert_eq!(memory.addr().get() % align, 0);
            // SAFETY: the heap gave that many bytes.
            unsafe { memory.write_bytes(0x77, layout.size()) };
            let held = allocated(service);
            // SAFETY: allocated with that layout, and not used any more.
            unsafe { heap.free(memory, layout) }.unwrap();
            heap.drain(pin);
            held - allocated(service)
        };
        for (pages, align) in [(5, 1), (33, 1), (33, 16), (100, 1), (500, 1), (600, 1), (700, 1), (768, 512)]
        {
            // The first makes the record's tables.
            round(pages, align * 4096);
            let length = RunLength::for_pages(pages).unwrap().pages();
            assert_eq!(round(pages, align * 4096), length);
        }
        assert_eq!(round(1, 2 << 20), 512);
    });
}

#[test]
fn large_objects_change_their_size_in_place() {
    let (sim, service) = booted(1, 1, 64 * MEGABYTE);
    sim.on(CpuId::BOOT, |pin| {
        let heap = service.heap().unwrap().heap();
        let pages = |pages: usize| layout(pages * 4096);
        let memory = heap.try_alloc(pages(5)).unwrap();
        // SAFETY: the heap gave that many bytes.
        unsafe { memory.write_bytes(0x77, 5 * 4096) };
        let bare = allocated(service) - 5;
        let mut held = 5;
        for new in [6, 32, 8, 100, 64, 16, 5] {
            // SAFETY: the test has the object with that layout, and uses what comes back.
            assert_eq!(unsafe { heap.try_realloc(memory, pages(held), new * 4096) }, Ok(memory));
            assert_eq!(allocated(service), bare + RunLength::for_pages(new as u64).unwrap().pages());
            held = new;
        }
        // SAFETY: as above; then the layout is that one, and the object is not used any more.
        unsafe {
            assert_eq!(heap.try_realloc(memory, pages(5), 8 * 4096), Ok(memory));
            assert_eq!(memory.add(5 * 4096 - 1).read(), 0x77);
            heap.free(memory, pages(8)).unwrap();
        }
        heap.drain(pin);
        assert_eq!(allocated(service), bare);
    });
}

#[test]
fn what_the_heap_refuses_is_told_to_the_kernel() {
    let (sim, service) = booted(1, 1, 32 * MEGABYTE);
    let heap = service.heap().unwrap();
    let large = layout(100_000);
    let address = sim.on(CpuId::BOOT, |_| {
        // SAFETY: allocated and freed with the same layout; the second free is refused before it
        // touches anything, and so is the change of size.
        unsafe {
            let memory = heap.alloc(large);
            heap.dealloc(memory, large);
            let stats = heap.heap().large_stats();
            let free = catch_unwind(AssertUnwindSafe(|| heap.dealloc(memory, large)));
            assert!(free.is_err(), "by default loudly");
            let change = catch_unwind(AssertUnwindSafe(|| heap.realloc(memory, large, 10)));
            assert!(change.is_err(), "by default loudly");
            assert_eq!(heap.heap().large_stats(), stats);
            memory.addr()
        }
    });
    let told = Arc::new(Mutex::new(Vec::new()));
    let teller = told.clone();
    sim.on_heap_misuse(move |refused| teller.lock().unwrap().push(refused));
    sim.on(CpuId::BOOT, |_| {
        // SAFETY: allocated with that layout; a wrong free is refused before it touches anything.
        unsafe {
            let memory = heap.alloc(large);
            assert_eq!(memory.addr(), address);
            heap.dealloc(memory.add(4096), large);
            heap.dealloc(memory, layout(20_000));
            heap.dealloc(memory, large);
        }
    });
    let expected = [
        InvalidFree::NotLarge { address: address + 4096, size: 100_000 },
        InvalidFree::WrongSize { address, size: 20_000, length: RunLength::for_pages(25).unwrap() },
    ];
    assert_eq!(*told.lock().unwrap(), expected);
}

#[test]
#[cfg(feature = "hardening")]
fn what_a_hardened_heap_finds_is_told_to_the_kernel() {
    use topomem::KernelHeap;
    use topomem::percpu::{Finding, Hardening, Measure};

    let (sim, service) = booted(1, 1, 32 * MEGABYTE);
    // Unoptimised code builds it on its stack.
    let build = move || &*Box::leak(Box::new(KernelHeap::with_hardening(sim, service, Hardening::ALL)));
    let heap = std::thread::Builder::new().stack_size(64 << 20).spawn(build).unwrap().join().unwrap();
    let write_after_free = || {
        // SAFETY: it is not: the write after the free, which is what the heap must find.
        unsafe {
            let memory = heap.alloc(layout(64));
            heap.dealloc(memory, layout(64));
            memory.add(10).write(1);
            heap.alloc(layout(64))
        }
    };
    let found = Hardening::ALL.has(Measure::Poison);
    sim.on(CpuId::BOOT, |_| {
        let outcome = catch_unwind(AssertUnwindSafe(write_after_free));
        assert_eq!(outcome.is_err(), found, "by default loudly");
    });
    let told = Arc::new(Mutex::new(Vec::new()));
    let teller = told.clone();
    sim.on_heap_report(move |report| teller.lock().unwrap().push(*report));
    sim.on(CpuId::BOOT, |_| assert!(!write_after_free().is_null()));
    let told = told.lock().unwrap();
    assert_eq!(told.len(), usize::from(found));
    for report in told.iter() {
        assert!(matches!(report.finding, Finding::WriteAfterFree { .. }) && report.class.is_some());
    }
}
