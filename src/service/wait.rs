//! Waiting for memory that has to be freed first.

use core::fmt;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll};

use topomem_numa::frames::{AllocError, AllocFuture, FrameRequest};
use x86_64::structures::paging::PhysFrame;

use super::MemoryService;
use crate::Machine;

impl<P: Machine> MemoryService<P> {
    /// Waits until the request can be served: as [`Frames::alloc_async`], but while it waits, the
    /// service task frees what [`MemoryService::alloc`] would.
    ///
    /// May be dropped at any time, in any context. Poll it in tasks.
    ///
    /// [`Frames::alloc_async`]: topomem_numa::frames::Frames::alloc_async
    pub const fn alloc_async(&self, request: FrameRequest) -> Allocation<'_, P> {
        Allocation { service: self, waiting: self.frames.alloc_async(request) }
    }
}

/// Resolves to a run of frames, once there is one. See [`MemoryService::alloc_async`].
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
            // It waits by now, so the task sees that frames are wanted.
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
