//! Many frames in one call, and contiguous runs of any length.

use topomem_percpu::{CpuPin, Order, Platform};
use x86_64::structures::paging::PhysFrame;

use super::alloc::{Shape, frame, number};
use super::marks::Given;
use super::region::BLOCK;
use super::request::Caller;
use super::{AllocError, FrameRequest, Frames, FreeError, InvalidRequest, Zeroing};

impl<P: Platform> Frames<P> {
    /// Fills `frames` with runs of the request's order: all or none.
    ///
    /// # Errors
    /// [`AllocError`]; what was taken has gone back.
    pub fn alloc_bulk(
        &self,
        pin: &CpuPin,
        request: &FrameRequest,
        frames: &mut [PhysFrame],
    ) -> Result<(), AllocError> {
        let machine = self.machine().ok_or(AllocError::NotReady)?;
        let request = &FrameRequest { caller: Caller::Bulk, ..*request };
        // Until it is sure that none goes back.
        let _transit = machine.bulks.begin();
        for index in 0..frames.len() {
            match self.alloc(pin, request) {
                Ok(taken) => frames[index] = taken,
                Err(error) => {
                    for &taken in &frames[..index] {
                        // SAFETY: allocated above with this order, and handed to nobody.
                        let freed = unsafe { self.free(pin, taken, request.order) };
                        debug_assert!(freed.is_ok(), "{freed:?}");
                    }
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Takes back single frames; a refused one is skipped.
    ///
    /// # Errors
    /// The first [`FreeError`], after all others were freed.
    ///
    /// # Safety
    ///
    /// As [`Frames::free`], for each.
    pub unsafe fn free_bulk(&self, pin: &CpuPin, frames: &[PhysFrame]) -> Result<(), FreeError> {
        let mut result = Ok(());
        for &frame in frames {
            // SAFETY: as the caller promises.
            let freed = unsafe { self.free(pin, frame, Order::FRAME) };
            result = result.and(freed);
        }
        result
    }

    /// `count` contiguous frames, the first at a multiple of `align` frames; `request`'s order is
    /// not looked at. Give them back with [`Frames::free_run`].
    ///
    /// Up to 256 frames come from one 2 MiB block. 257 to 511 do, or lie across the border of two blocks if a
    /// whole block would have to be broken up for them. From there on they begin with a block and
    /// lie in one GiB, and what the last block has beyond them stays free.
    ///
    /// # Errors
    /// [`AllocError`]; nothing has changed.
    pub fn alloc_run(
        &self,
        pin: &CpuPin,
        request: &FrameRequest,
        count: u64,
        align: u64,
    ) -> Result<PhysFrame, AllocError> {
        let machine = self.machine().ok_or(AllocError::NotReady)?;
        let Some(order) = Order::for_frames(count).filter(|_| count > 0) else {
            return Err(AllocError::InvalidRequest(InvalidRequest::Count(count)));
        };
        if !align.is_power_of_two() || align > Order::GIANT.frames() {
            return Err(AllocError::InvalidRequest(InvalidRequest::Alignment(align)));
        }
        let shape = if count >= BLOCK || align > BLOCK {
            Shape::Long { count, align }
        } else {
            Shape::Short { count, align }
        };
        let request = FrameRequest { order, plain: false, ..*request };
        let number = self.alloc_shared(machine, pin, &request, shape)?;
        machine.mark_given(number, Given::Run(count));
        let first = frame(number);
        if request.zeroed && machine.zeroing == Zeroing::OnRequest {
            self.zero(first, count * 4096);
        }
        Ok(first)
    }

    /// Makes a run from [`Frames::alloc_run`] of `count` frames, a multiple of 512, into so many runs of 2
    /// MiB, each of which is given back by [`Frames::free`] with [`Order::HUGE`].
    ///
    /// The caller has the run, and has not divided it before. Costs a store for each 2 MiB in paranoid mode,
    /// and nothing otherwise.
    pub fn divide_run(&self, first: PhysFrame, count: u64) {
        let Some(machine) = self.machine() else { return };
        let number = number(first);
        debug_assert!(number.is_multiple_of(BLOCK) && count.is_multiple_of(BLOCK), "{first:?}, {count}");
        let Some(region) = machine.region_of(number) else { return };
        let undone = region.take_mark_back(number, Given::Run(count));
        debug_assert!(undone.is_ok(), "{undone:?}");
        for block in (0..count).step_by(BLOCK as usize) {
            machine.mark_given(number + block, Given::Aligned(Order::HUGE));
        }
    }
}
