//! Bad frames: taken out of circulation for good.

use core::fmt;

use topomem_percpu::sync::atomic::{Ordering, fence};
use topomem_percpu::{CpuPin, Platform};
use x86_64::structures::paging::PhysFrame;

use super::alloc::{frame, number};
use super::machine::Machine;
use super::region::{BLOCK, BlockIndex, Miss, Region};
use super::retired::{CAPACITY, Retirement, Unlisted};
use super::zeroed::pooled;
use super::{Drained, Frames};

/// When a frame given to [`Frames::retire`] leaves circulation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retired {
    /// It was free, and has.
    Now,
    /// A CPU's cache had it, or the pool of zeroed frames: when that CPU drains, or the pool's next
    /// request meets it, unless the CPU hands the frame out before; then, when the frame is freed.
    WhenDrained,
    /// It is allocated, or was on its way between two places: when it is freed.
    WhenFreed,
}

/// Why a frame was not retired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetireError {
    /// The frame is in no node's memory, or [`Frames::init`] has not run.
    OutOfRange(PhysFrame),
    /// The memory map reserves the frame; it is never handed out.
    Reserved(PhysFrame),
    /// It was retired before.
    AlreadyRetired {
        /// The frame.
        frame: PhysFrame,
        /// How far that has come.
        state: Retirement,
    },
    /// The list of the frame's stretch of memory is full.
    Full {
        /// How many frames it holds.
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
    /// Takes a frame out of circulation for good: a machine check says that it is bad.
    ///
    /// A free frame leaves at once; the block around it is broken up, its other frames stay free.
    /// An allocated one stays its owner's, alone or as part of a larger run, and does not come
    /// back when that run is freed; the rest of the run does. Every CPU is asked to drain, so
    /// that no magazine keeps the frame or takes it back; the node's pool of zeroed frames goes home.
    ///
    /// **Guarantee.** A request that starts after this call has returned gets the frame only from
    /// a magazine that held it, or took it back, before its CPU answered the request to drain
    /// (at its next free, refill or [`Frames::service`]). Once every CPU has answered, and whoever
    /// had the frame by then has freed it, nobody gets it again, and nothing counts it as free.
    /// Its block serves no magazines any more and never becomes a huge page again.
    ///
    /// Bound: one pass over the region's list of at most 64 frames and over all magazines, and a
    /// drain of this CPU's and of the node's pool; lock-free, and safe in interrupt and NMI handlers, where a magazine
    /// that is in use is drained later.
    ///
    /// # Errors
    /// [`RetireError`]; nothing has changed.
    pub fn retire(&self, pin: &CpuPin, frame: PhysFrame) -> Result<Retired, RetireError> {
        let number = number(frame);
        let machine = self.machine().ok_or(RetireError::OutOfRange(frame))?;
        let region = machine.region_of(number).ok_or(RetireError::OutOfRange(frame))?;
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
            self.account_shared(machine, region, -1);
        }
        // Other frames may have been listed while the block was being broken up.
        self.sweep(machine, region);
        self.drain_all();
        let drained = self.drain(pin);
        let node = machine.node(region.node);
        node.into_iter().for_each(|node| _ = self.spill_zeroed(machine, node));
        if retirement(region, number) == Some(Retirement::Complete) {
            return Ok(Retired::Now);
        }
        // As in a search: frames are in transit from before they leave the bitmap.
        fence(Ordering::SeqCst);
        let cached = self.rack.iter().any(|other| {
            (other.cpu != pin.cpu() || drained == Drained::Later)
                && (other.holds_of(number, 1).is_some()
                    || other.blocks().any(|first| first == number - number % BLOCK)
                    || other.is_moving())
        });
        // On its way into the pool, or out of it, while that was spilt.
        let pooled = pooled(machine, region, number / 64) & 1 << (number % 64) != 0;
        Ok(if cached || pooled { Retired::WhenDrained } else { Retired::WhenFreed })
    }

    /// Has the frame left circulation?
    ///
    /// Cost: a look at the regions of a GiB, and a pass over the region's list.
    pub fn is_retired(&self, frame: PhysFrame) -> bool {
        let number = number(frame);
        let region = self.machine().and_then(|machine| machine.region_of(number));
        region.is_some_and(|region| retirement(region, number) == Some(Retirement::Complete))
    }

    /// Every frame given to [`Frames::retire`], with how far it has come.
    pub fn retired(&self) -> impl Iterator<Item = (PhysFrame, Retirement)> {
        let regions = self.machine().map_or(&[][..], |machine| machine.directory.regions);
        let listed = regions.iter().flat_map(|region| region.retired.iter());
        listed.map(|(number, state)| (frame(number), state))
    }

    /// After frames went home or blocks moved: takes out those that were to retire.
    #[inline]
    pub(super) fn sweep(&self, machine: &Machine, region: &Region) {
        if region.retired.any_pending() {
            self.sweep_pending(machine, region);
        }
    }

    #[cold]
    fn sweep_pending(&self, machine: &Machine, region: &Region) {
        let taken = region.sweep();
        self.account_shared(machine, region, -(taken as i64));
    }

    /// After a claim: false where the run was given back because of frames that are to retire.
    #[cold]
    pub(super) fn stays_taken(
        &self,
        machine: &Machine,
        region: &Region,
        taken: Result<u64, Miss>,
        count: u64,
    ) -> bool {
        let kept = taken.map_or(0, |first| region.withhold(first, count));
        if kept == 0 {
            return true;
        }
        self.account_shared(machine, region, -(kept as i64));
        self.waiters.note();
        false
    }

    /// After a magazine claimed a word: true where it was given back because its block has
    /// retired frames. A magazine that has the word would take such a frame back without a look.
    #[inline]
    pub(super) fn leave_home(
        &self,
        machine: &Machine,
        region: &Region,
        block: BlockIndex,
        word: usize,
        bits: u64,
    ) -> bool {
        if !region.retired.touch_block_of(region.first_frame(block)) {
            return false;
        }
        let kept = region.give_back_word(block, word, bits);
        self.account_shared(machine, region, -(kept as i64));
        self.waiters.note();
        true
    }
}

fn retirement(region: &Region, number: u64) -> Option<Retirement> {
    region.retired.iter().find(|&(listed, _)| listed == number).map(|(_, state)| state)
}
