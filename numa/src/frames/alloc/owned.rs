//! Frames freed automatically.

use core::fmt;
use core::mem::ManuallyDrop;

use topomem_percpu::{Order, PhysFrame, Platform};

use crate::frames::Frames;
use crate::frames::types::{AllocError, FrameRequest};

/// A run of frames that is freed when dropped.
///
/// ```
/// # mod machine { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/machine.rs")); }
/// # machine::run(|frames, pin| {
/// use topomem_numa::Order;
/// use topomem_numa::frames::FrameRequest;
///
/// let run = frames.alloc_owned(&FrameRequest::order(Order::HUGE))?;
/// assert_eq!(run.order(), Order::HUGE);
/// drop(run); // frees the run
/// # let _ = pin;
/// # Ok(())
/// # }).unwrap();
/// ```
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
    ///
    /// ```
    /// # mod machine { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/machine.rs")); }
    /// # machine::run(|frames, pin| {
    /// use topomem_numa::frames::FrameRequest;
    ///
    /// let (first, order) = frames.alloc_owned(&FrameRequest::frame())?.into_raw();
    /// // SAFETY: the run is the caller's, and is not used.
    /// unsafe { frames.free(pin, first, order)? };
    /// # Ok(())
    /// # }).unwrap();
    /// ```
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
    ///
    /// ```
    /// # mod machine { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/machine.rs")); }
    /// # machine::run(|frames, pin| {
    /// use topomem_numa::frames::FrameRequest;
    ///
    /// let page = frames.alloc_owned(&FrameRequest::frame().zeroed())?;
    /// assert!(frames.node_of(page.first()).is_some());
    /// # let _ = pin;
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub fn alloc_owned(&self, request: &FrameRequest) -> Result<OwnedFrames<'_, P>, AllocError> {
        let pin = self.platform().pin();
        let first = self.alloc(&pin, request)?;
        Ok(OwnedFrames { frames: self, first, order: request.order })
    }
}
