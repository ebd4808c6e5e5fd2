//! The kernel's heap: percpu's slabs and runs over the local node's frames.

use core::alloc::{GlobalAlloc, Layout};
use core::fmt;
use core::ptr::NonNull;

use topomem_numa::frames::FrameRequest;
use topomem_percpu::{
    CpuId, CpuPin, Heap, InvalidFree, NodeId, NotInPlace, Order, OutOfMemory, PageSource, RunLength,
    forward_page_source,
};
use topomem_shootdown::VirtAddr;

use crate::Machine;
use crate::ranges::RangeRequest;
use crate::service::MemoryService;

/// The pages of a [`KernelHeap`]: runs of the service's frames, through the direct map.
pub struct ServicePages<P: Machine> {
    service: &'static MemoryService<P>,
}

impl<P: Machine> ServicePages<P> {
    /// A run of `length`, as `request` says.
    fn run(
        &self,
        pin: &CpuPin,
        request: FrameRequest,
        length: RunLength,
        align: Order,
    ) -> Result<NonNull<u8>, OutOfMemory> {
        let take = |request: &FrameRequest| match length.order() {
            Some(_) => self.service.frames().alloc(pin, request),
            None => self.service.frames().alloc_run(pin, request, length.pages(), align.frames()),
        };
        let attempt = || take(&request);
        let first = attempt().or_else(|error| self.service.reclaim_and_retry(pin, error, attempt));
        let first = first.or_else(|error| self.service.or_of_reserve(error, || take(&request.emergency())));
        let first = first.map_err(|_| OutOfMemory)?;
        Ok(self.service.platform().phys_to_virt(first.start_address()))
    }

    /// Allocates a range as described by `request`, near `node`.
    fn range(
        &self,
        pin: &CpuPin,
        node: NodeId,
        align: Order,
        request: RangeRequest,
    ) -> Result<NonNull<u8>, OutOfMemory> {
        let ranges = self.service.kernel_ranges().ok_or(OutOfMemory)?;
        // As for frames: the local node is the allocator's own choice.
        let is_local = self.service.node_of_cpu(pin.cpu()) == node;
        let request = if is_local { request } else { request.node(node) };
        if align > request.align() {
            return Err(OutOfMemory);
        }
        let range = ranges.allocate(pin, &request).map_err(|_| OutOfMemory)?;
        pointer_to(range.into_start()).ok_or(OutOfMemory)
    }
}

fn address_of(memory: NonNull<u8>) -> VirtAddr {
    VirtAddr::new_truncate(memory.addr().get() as u64)
}

/// Returns a pointer to the start of a range. No Rust object lies there, so any provenance will do.
fn pointer_to(start: VirtAddr) -> Option<NonNull<u8>> {
    NonNull::new(core::ptr::with_exposed_provenance_mut(start.as_u64() as usize))
}

// SAFETY: a run of frames is owned by the heap until it is freed, and the direct map is valid for
// reads and writes (the platform's promise).
unsafe impl<P: Machine> PageSource for ServicePages<P> {
    fn allocate(&self, pin: &CpuPin, node: NodeId, order: Order) -> Result<NonNull<u8>, OutOfMemory> {
        let request = self.service.frames().heap_request(pin, node, order);
        let frame = self.service.alloc_from_reserve(pin, &request).map_err(|_| OutOfMemory)?;
        Ok(self.service.platform().phys_to_virt(frame.start_address()))
    }

    fn allocate_run(
        &self,
        pin: &CpuPin,
        node: NodeId,
        length: RunLength,
        align: Order,
    ) -> Result<NonNull<u8>, OutOfMemory> {
        let order = length.order().unwrap_or(Order::FRAME);
        self.run(pin, self.service.frames().heap_request(pin, node, order), length, align)
    }

    fn allocate_run_zeroed(
        &self,
        pin: &CpuPin,
        node: NodeId,
        length: RunLength,
        align: Order,
    ) -> Result<NonNull<u8>, OutOfMemory> {
        let order = length.order().unwrap_or(Order::FRAME);
        self.run(pin, self.service.frames().heap_request(pin, node, order).zeroed(), length, align)
    }

    fn wants_range(&self, pages: u64) -> bool {
        self.service.kernel_ranges().is_some_and(|ranges| ranges.is_for(pages))
    }

    fn allocate_range(
        &self,
        pin: &CpuPin,
        node: NodeId,
        pages: u64,
        align: Order,
    ) -> Result<NonNull<u8>, OutOfMemory> {
        self.range(pin, node, align, RangeRequest::pages(pages))
    }

