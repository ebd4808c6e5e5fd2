//! A machine that counts what the heap asks of it, for tests of large objects.
#![allow(dead_code, clippy::unwrap_used)]

use std::alloc::Layout;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};

use topomem_percpu::{
    CpuPin, Heap, LargeStats, NodeId, Order, OutOfMemory, PageSource, RunLength, forward_page_source,
};

use super::Machine;

pub(crate) const MEGABYTE: usize = 1 << 20;
pub(crate) const PAGE: usize = 4096;

pub(crate) fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, 8).unwrap()
}

pub(crate) fn free<S: PageSource>(heap: &Heap<&Machine, S>, memory: NonNull<u8>, layout: Layout) {
    // SAFETY: each test frees what it allocated with the layout, once.
    unsafe { heap.free(memory, layout) }.unwrap();
}

/// Where a run that the source zeroed is not zero, and what is there.
pub(crate) const MARK: (usize, u8) = (1234, 0x3e);

/// A machine that counts what the heap asks of it.
pub(crate) struct Counting {
    pub(crate) machine: Machine,
    calls: AtomicUsize,
}

impl Counting {
    pub(crate) fn new(nodes: usize, cpus_per_node: usize, bytes_per_node: usize) -> Counting {
        let machine = Machine::new(nodes, cpus_per_node, bytes_per_node);
        Counting { machine, calls: AtomicUsize::new(0) }
    }

    pub(crate) fn calls(&self) -> usize {
        self.calls.swap(0, Ordering::SeqCst)
    }

    /// Returns the machine, and counts a call of it.
    fn counted(&self) -> &Machine {
        self.called();
        &self.machine
    }

    pub(crate) fn called(&self) {
        self.calls.fetch_add(1, Ordering::SeqCst);
    }
}

// SAFETY: the machine's own promises.
unsafe impl PageSource for Counting {
    /// With a mark, that tells if the heap writes to a run that is zeroed already.
    fn allocate_run_zeroed(
        &self,
        pin: &CpuPin,
        node: NodeId,
        length: RunLength,
        align: Order,
    ) -> Result<NonNull<u8>, OutOfMemory> {
        let run = self.allocate_run(pin, node, length, align)?;
        // SAFETY: the run has so many bytes, and is nobody else's.
        unsafe {
            run.write_bytes(0, length.bytes() as usize);
            run.add(MARK.0).write(MARK.1);
        }
        Ok(run)
    }

    forward_page_source!(|this| this.counted(); allocate, free, allocate_run, free_run, extend_run, shrink_run);
    forward_page_source!(|this| &this.machine; node_of_cpu, node_with_memory);
}

pub(crate) fn cached(runs: u64, pages: u64) -> LargeStats {
    LargeStats { cached: runs, cached_bytes: pages * PAGE as u64, ..LargeStats::default() }
}
