//! The two heaps that are compared.

use std::alloc::Layout;
use std::collections::BTreeMap;
use std::ptr::NonNull;

use topomem_percpu::sync::observed::Access;
use topomem_percpu::{CpuId, CpuPin, Heap, PhysAddr, Platform};

use super::super::lock::SpinLock;
use super::super::machine::{self, step};
use super::super::subjects::NODES;
use crate::heap::pages::Pages;

/// A heap, for CPUs by number.
pub(super) trait Objects {
    fn alloc(&self, cpu: usize, layout: Layout) -> NonNull<u8>;
    fn free(&self, cpu: usize, memory: NonNull<u8>, layout: Layout);
}

/// Free lists by size behind one lock: the least that a heap can do. Its objects have addresses, and no memory.
pub(super) struct SpinLocked(SpinLock<Lists>);

#[derive(Debug, Default)]
struct Lists {
    free: BTreeMap<usize, Vec<NonNull<u8>>>,
    /// Where objects are that were never handed out.
    next: usize,
}

impl SpinLocked {
    pub(super) fn new() -> SpinLocked {
        SpinLocked(SpinLock::new(Lists { free: BTreeMap::new(), next: 1 << 40 }))
    }
}

impl Lists {
    /// The steps of a use of the list's head, which lie in one line.
    fn touch(&self) {
        let head = std::ptr::from_ref(self).addr();
        step(Access::Load(head));
        step(Access::Store(head));
    }
}

impl Objects for SpinLocked {
    fn alloc(&self, _cpu: usize, layout: Layout) -> NonNull<u8> {
        self.0.with(|lists| {
            lists.touch();
            lists.free.get_mut(&layout.size()).and_then(Vec::pop).unwrap_or_else(|| {
                let address = lists.next;
                lists.next += layout.size().next_multiple_of(64);
                NonNull::new(std::ptr::without_provenance_mut(address)).unwrap_or(NonNull::dangling())
            })
        })
    }

    fn free(&self, _cpu: usize, memory: NonNull<u8>, layout: Layout) {
        self.0.with(|lists| {
            lists.touch();
            lists.free.entry(layout.size()).or_default().push(memory);
        });
    }
}

/// The CPUs that take turns.
#[derive(Debug, Clone, Copy)]
struct Turns;

// SAFETY: the machine's coroutine that runs is the CPU that it plays, and ends before another plays it.
unsafe impl Platform for Turns {
    fn current_cpu(&self) -> CpuId {
        machine::running().and_then(CpuId::new).unwrap_or(CpuId::BOOT)
    }

    fn phys_to_virt(&self, _: PhysAddr) -> NonNull<u8> {
        unreachable!("the heap asks for no physical address")
    }
}

/// topomem, as it is.
pub(super) struct Magazines(Heap<Turns, Pages>);

impl Magazines {
    pub(super) fn new(cpus: usize) -> Magazines {
        let heap = Heap::new(Turns, Pages::new(cpus, NODES));
        for cpu in (0..cpus).filter_map(CpuId::new) {
            // SAFETY: no CPU runs yet.
            if let Err(error) = heap.cpu_online(&unsafe { CpuPin::new(cpu) }) {
                panic!("topomem: {error}");
            }
        }
        Magazines(heap)
    }
}

impl Objects for Magazines {
    fn alloc(&self, _cpu: usize, layout: Layout) -> NonNull<u8> {
        self.0.try_alloc(layout).unwrap_or_else(|error| panic!("topomem: {error}"))
    }

    fn free(&self, _cpu: usize, memory: NonNull<u8>, layout: Layout) {
        // SAFETY: the uses free what they allocated, once, with its layout.
        if let Err(error) = unsafe { self.0.free(memory, layout) } {
            panic!("topomem: {error}");
        }
    }
}
