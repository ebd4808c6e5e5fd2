//! Frames for the kernel, with reclaim if none is free, and the reserve for page tables and the heap.

use topomem_numa::frames::{AllocError, FrameRequest, FreeError};
use topomem_percpu::{CpuPin, Order, PhysFrame};

use crate::Machine;
use crate::service::MemoryService;

impl<P: Machine> MemoryService<P> {
    /// Returns `request` for memory visible to programs: with zeros in it.
    #[inline(always)]
    pub(crate) fn blank(&self, request: FrameRequest) -> FrameRequest {
        self.fault.blank(request)
    }

    /// Allocates a run of frames. If memory is short, first frees retired frames, abandoned spaces,
    /// and page tables without mappings.
    ///
    /// Any context may call the function, interrupt handlers included. It calls no waker, and does
    /// a bounded amount of work if memory is short (about a millisecond).
    ///
    /// # Errors
    ///
    /// Returns [`AllocError`] as [`Frames::alloc`](topomem_numa::frames::Frames::alloc) does.
    /// Returns [`AllocError::WouldBlock`] also if
    /// frames become free after remote CPUs have answered, or after the next round of the service
    /// task.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// use topomem::{FrameRequest, Order};
    ///
    /// let run = service.alloc(pin, &FrameRequest::order(Order::HUGE))?;
    /// // SAFETY: the run was just allocated, and is not used.
    /// unsafe { service.free(pin, run, Order::HUGE)? };
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub fn alloc(&self, pin: &CpuPin, request: &FrameRequest) -> Result<PhysFrame, AllocError> {
        self.frames
            .alloc(pin, request)
            .or_else(|error| self.reclaim_and_retry(pin, error, || self.frames.alloc(pin, request)))
    }

    /// Frees a run allocated by [`MemoryService::alloc`] with `order`.
    ///
    /// Any context may call the function, interrupt handlers included. It calls no waker.
    ///
    /// # Errors
    ///
    /// Returns [`FreeError`] as [`Frames::free`](topomem_numa::frames::Frames::free) does. The run is unchanged then.
    ///
    /// # Safety
    ///
    /// No context uses the run any more.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// use topomem::{FrameRequest, Order};
    ///
    /// let frame = service.alloc(pin, &FrameRequest::frame())?;
    /// // SAFETY: the frame was just allocated, and is not used.
    /// unsafe { service.free(pin, frame, Order::FRAME)? };
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub unsafe fn free(&self, pin: &CpuPin, run: PhysFrame, order: Order) -> Result<(), FreeError> {
        // SAFETY: as the caller promises.
        unsafe { self.frames.free(pin, run, order) }
    }

    /// As [`MemoryService::alloc`], for page tables and other records of the service, and for the heap: if nothing
    /// else can be had, the frames come from the reserve below the minimum watermark.
    pub(crate) fn alloc_from_reserve(
        &self,
        pin: &CpuPin,
        request: &FrameRequest,
    ) -> Result<PhysFrame, AllocError> {
        self.alloc(pin, request)
            .or_else(|error| self.or_of_reserve(error, || self.frames.alloc(pin, &request.emergency())))
    }

    /// Makes `attempt`, which may use the reserve, if `error` says that there is no frame.
    #[cold]
    pub(crate) fn or_of_reserve<T>(
        &self,
        error: AllocError,
        attempt: impl FnOnce() -> Result<T, AllocError>,
    ) -> Result<T, AllocError> {
        // What the first attempts said of memory to come holds, if the reserve is empty, too.
        if super::reclaim::is_short(&error) { attempt().map_err(|_| error) } else { Err(error) }
    }
}
