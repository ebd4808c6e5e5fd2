//! Waiting for memory yet to be freed.

use core::fmt;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll};

use topomem_numa::frames::{AllocError, AllocFuture, FrameRequest};
use topomem_percpu::PhysFrame;

use crate::Machine;
use crate::service::MemoryService;

impl<P: Machine> MemoryService<P> {
    /// Waits until the request can be served, like [`Frames::alloc_async`]. Meanwhile, the service
    /// task frees the same memory as [`MemoryService::alloc`].
    ///
    /// The future may be dropped at any time, in any context. Poll it in tasks.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # use topomem::sim::SimService;
    /// use topomem::FrameRequest;
    ///
    /// async fn frame_for_a_buffer(service: &'static SimService) {
    ///     let frame = service.alloc_async(FrameRequest::frame()).await;
    ///     // ...
    /// #   drop(frame);
    /// }
    /// # booted::run(|service, _| Ok(drop(frame_for_a_buffer(service)))).unwrap();
    /// ```
    ///
    /// [`Frames::alloc_async`]: topomem_numa::frames::Frames::alloc_async
    pub const fn alloc_async(&self, request: FrameRequest) -> Allocation<'_, P> {
        Allocation { service: self, waiting: self.frames.alloc_async(request) }
    }
}

/// The future of [`MemoryService::alloc_async`]: resolves to a run of frames.
#[must_use = "futures do nothing unless polled"]
pub struct Allocation<'s, P: Machine> {
    service: &'s MemoryService<P>,
    waiting: AllocFuture<'s, P>,
}

impl<P: Machine> Future for Allocation<'_, P> {
    type Output = Result<PhysFrame, AllocError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let polled = Pin::new(&mut self.waiting).poll(context);
        if polled.is_pending() {
            // The future waits by now, so the task sees the need for frames.
            self.service.note_work(&self.service.platform.pin());
        }
        polled
    }
}

impl<P: Machine> fmt::Debug for Allocation<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.waiting.fmt(f)
    }
}
