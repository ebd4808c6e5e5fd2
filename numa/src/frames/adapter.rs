//! The `x86_64` crate's frame allocator traits, for its page-table mappers.

use core::fmt;

use topomem_percpu::{Order, PhysFrame, Platform};
use x86_64::structures::paging::{
    self, FrameAllocator, FrameDeallocator, PageSize, Size1GiB, Size2MiB, Size4KiB,
};

use super::Frames;
use super::types::FrameRequest;

/// Lends a [`Frames`] to code with a `&mut impl FrameAllocator` parameter. Cheap: create one
/// wherever needed.
pub struct FrameSource<'f, P: Platform> {
    frames: &'f Frames<P>,
    request: FrameRequest,
}

impl<P: Platform> Frames<P> {
    /// Returns an adapter that allocates frames according to `request`, except its order.
    ///
    /// ```
    /// # mod machine { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/machine.rs")); }
    /// # machine::run(|frames, pin| {
    /// use topomem_numa::frames::FrameRequest;
    ///
    /// let source = frames.source(FrameRequest::frame().zeroed()); // for page tables of the `x86_64` crate
    /// # let _ = (source, pin);
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub const fn source(&self, request: FrameRequest) -> FrameSource<'_, P> {
        FrameSource { frames: self, request }
    }
}

impl<P: Platform> FrameSource<'_, P> {
    fn alloc_page<S: PageSize>(&self, order: Order) -> Option<paging::PhysFrame<S>> {
        let request = FrameRequest { order, plain: self.request.plain, ..self.request };
        let frame = self.frames.alloc(&self.frames.platform().pin(), &request).ok()?;
        paging::PhysFrame::from_start_address(frame.start_address().try_into().ok()?).ok()
    }

    /// Frees a frame.
    ///
    /// # Safety
    ///
    /// As for [`Frames::free`].
    unsafe fn free_page<S: PageSize>(&self, frame: paging::PhysFrame<S>, order: Order) {
        let frame = PhysFrame::containing_address(frame.start_address().into());
        // SAFETY: as the caller promises.
        let freed = unsafe { self.frames.free(&self.frames.platform().pin(), frame, order) };
        debug_assert!(freed.is_ok(), "{freed:?}");
    }
}

macro_rules! adapt {
    ($size:ty, $order:expr) => {
        // SAFETY: allocated frames are unused, and are handed out once.
        unsafe impl<P: Platform> FrameAllocator<$size> for FrameSource<'_, P> {
            fn allocate_frame(&mut self) -> Option<paging::PhysFrame<$size>> {
                self.alloc_page($order)
            }
        }

        impl<P: Platform> FrameDeallocator<$size> for FrameSource<'_, P> {
            unsafe fn deallocate_frame(&mut self, frame: paging::PhysFrame<$size>) {
                // SAFETY: the trait's contract is that of `Frames::free`.
                unsafe { self.free_page(frame, $order) }
            }
        }
    };
}

adapt!(Size4KiB, Order::FRAME);
adapt!(Size2MiB, Order::HUGE);
adapt!(Size1GiB, Order::GIANT);

impl<P: Platform> fmt::Debug for FrameSource<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrameSource").field("request", &self.request).finish_non_exhaustive()
    }
}
