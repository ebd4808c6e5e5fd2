//! Faults of pages possibly showing a memory object.

use core::cell::Cell;

use topomem_percpu::{CpuPin, PhysFrame};

use crate::Machine;
use crate::address_space::{AddressSpace, SpaceCore};
use crate::object::{Mapped, MemoryObject, Missing, ObjectError, PageFrame, Use, Writable, share_of};
use crate::page_table::TableMemory;
use crate::page_table::{Answer, Leaf, Level, Ownership, Reach};
use crate::region::attributes::{Region, Sharing};
use crate::region::faults::decide::Refusal;
use crate::region::faults::fault::{FaultAccess, FaultError, Resolved};
use crate::region::faults::spare::{Spare, Zeroed};
use crate::service::memory::frame_memory;

/// A share of an object's frame counted by a fault and not yet owned by an entry.
pub(in crate::region) struct SpareShare<'a, P: Machine> {
    core: &'static SpaceCore<P>,
    pin: &'a CpuPin,
    frame: Cell<Option<PhysFrame>>,
}

impl<'a, P: Machine> SpareShare<'a, P> {
    pub(crate) fn none(core: &'static SpaceCore<P>, pin: &'a CpuPin) -> SpareShare<'a, P> {
        SpareShare { core, pin, frame: Cell::new(None) }
    }

    /// Counts a further holder of `frame`, kept allocated by the caller meanwhile.
    fn count(&self, frame: PhysFrame) -> Result<(), Refusal<P>> {
        match self.frame.get() {
            Some(held) if held == frame => return Ok(()),
            Some(_) => return Err(Refusal::OtherShare),
            None => {}
        }
        let shared = self.core.service.frames().share(frame, Level::PAGE);
        shared.map_err(|_| Refusal::Error(FaultError::TooManySharers))?;
        self.frame.set(Some(frame));
        Ok(())
    }

    /// Passes the share to an entry.
    pub(crate) fn take(&self) {
        self.frame.set(None);
    }

    /// Drops the share, if any.
    pub(crate) fn give_back(&self) {
        if let Some(frame) = self.frame.take() {
            // SAFETY: no entry has the share.
            unsafe { frame_memory::release_leaf(self.core.service.frames(), self.pin, &share_of(frame)) };
        }
    }
}

impl<P: Machine> Drop for SpareShare<'_, P> {
    fn drop(&mut self) {
        self.give_back();
    }
}

impl<P: Machine> AddressSpace<P> {
    /// Decides on the handling of `page` of `region`, which shows an object; `mapped` permits less
    /// than the access needs. Returns `None` if the page is to be handled as private memory.
    pub(super) fn decide_object(
        &self,
        spare: &Spare<'_, P>,
        tried: FaultAccess,
        page: u64,
        region: Region,
        mapped: Option<Leaf>,
    ) -> Option<Result<(Answer, Resolved), Refusal<P>>> {
        let number = region.record()?;
        if mapped.is_some() && region.sharing() == Sharing::Private {
            return None;
        }
        self.core().records.with(number, |record| {
            record
                .object
                .as_ref()
                .map(|object| self.answer_object(spare, tried, page, region, mapped, object))
        })
    }

    fn answer_object(
        &self,
        spare: &Spare<'_, P>,
        tried: FaultAccess,
        page: u64,
        region: Region,
        mapped: Option<Leaf>,
        of: &Mapped<P>,
    ) -> Result<(Answer, Resolved), Refusal<P>> {
        let service = self.core().service;
        let index = of.page(page);
        let find = |wanted| {
            of.object.core().find(index, wanted).map_err(|missing| match missing {
                Missing::BeyondEnd => Refusal::Error(FaultError::BeyondEnd),
                Missing::Absent => Refusal::NeedsPage(of.object.clone(), index),
            })
        };
        let leaf = |frame, protection, ownership| {
            Answer::Map(Leaf { frame, protection, reach: Reach::Space, ownership }, Level::PAGE)
        };
        let writes = tried == FaultAccess::Write;
        if region.sharing() == Sharing::Private && writes {
            let PageFrame { frame: from, .. } = find(Use::Read)?;
            let placer = self.core().placer_of(region, &spare.policy);
            let frame = spare.get(Zeroed::No, placer).ok_or(Refusal::NeedsFrame(placer))?;
            // SAFETY: the fault owns the new frame, and the object's frame stays while the entry is
            // claimed.
            unsafe { frame_memory::copy(service.frames(), from, frame) };
            return Ok((leaf(frame, region.protection(), Ownership::Owned), Resolved::PrivateCopy));
        }
        let found = find(if writes { Use::Write } else { Use::Read })?;
        if mapped.is_some_and(|mapped| mapped.frame == found.frame) {
            return Ok((Answer::Permit(region.protection()), Resolved::MadeWritable));
        }
        spare.share.count(found.frame)?;
        let protection = match (region.sharing(), found.writable) {
            (Sharing::Shared, Writable::Yes) => region.protection(),
            _ => region.protection_of_copies(),
        };
        Ok((leaf(found.frame, protection, Ownership::Shared), Resolved::ObjectPage))
    }

    /// Ensures the page `page` of `object` is in memory.
    pub(super) fn have_page(
        &self,
        pin: &CpuPin,
        object: &MemoryObject<P>,
        page: u64,
    ) -> Result<(), FaultError> {
        object.make_present(pin, page).map_err(|error| match error {
            ObjectError::Waits(wait) => FaultError::Waits(wait),
            ObjectError::OutOfFrames(error) => FaultError::OutOfFrames(error),
            _ => FaultError::BeyondEnd,
        })
    }
}