    fn allocate_range_zeroed(
        &self,
        pin: &CpuPin,
        node: NodeId,
        pages: u64,
        align: Order,
    ) -> Result<NonNull<u8>, OutOfMemory> {
        self.range(pin, node, align, RangeRequest::pages(pages).zeroed())
    }

    fn range_at(&self, pin: &CpuPin, memory: NonNull<u8>) -> Option<u64> {
        self.service.kernel_ranges()?.pages_at(pin, address_of(memory))
    }

    unsafe fn free_range(&self, pin: &CpuPin, range: NonNull<u8>) -> Result<(), NotInPlace> {
        let ranges = self.service.kernel_ranges().ok_or(NotInPlace)?;
        // SAFETY: the caller's promise.
        unsafe { ranges.free_at(pin, address_of(range)) }.map_err(|_| NotInPlace)
    }

    unsafe fn resize_range(
        &self,
        pin: &CpuPin,
        range: NonNull<u8>,
        pages: u64,
    ) -> Result<NonNull<u8>, NotInPlace> {
        let ranges = self.service.kernel_ranges().ok_or(NotInPlace)?;
        // SAFETY: the caller's promise.
        let moved = unsafe { ranges.resize_at(pin, address_of(range), &RangeRequest::pages(pages)) };
        moved.ok().and_then(pointer_to).ok_or(NotInPlace)
    }

    fn node_of_cpu(&self, cpu: CpuId) -> NodeId {
        self.service.node_of_cpu(cpu)
    }

    fn refused(&self, invalid: InvalidFree) {
        self.service.platform().on_heap_misuse(invalid);
    }

    #[cfg(feature = "hardening")]
    fn reported(&self, report: &topomem_percpu::Report) {
        self.service.platform().on_heap_report(report);
    }

    #[cfg(feature = "leak-tracking")]
    fn caller(&self) -> Option<topomem_percpu::Caller> {
        self.service.platform().heap_caller()
    }

    // Each run came from these frames.
    forward_page_source!(|this| this.service.frames(); free, free_run, extend_run, shrink_run, node_with_memory);
}

impl<P: Machine> fmt::Debug for ServicePages<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServicePages").finish_non_exhaustive()
    }
}

/// The kernel's heap, made for `#[global_allocator]`. The heap is empty until the service's boot
/// has given it frames; earlier allocations fail. Refused frees are reported to
/// [`Machine::on_heap_misuse`].
///
/// The heap passed to boot ([`WithFrames::heap`](crate::WithFrames::heap)) is part of the service:
/// memory pressure and [`MemoryService::run_pending_work`] collect from it.
///
/// ```
/// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
/// # booted::run(|service, _| {
/// let heap = service.heap().expect("boot passed a heap").heap();
/// let layout = core::alloc::Layout::new::<[u64; 8]>();
/// let object = heap.try_alloc(layout)?;
/// // SAFETY: the object was allocated with the layout, and is not used any more.
/// unsafe { heap.free(object, layout)? };
/// # Ok(())
/// # }).unwrap();
/// ```
pub struct KernelHeap<P: Machine> {
    heap: Heap<P, ServicePages<P>>,
}

impl<P: Machine> KernelHeap<P> {
    /// Returns a heap over the frames of `service`, on the same platform.
    #[cfg(not(loom))]
    #[must_use]
    pub const fn new(platform: P, service: &'static MemoryService<P>) -> KernelHeap<P> {
        KernelHeap { heap: Heap::new(platform, ServicePages { service }) }
    }

    /// Returns a heap with measures against wrong uses. Findings are reported to
    /// [`Machine::on_heap_report`].
    #[cfg(all(feature = "hardening", not(loom)))]
    #[must_use]
    pub const fn with_hardening(
        platform: P,
        service: &'static MemoryService<P>,
        hardening: topomem_percpu::Hardening,
    ) -> KernelHeap<P> {
        KernelHeap { heap: Heap::with_hardening(platform, ServicePages { service }, hardening) }
    }

    /// Returns the heap itself: fallible allocation, statistics, cross-checks.
    pub const fn heap(&self) -> &Heap<P, ServicePages<P>> {
        &self.heap
    }
}

// SAFETY: the heap's own promises.
unsafe impl<P: Machine> GlobalAlloc for KernelHeap<P> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe { GlobalAlloc::alloc(&self.heap, layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { GlobalAlloc::dealloc(&self.heap, memory, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe { GlobalAlloc::alloc_zeroed(&self.heap, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe { GlobalAlloc::realloc(&self.heap, memory, layout, new_size) }
    }
}

impl<P: Machine> fmt::Debug for KernelHeap<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.heap.fmt(f)
    }
}
