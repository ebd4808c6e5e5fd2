//! The first access to a page of private memory: the usual fault, with each step inlined into a
//! single function.

use topomem_numa::frames::FrameRequest;
use topomem_percpu::sync::atomic::Ordering;
use topomem_percpu::{CpuPin, PhysFrame};

use super::fault::{FaultAccess, FaultError, Resolved, permits};
use crate::Machine;
use crate::address_space::AddressSpace;
use crate::page_table::{Leaf, Ownership, Reach};
use crate::region::attributes::{Kind, Region};
use crate::service::memory::frame_memory;

/// The outcome of a first access.
pub(super) enum Touched {
    /// The page is mapped.
    Mapped(Resolved),
    /// Nothing has changed. The caller owns the frame of zeros allocated for the page.
    Not(Option<PhysFrame>),
}

impl<P: Machine> AddressSpace<P> {
    /// Handles the first access to `page`, if the page is of private memory without a record, in a
    /// lowest table of a single region, and no other cursor is in the way.
    ///
    /// # Errors
    ///
    /// Returns [`FaultError::OutOfFrames`] if no frame is left.
    #[inline(always)]
    pub(super) fn touch_first(
        &self,
        pin: &CpuPin,
        page: u64,
        tried: FaultAccess,
    ) -> Result<Touched, FaultError> {
        let core = self.core();
        let service = core.service;
        let has_policy = core.policy.is_some() || core.fault_policy.around() > 1;
        if has_policy || !service.fault.may_touch_first() {
            return Ok(Touched::Not(None));
        }
        let (frame, resolved) = if tried == FaultAccess::Write {
            let request = service.blank(FrameRequest::frame());
            let frame = service.alloc(pin, &request).map_err(FaultError::OutOfFrames)?;
            frame_memory::take_over(service.frames(), frame);
            (frame, Resolved::Zeroed)
        } else {
            let Some(frame) = service.zero_frame() else { return Ok(Touched::Not(None)) };
            (frame, Resolved::ZeroPage)
        };
        let leaf_of = |id| {
            let region = Region::of(id);
            let is_plain = region.kind() != Kind::Object && region.record().is_none();
            if !is_plain || region.is_guard() || !permits(region.access(), tried) {
                return None;
            }
            let (protection, ownership) = if tried == FaultAccess::Write {
                (region.protection(), Ownership::Owned)
            } else {
                (region.protection_of_copies(), Ownership::Borrowed)
            };
            Some(Leaf { frame, protection, reach: Reach::Space, ownership })
        };
        if !core.table.map_marked(service.tables(pin), page, leaf_of) {
            return Ok(Touched::Not((tried == FaultAccess::Write).then_some(frame)));
        }
        let counters = core.of_cpu(pin);
        // Relaxed: statistics.
        counters.minor_faults.fetch_add(1, Ordering::Relaxed);
        counters.mapped.fetch_add(1, Ordering::Relaxed);
        Ok(Touched::Mapped(resolved))
    }
}
