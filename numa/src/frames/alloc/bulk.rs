//! Many frames in one call, and contiguous runs of any length.

use topomem_percpu::{CpuPin, Order, PhysFrame, Platform};

use crate::frames::Frames;
use crate::frames::region::marks::AllocKind;
use crate::frames::region::shape::{RunSize, Shape};
use crate::frames::types::{AllocError, BLOCK, Caller, FrameNumber, FrameRequest, InvalidRequest, Zeroing};

impl<P: Platform> Frames<P> {
    /// Fills `frames` with runs of the request's order: all or none.
    ///
    /// # Errors
    ///
    /// As for [`Frames::alloc`]; the runs taken so far are freed.
    ///
    /// ```
    /// # mod machine { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/machine.rs")); }
    /// # machine::run(|frames, pin| {
    /// use topomem_numa::frames::FrameRequest;
    /// use topomem_numa::PhysAddr;
    /// use topomem_numa::PhysFrame;
    ///
    /// let mut pages = [PhysFrame::containing_address(PhysAddr::new(0)); 100];
    /// frames.alloc_bulk(pin, &FrameRequest::frame(), &mut pages)?;
    /// // SAFETY: the frames were just allocated, and are not used.
    /// unsafe { frames.free_bulk(pin, &pages)? };
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub fn alloc_bulk(
        &self,
        pin: &CpuPin,
        request: &FrameRequest,
        frames: &mut [PhysFrame],
    ) -> Result<(), AllocError> {
        let state = self.state().ok_or(AllocError::NotReady)?;
        let request = &FrameRequest { caller: Caller::Bulk, ..*request };
        // Until it is certain that none is freed.
        let _transit = state.bulks.begin();
        for index in 0..frames.len() {
            match self.alloc(pin, request) {
                Ok(taken) => frames[index] = taken,
                Err(error) => {
                    for &taken in &frames[..index] {
                        // SAFETY: allocated above with this order, and not handed out.
                        let freed = unsafe { self.free(pin, taken, request.order) };
                        debug_assert!(freed.is_ok(), "{freed:?}");
                    }
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Allocates `count` contiguous frames, the first at a multiple of `align` frames. Ignores the
    /// order of `request`. Free the run with [`Frames::free_run`].
    ///
    /// Up to 256 frames come from one 2 MiB block. 257 to 511 frames do so too, or lie across the
    /// border of two blocks if a whole block would have to be broken up for them. Longer runs begin
    /// with a block and lie in one GiB; the remainder of the last block stays free.
    ///
    /// # Errors
    ///
    /// Returns [`AllocError::InvalidRequest`] if `count` is not 1 to 2^18, or if `align` is no
    /// power of two of at most 2^18; otherwise as for [`Frames::alloc`]. Nothing has changed.
    ///
    /// ```
    /// # mod machine { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/machine.rs")); }
    /// # machine::run(|frames, pin| {
    /// use topomem_numa::frames::FrameRequest;
    ///
    /// let first = frames.alloc_run(pin, &FrameRequest::frame(), 5, 1)?; // five frames in a row
    /// // SAFETY: the run was just allocated, and is not used.
    /// unsafe { frames.free_run(pin, first, 5)? };
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub fn alloc_run(
        &self,
        pin: &CpuPin,
        request: &FrameRequest,
        count: u64,
        align: u64,
    ) -> Result<PhysFrame, AllocError> {
        let ready = self.ready().ok_or(AllocError::NotReady)?;
        let Some(order) = Order::for_frames(count).filter(|_| count > 0) else {
            return Err(AllocError::InvalidRequest(InvalidRequest::Count(count)));
        };
        if !align.is_power_of_two() || align > Order::GIANT.frames() {
            return Err(AllocError::InvalidRequest(InvalidRequest::Alignment(align)));
        }
        let run = RunSize { frames: count, align };
        let shape = if count >= BLOCK || align > BLOCK { Shape::Long(run) } else { Shape::Short(run) };
        let request = FrameRequest { order, plain: false, ..*request };
        let number = ready.alloc_from_nodes(pin, &request, shape)?;
        ready.state.record_alloc(number, AllocKind::Run(count));
        let first = number.frame();
        if request.zeroed && ready.state.zeroing == Zeroing::OnRequest {
            self.zero(first, count * 4096);
        }
        Ok(first)
    }

    /// Divides a run from [`Frames::alloc_run`] of `count` frames, a multiple of 512, into runs of
    /// 2 MiB. Each of them is freed by [`Frames::free`] with [`Order::HUGE`].
    ///
    /// The caller owns the run, and has not divided it before. Cost: a store for each 2 MiB in
    /// paranoid mode, and nothing otherwise.
    pub fn divide_run(&self, first: PhysFrame, count: u64) {
        let Some(state) = self.state() else { return };
        let number = FrameNumber::of(first);
        debug_assert!(number.is_multiple_of(BLOCK) && count.is_multiple_of(BLOCK), "{first:?}, {count}");
        let Some(region) = state.region_of(number) else { return };
        let undone = region.verify_free(number, AllocKind::Run(count));
        debug_assert!(undone.is_ok(), "{undone:?}");
        for block in (0..count).step_by(BLOCK as usize) {
            state.record_alloc(number + block, AllocKind::Aligned(Order::HUGE));
        }
    }
}
