//! Runs at an address that the caller chooses.

use core::fmt;

use topomem_percpu::{CpuPin, PhysFrame, Platform};

use crate::frames::Frames;
use crate::frames::region::bitmap::{ClaimError, masks};
use crate::frames::region::block::Ownership;
use crate::frames::region::free::by_block;
use crate::frames::region::marks::AllocKind;
use crate::frames::region::{BlockIndex, Region};
use crate::frames::types::{BLOCK, FrameNumber, FrameRequest};

/// An error of [`Frames::alloc_at`]. Nothing has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AllocAtError {
    /// [`Frames::init`] has not run.
    NotReady,
    /// The run is not of 1 to 511 frames.
    Count(u64),
    /// Not all frames are managed memory of one node and zone: some frames are reserved, or outside of all memory.
    OutOfRange(PhysFrame),
    /// Some frames are allocated or retired, or the zone would be down to its reserve, or frames are free in another
    /// CPU's magazine: that CPU was asked to drain, as by [`Frames::alloc`], so a later attempt may succeed.
    NotFree(PhysFrame),
}

impl fmt::Display for AllocAtError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = |frame: &PhysFrame| frame.start_address().as_u64();
        match self {
            AllocAtError::NotReady => f.write_str("the frame allocator has no memory yet"),
            AllocAtError::Count(count) => write!(f, "a run of {count} frames is not between 1 and 511"),
            AllocAtError::OutOfRange(frame) => {
                write!(f, "not all frames from {:#x} on are managed", address(frame))
            }
            AllocAtError::NotFree(frame) => {
                write!(f, "not all frames from {:#x} on are free", address(frame))
            }
        }
    }
}

impl core::error::Error for AllocAtError {}

impl<P: Platform> Frames<P> {
    /// Allocates exactly the run of `count` frames from `first` on, fewer than 512. The run is like the runs
    /// of [`Frames::alloc_run`], freed by [`Frames::free_run`]. The memory is not cleared.
    ///
    /// For memory that a device or a boot protocol wants at its place, and for runs that are to lie beside others.
    ///
    /// Bound: two compare-and-swaps for 64 frames; after a failure, a drain of the CPU's magazine and of the node's pool
    /// of zeroed frames, and another attempt. Lock-free, and safe in interrupt and NMI handlers.
    ///
    /// # Errors
    ///
    /// Nothing has changed after an error.
    ///
    /// - [`AllocAtError::NotReady`] if [`Frames::init`] has not run.
    /// - [`AllocAtError::Count`] if `count` is not 1 to 511.
    /// - [`AllocAtError::OutOfRange`] if the allocator does not manage all of the frames, as one node's and zone's.
    /// - [`AllocAtError::NotFree`] if the frames cannot be taken now.
    ///
    /// # Examples
    ///
    /// ```
    /// # use topomem_numa::frames::{AllocAtError, Frames};
    /// # use topomem_percpu::{CpuId, Platform};
    /// # use topomem_percpu::{PhysAddr, PhysFrame};
    /// # struct Kernel;
    /// # unsafe impl Platform for Kernel {
    /// #     fn current_cpu(&self) -> CpuId { CpuId::BOOT }
    /// # }
    /// # static FRAMES: Frames<Kernel> = Frames::new(Kernel);
    /// let first = PhysFrame::containing_address(PhysAddr::new(0x8000_0000));
    /// let taken = FRAMES.alloc_at(&Kernel.pin(), first, 16);
    /// # assert_eq!(taken, Err(AllocAtError::NotReady));
    /// ```
    pub fn alloc_at(&self, pin: &CpuPin, first: PhysFrame, count: u64) -> Result<(), AllocAtError> {
        let ready = self.ready().ok_or(AllocAtError::NotReady)?;
        if count == 0 || count >= BLOCK {
            return Err(AllocAtError::Count(count));
        }
        let (start, not_free) = (FrameNumber::of(first), AllocAtError::NotFree(first));
        let region = ready.state.region_of(start).filter(|region| region.manages(start, count));
        let region = region.ok_or(AllocAtError::OutOfRange(first))?;
        // A frame retired since this check was allocated first.
        if region.retired.any_pending()
            || !ready.state.may_take(region.node, region.zone, &FrameRequest::frame(), count)
        {
            return Err(not_free);
        }
        if !region.claim_at(start, count) {
            self.drain_all();
            self.drain(pin);
            ready.state.node(region.node).into_iter().for_each(|node| _ = ready.spill_zeroed(node));
            if !region.claim_at(start, count) {
                return Err(not_free);
            }
        }
        ready.state.account_shared(region, -(count as i64));
        ready.state.record_alloc(start, AllocKind::Run(count));
        Ok(())
    }
}

impl Region {
    /// Claims exactly the `count` frames from `first` on, of one block or of two, or nothing.
    fn claim_at(&self, first: FrameNumber, count: u64) -> bool {
        // Frames that are claimed and given back are free all the time.
        let _transit = self.transit();
        let parts = || by_block(first, count);
        for (index, (frame, count)) in parts().enumerate() {
            if !self.claim_part(self.block_of(frame), frame.bit_in_block(), count as usize) {
                for (frame, count) in parts().take(index) {
                    for (word, mask) in masks(frame.bit_in_block(), count as usize) {
                        let returned = self.free_word(self.block_of(frame), word, mask);
                        debug_assert!(returned.is_ok(), "{returned:?}");
                    }
                }
                return false;
            }
        }
        true
    }

    /// Claims exactly `count` frames of a block from its frame `start` on, or nothing. The caller is in transit.
    fn claim_part(&self, block: BlockIndex, start: usize, count: usize) -> bool {
        let (chunk, bit) = self.chunk_of(block);
        let opened = chunk.whole.take(bit);
        if opened {
            self.open(block, 0, Ownership::Shared);
        }
        match self.line(block).claim_run(start, count) {
            // As in `claim_partial`: bits in a block without a bitmap represent no frames, and are gone now.
            Ok(()) => self.entry(block).load().has_bitmap(),
            Err(missed) => {
                if opened || missed == ClaimError::RolledBack {
                    self.update_hints(block);
                }
                false
            }
        }
    }
}
