//! Frames freed automatically.

use core::fmt;
use core::mem::ManuallyDrop;

use topomem_percpu::{Order, PhysFrame, Platform};

use super::{AllocError, FrameRequest, Frames};

/// A run of frames that is freed when dropped.
pub struct OwnedFrames<'f, P: Platform> {
    frames: &'f Frames<P>,
    first: PhysFrame,
    order: Order,
}

impl<'f, P: Platform> OwnedFrames<'f, P> {
    /// Takes ownership of an allocated run.
    ///
    /// # Safety
    ///
    /// The run was allocated from `frames` with `order`, and the caller gives up its ownership.
    pub const unsafe fn from_raw(frames: &'f Frames<P>, first: PhysFrame, order: Order) -> Self {
        OwnedFrames { frames, first, order }
    }

    /// Returns the run's first frame.
    #[must_use]
    pub const fn first(&self) -> PhysFrame {
        self.first
    }

    /// Returns the run's order.
    #[must_use]
    pub const fn order(&self) -> Order {
        self.order
    }

    /// Releases the run: the holder of the frame frees it.
    #[must_use = "the run leaks unless it is freed"]
    pub fn into_raw(self) -> (PhysFrame, Order) {
        let this = ManuallyDrop::new(self);
        (this.first, this.order)
    }
}

impl<P: Platform> Drop for OwnedFrames<'_, P> {
    fn drop(&mut self) {
        let pin = self.frames.platform().pin();
        // SAFETY: by `from_raw`, the run is allocated and exclusively owned.
        let freed = unsafe { self.frames.free(&pin, self.first, self.order) };
        debug_assert!(freed.is_ok(), "{freed:?}");
    }
}

impl<P: Platform> fmt::Debug for OwnedFrames<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnedFrames").field("first", &self.first).field("order", &self.order).finish()
    }
}

impl<P: Platform> Frames<P> {
    /// Allocates as [`Frames::alloc`] does, with the run freed when the result is dropped.
    ///
    /// # Errors
    ///
    /// As for [`Frames::alloc`].
    pub fn alloc_owned(&self, request: &FrameRequest) -> Result<OwnedFrames<'_, P>, AllocError> {
        let pin = self.platform().pin();
        let first = self.alloc(&pin, request)?;
        Ok(OwnedFrames { frames: self, first, order: request.order })
    }
}
