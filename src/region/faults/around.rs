//! Frames for the pages around a page's first write.

use topomem_numa::frames::FrameRequest;
use topomem_percpu::{CpuPin, Order, PhysFrame};

use crate::Machine;
use crate::address_space::SpaceCore;
use crate::page_table::Chain;
use crate::service::memory::frame_memory;

/// Frames of zeros, allocated for a fault with possibly fewer needed.
pub(super) struct SpareFrames<'a, P: Machine> {
    core: &'static SpaceCore<P>,
    pin: &'a CpuPin,
    frames: Chain,
}

impl<'a, P: Machine> SpareFrames<'a, P> {
    #[inline]
    pub(super) fn none(core: &'static SpaceCore<P>, pin: &'a CpuPin) -> SpareFrames<'a, P> {
        SpareFrames { core, pin, frames: Chain::EMPTY }
    }

    /// Allocates up to `count` frames without waiting. Called with no claim held, since the frames
    /// may have to be zeroed.
    #[cold]
    #[inline(never)]
    pub(super) fn fill(&mut self, count: u64) {
        let frames = self.core.service.frames();
        let request = self.core.service.blank(FrameRequest::frame());
        for _ in 0..count {
            let Ok(frame) = frames.alloc(self.pin, &request) else { break };
            frame_memory::take_over(frames, frame);
            self.frames.push(frames, frame);
        }
    }

    /// Takes a frame out.
    pub(super) fn pop(&mut self) -> Option<PhysFrame> {
        self.frames.pop(self.core.service.frames())
    }

    #[cold]
    #[inline(never)]
    fn give_back(&mut self) {
        while let Some(frame) = self.pop() {
            // SAFETY: the frame was allocated for this fault, and is mapped nowhere.
            unsafe {
                frame_memory::release_own(self.core.service.frames(), self.pin, frame, Order::FRAME);
            }
        }
    }
}

impl<P: Machine> Drop for SpareFrames<'_, P> {
    #[inline]
    fn drop(&mut self) {
        if !self.frames.is_empty() {
            self.give_back();
        }
    }
}
