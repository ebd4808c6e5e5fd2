//! Frames as the pages of a heap, through the direct map.

use core::ptr::NonNull;

use topomem_percpu::{
    CpuId, CpuPin, InvalidFree, NodeId, NotInPlace, Order, OutOfMemory, PageSource, PhysFrame, Platform,
    RunLength,
};

use super::Frames;
use super::types::FrameRequest;

impl<P: Platform> Frames<P> {
    /// Returns a request of a heap on the pinned CPU for a run of `order` near `node`.
    pub fn heap_request(&self, pin: &CpuPin, node: NodeId, order: Order) -> FrameRequest {
        let request = FrameRequest::order(order);
        // The local node is the allocator's own choice, and its magazines serve only that.
        if self.node_of_cpu(pin.cpu()) == node { request } else { request.node(node) }
    }

    fn frame_at(&self, address: NonNull<u8>) -> PhysFrame {
        PhysFrame::containing_address(self.platform().virt_to_phys(address))
    }

    fn run(
        &self,
        pin: &CpuPin,
        request: &FrameRequest,
        length: RunLength,
        align: Order,
    ) -> Result<NonNull<u8>, OutOfMemory> {
        let take = |request: &FrameRequest| match length.order() {
            Some(_) => self.alloc(pin, request),
            None => self.alloc_run(pin, request, length.pages(), align.frames()),
        };
        // Freeing memory may need some of the heap: the heap may use the reserve.
        let first = take(request).or_else(|_| take(&request.emergency()));
        Ok(self.platform().phys_to_virt(first.map_err(|_| OutOfMemory)?.start_address()))
    }
}

/// The pages of a [`Heap`](topomem_percpu::Heap) are frames of the CPU's node; nothing else is needed for a heap
/// over frames.
///
/// What the heap refuses ([`PageSource::refused`]) or finds (`PageSource::reported`, feature `hardening`) panics with
/// the facts: somebody uses memory that may be another's. A kernel that does something else about it has a source of
/// its own, whose other methods call these.
///
/// ```
/// # use core::ptr::NonNull;
/// # use topomem_percpu::{CpuId, Heap, Platform};
/// # use topomem_numa::frames::Frames;
/// # struct Kernel;
/// # unsafe impl Platform for Kernel {
/// #     fn current_cpu(&self) -> CpuId { CpuId::BOOT }
/// #     fn phys_to_virt(&self, _: topomem_percpu::PhysAddr) -> NonNull<u8> { NonNull::dangling() }
/// # }
/// static FRAMES: Frames<Kernel> = Frames::new(Kernel);
/// // In a kernel also `#[global_allocator]`.
/// static HEAP: Heap<Kernel, &Frames<Kernel>> = Heap::new(Kernel, &FRAMES);
/// ```
// SAFETY: a run of frames is the heap's alone until it is freed, and the direct map is valid for reads and writes
// (the platform's promise).
unsafe impl<P: Platform> PageSource for Frames<P> {
    fn allocate(&self, pin: &CpuPin, node: NodeId, order: Order) -> Result<NonNull<u8>, OutOfMemory> {
        let request = self.heap_request(pin, node, order);
        let frame = self.alloc(pin, &request).or_else(|_| self.alloc(pin, &request.emergency()));
        let frame = frame.map_err(|_| OutOfMemory)?;
        Ok(self.platform().phys_to_virt(frame.start_address()))
    }

    unsafe fn free(&self, pin: &CpuPin, run: NonNull<u8>, order: Order) {
        // SAFETY: `allocate` took it from the allocator with this order; the caller's promise.
        let freed = unsafe { Frames::free(self, pin, self.frame_at(run), order) };
        debug_assert!(freed.is_ok(), "{freed:?}");
    }

    fn allocate_run(
        &self,
        pin: &CpuPin,
        node: NodeId,
        length: RunLength,
        align: Order,
    ) -> Result<NonNull<u8>, OutOfMemory> {
        let order = length.order().unwrap_or(Order::FRAME);
        self.run(pin, &self.heap_request(pin, node, order), length, align)
    }

    fn allocate_run_zeroed(
        &self,
        pin: &CpuPin,
        node: NodeId,
        length: RunLength,
        align: Order,
    ) -> Result<NonNull<u8>, OutOfMemory> {
        let order = length.order().unwrap_or(Order::FRAME);
        self.run(pin, &self.heap_request(pin, node, order).zeroed(), length, align)
    }

    unsafe fn free_run(&self, pin: &CpuPin, run: NonNull<u8>, length: RunLength) {
        let first = self.frame_at(run);
        // A run whose length was changed to an order's is none of that order for an allocator that checks
        // each free, nor if it isn't aligned to its size. A refused free has changed nothing.
        let aligned = |order: &Order| first.start_address().is_aligned(order.bytes());
        if let Some(order) = length.order().filter(aligned)
            // SAFETY: `allocate_run` took it from the allocator, and it has this length; the caller's
            // promise.
            && unsafe { Frames::free(self, pin, first, order) }.is_ok()
        {
            return;
        }
        // SAFETY: as above.
        let freed = unsafe { Frames::free_run(self, pin, first, length.pages()) };
        debug_assert!(freed.is_ok(), "{freed:?}");
    }

    unsafe fn extend_run(
        &self,
        pin: &CpuPin,
        run: NonNull<u8>,
        from: RunLength,
        to: RunLength,
    ) -> Result<(), NotInPlace> {
        // SAFETY: `allocate_run` took it from the allocator, and it has that length; the caller's promise.
        unsafe { Frames::extend_run(self, pin, self.frame_at(run), from.pages(), to.pages()) }
            .map_err(|_| NotInPlace)
    }

    unsafe fn shrink_run(
        &self,
        pin: &CpuPin,
        run: NonNull<u8>,
        from: RunLength,
        to: RunLength,
    ) -> Result<(), NotInPlace> {
        // SAFETY: as in `extend_run`; the caller gives up what is beyond `to`.
        unsafe { Frames::shrink_run(self, pin, self.frame_at(run), from.pages(), to.pages()) }
            .map_err(|_| NotInPlace)
    }

    fn node_of_cpu(&self, cpu: CpuId) -> NodeId {
        Frames::node_of_cpu(self, cpu)
    }

    fn node_with_memory(&self, node: NodeId) -> Option<NodeId> {
        Frames::node_with_memory(self, node)
    }

    fn refused(&self, invalid: InvalidFree) {
        panic!("{invalid}");
    }

    #[cfg(feature = "hardening")]
    fn reported(&self, report: &topomem_percpu::Report) {
        panic!("{report}");
    }
}
