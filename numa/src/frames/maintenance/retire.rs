//! Bad frames: retired for good.

use core::fmt;

use topomem_percpu::sync::atomic::{Ordering, fence};
use topomem_percpu::{CpuPin, PhysFrame, Platform};

use crate::frames::Frames;
use crate::frames::per_cpu::cpu_hotplug::Drained;
use crate::frames::region::Region;
use crate::frames::region::retired::{CAPACITY, Retirement, Unlisted};
use crate::frames::types::FrameNumber;

/// The time at which a frame passed to [`Frames::retire`] is out of use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retired {
    /// Now: the frame was free.
    Now,
    /// A CPU's magazine, or the pool of zeroed frames, held the frame. It is out of use when that
    /// CPU drains, or when the pool's next request finds it. If the CPU hands the frame out before,
    /// it is out of use when it is freed.
    WhenDrained,
    /// The frame is allocated, or was in transit: it is out of use when it is freed.
    WhenFreed,
}

/// An error of [`Frames::retire`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetireError {
    /// The frame is in no node's memory, or [`Frames::init`] has not run.
    OutOfRange(PhysFrame),
    /// The memory map reserves the frame; it is never handed out.
    Reserved(PhysFrame),
    /// The frame was retired before.
    AlreadyRetired {
        /// The frame.
        frame: PhysFrame,
        /// The state of that retirement.
        state: Retirement,
    },
    /// The list of the frame's stretch of memory is full.
    Full {
        /// The number of frames in the list.
        limit: usize,
    },
}

impl fmt::Display for RetireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = |frame: &PhysFrame| frame.start_address().as_u64();
        match self {
            RetireError::OutOfRange(frame) => write!(f, "frame {:#x} is in no node's memory", address(frame)),
            RetireError::Reserved(frame) => write!(f, "frame {:#x} is reserved", address(frame)),
            RetireError::AlreadyRetired { frame, .. } => {
                write!(f, "frame {:#x} was retired before", address(frame))
            }
            RetireError::Full { limit } => write!(f, "{limit} frames of this memory are retired already"),
        }
    }
}

impl core::error::Error for RetireError {}

impl<P: Platform> Frames<P> {
    /// Retires a frame for good, for example because a machine check reported it as bad.
    ///
    /// A free frame is removed at once; the block around it is broken up, and its other frames stay
    /// free. An allocated frame stays with its owner, alone or as part of a larger run, and is
    /// withheld when that run is freed; the rest of the run is freed. Every CPU is asked to drain,
    /// so that no magazine keeps the frame or takes it again; the node's pool of zeroed frames is
    /// emptied.
    ///
    /// **Guarantee.** A request that starts after this call has returned gets the frame only from a
    /// magazine that held it, or took it, before its CPU drained on request (at its next free,
    /// refill or [`Frames::service`]). Once every CPU has drained, and the owner of the frame has
    /// freed it, no request gets it again, and no count includes it as free. Its block serves no
    /// magazines any more and never becomes a huge page again.
    ///
    /// Bound: one pass over the region's list of at most 64 frames and over all magazines, and a
    /// drain of this CPU's magazine and of the node's pool; lock-free, and safe in interrupt and
    /// NMI handlers, in which a magazine in use is drained later.
    ///
    /// # Errors
    ///
    /// After an error nothing has changed.
    ///
    /// - [`RetireError::OutOfRange`] if no node has the frame, or if [`Frames::init`] has not run.
    /// - [`RetireError::Reserved`] if the memory map reserves the frame.
    /// - [`RetireError::AlreadyRetired`] if the frame was retired before.
    /// - [`RetireError::Full`] if 64 frames of the frame's stretch of memory were retired before.
    ///
    /// ```
    /// # mod machine { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/machine.rs")); }
    /// # machine::run(|frames, pin| {
    /// use topomem_numa::frames::FrameRequest;
    ///
    /// let (bad, order) = frames.alloc_owned(&FrameRequest::frame())?.into_raw();
    /// frames.retire(pin, bad)?; // the frame is in use: it is retired when it comes home
    /// // SAFETY: the frame is ours, and is not used.
    /// unsafe { frames.free(pin, bad, order)? };
    /// frames.drain(pin);
    /// assert!(frames.is_retired(bad));
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub fn retire(&self, pin: &CpuPin, frame: PhysFrame) -> Result<Retired, RetireError> {
        let number = FrameNumber::of(frame);
        let ready = self.ready().ok_or(RetireError::OutOfRange(frame))?;
        let region = ready.state.region_of(number).ok_or(RetireError::OutOfRange(frame))?;
        if !region.manages(number, 1) {
            return Err(RetireError::Reserved(frame));
        }
        region.retired.add(number).map_err(|why| match why {
            Unlisted::Already => RetireError::AlreadyRetired {
                frame,
                state: retirement(region, number).unwrap_or(Retirement::Pending),
            },
            Unlisted::Full => RetireError::Full { limit: CAPACITY },
        })?;
        if region.take_out(number) {
            ready.state.account_shared(region, -1);
        }
        // Further frames may have been listed during the breaking up of the block.
        ready.state.sweep(region);
        self.drain_all();
        let drained = self.drain(pin);
        let node = ready.state.node(region.node);
        node.into_iter().for_each(|node| _ = ready.spill_zeroed(node));
        if retirement(region, number) == Some(Retirement::Complete) {
            return Ok(Retired::Now);
        }
        // As in a search: frames are in transit from before they leave the bitmap.
        fence(Ordering::SeqCst);
        let cached = self.magazines.iter().any(|other| {
            (other.cpu != pin.cpu() || drained == Drained::Later)
                && (other.holds_of(number, 1).is_some()
                    || other.blocks().any(|first| first.block() == number.block())
                    || other.is_moving())
        });
        // On its way into the pool, or out of it, while the pool was emptied.
        let pooled = ready.state.pooled(region, number.word()) & number.mask_in_word() != 0;
        Ok(if cached || pooled { Retired::WhenDrained } else { Retired::WhenFreed })
    }

    /// Returns true if the retirement of the frame is complete.
    ///
    /// Cost: a search of the regions of a GiB, and a pass over the region's list.
    pub fn is_retired(&self, frame: PhysFrame) -> bool {
        let number = FrameNumber::of(frame);
        let region = self.state().and_then(|state| state.region_of(number));
        region.is_some_and(|region| retirement(region, number) == Some(Retirement::Complete))
    }

    /// Returns every frame passed to [`Frames::retire`], with the state of its retirement.
    ///
    /// ```
    /// # mod machine { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/machine.rs")); }
    /// # machine::run(|frames, pin| {
    /// assert_eq!(frames.retired().count(), 0);
    /// # let _ = pin;
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub fn retired(&self) -> impl Iterator<Item = (PhysFrame, Retirement)> {
        let regions = self.state().map_or(&[][..], |state| state.directory.regions);
        let listed = regions.iter().flat_map(|&region| region.retired.iter());
        listed.map(|(number, state)| (number.frame(), state))
    }
}

fn retirement(region: &Region, number: FrameNumber) -> Option<Retirement> {
    region.retired.iter().find(|&(listed, _)| listed == number).map(|(_, state)| state)
}
