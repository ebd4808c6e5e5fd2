//! Frames allocated for a fault before its page is claimed.

use core::cell::Cell;

use topomem_numa::frames::{FrameRequest, Policy};
use topomem_percpu::{CpuPin, Order, PhysFrame};

use super::fault::FaultError;
use super::large::SparePage;
use super::object::SpareShare;
use crate::Machine;
use crate::address_space::SpaceCore;
use crate::page_table::RecordNumber;
use crate::region::numa::Placer;
use crate::service::memory::frame_memory;

/// A frame allocated for a page with possibly no need for it.
pub(in crate::region) struct Spare<'a, P: Machine> {
    pub(super) core: &'static SpaceCore<P>,
    pub(super) pin: &'a CpuPin,
    pub(super) page: u64,
    pub(super) frame: Option<PhysFrame>,
    /// Whether the frame is known to be zeroed.
    pub(super) zeroed: Zeroed,
    /// Whose policy placed the frame.
    pub(super) placer: Placer,
    /// The policy of the region at the last look, if it has one.
    pub(super) policy: Cell<Policy>,
    pub(super) large: SparePage<'a, P>,
    pub(in crate::region) share: SpareShare<'a, P>,
    /// The record of the page's region at the last look.
    pub(super) record: Cell<Option<RecordNumber>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::region) enum Zeroed {
    Yes,
    No,
}

impl<P: Machine> Spare<'_, P> {
    pub(super) fn fill(&mut self, zeroed: Zeroed, placer: Placer) -> Result<(), FaultError> {
        self.give_back();
        let request = match zeroed {
            Zeroed::Yes => self.core.service.blank(FrameRequest::frame()),
            Zeroed::No => FrameRequest::frame(),
        };
        let request = self.core.placed(request, self.page, placer.policy(&mut self.policy));
        let frame = self.core.service.alloc(self.pin, &request).map_err(FaultError::OutOfFrames)?;
        frame_memory::take_over(self.core.service.frames(), frame);
        (self.frame, self.zeroed, self.placer) = (Some(frame), zeroed, placer);
        Ok(())
    }

    fn give_back(&mut self) {
        if let Some(frame) = self.frame.take() {
            // SAFETY: the frame was allocated for this fault, and is mapped nowhere.
            unsafe { frame_memory::release_own(self.core.service.frames(), self.pin, frame, Order::FRAME) };
        }
    }

    /// Returns the frame, if present, placed by this policy and zeroed if needed.
    pub(in crate::region) fn get(&self, zeroed: Zeroed, placer: Placer) -> Option<PhysFrame> {
        let fits = (zeroed == Zeroed::No || self.zeroed == Zeroed::Yes) && self.placer == placer;
        self.frame.filter(|_| fits)
    }
}

impl<P: Machine> Drop for Spare<'_, P> {
    fn drop(&mut self) {
        self.give_back();
    }
}
