//! Regions whose pages are those of a memory object.

use core::cell::Cell;
use core::ops::ControlFlow;

use topomem_percpu::CpuPin;
use topomem_percpu::sync::atomic::Ordering;
use topomem_shootdown::VirtAddr;
use x86_64::structures::paging::PhysFrame;

use super::attributes::{Kind, Region, Sharing};
use super::error::MmapError;
use super::fault::{FaultAccess, FaultError, Refusal, Resolved, Spare, Zeroed};
use super::mmap::{address, pages_from, pages_in};
use super::record::Record;
use super::request::MapRequest;
use crate::Machine;
use crate::address_space::{AddressSpace, SpaceCore};
use crate::object::{
    Mapped, MemoryObject, Missing, ObjectError, ObjectId, PageFrame, Residency, SharedWrites, Use, Writable,
    share_of,
};
use crate::page_table::{Answer, Found, Leaf, Level, Ownership, Reach, RegionId, TableMemory};
use crate::service::frame_memory;

/// What of an object a region shows.
#[derive(Debug)]
pub struct ObjectMapping<'o, P: Machine> {
    object: &'o MemoryObject<P>,
    offset: u64,
    sharing: Sharing,
    writes: SharedWrites,
}

impl<'o, P: Machine> ObjectMapping<'o, P> {
    /// Shows `object` from its byte `offset` on, a multiple of 4096; `sharing` says who sees what is written to
    /// the region.
    #[must_use]
    pub const fn new(object: &'o MemoryObject<P>, offset: u64, sharing: Sharing) -> ObjectMapping<'o, P> {
        ObjectMapping { object, offset, sharing, writes: SharedWrites::Permitted }
    }

    /// The same for who may read the object alone: if the region is shared, it cannot come to be writable, by
    /// [`mprotect`](AddressSpace::mprotect) neither.
    #[must_use]
    pub const fn deny_writes(self) -> ObjectMapping<'o, P> {
        ObjectMapping { writes: SharedWrites::Denied, ..self }
    }
}

/// Which part of an object a region shows, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MappedObject {
    /// The object's number.
    pub id: ObjectId,
    /// Which byte of the object is the region's first.
    pub offset: u64,
}

/// The part of an object that a region shows from an address on.
#[derive(Debug)]
pub struct ObjectPart<P: Machine> {
    /// The object.
    pub object: MemoryObject<P>,
    /// Which byte of the object the page of the address begins with.
    pub offset: u64,
    /// How many bytes the region has from that page on.
    pub length: u64,
    /// Who sees what is written there.
    pub sharing: Sharing,
    /// May the region come to be writable, if it is shared?
    pub writes: SharedWrites,
}

/// A share of an object's frame that a fault has counted, and that no entry has yet.
pub(super) struct SpareShare<'a, P: Machine> {
    core: &'static SpaceCore<P>,
    pin: &'a CpuPin,
    frame: Cell<Option<PhysFrame>>,
}

impl<'a, P: Machine> SpareShare<'a, P> {
    pub fn none(core: &'static SpaceCore<P>, pin: &'a CpuPin) -> SpareShare<'a, P> {
        SpareShare { core, pin, frame: Cell::new(None) }
    }

    /// Counts a further holder of `frame`, which the caller keeps allocated meanwhile.
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

    /// An entry has the share.
    pub fn take(&self) {
        self.frame.set(None);
    }

    /// Drops the share, if there is one.
    pub fn give_back(&self) {
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

impl<P: Machine> SpaceCore<P> {
    /// Tells whether `frame`, which the page `page` of the region `region` is mapped to, is the object's own that the
    /// region shows. The caller has claimed the page's entry.
    pub(super) fn is_of_object(&self, region: RegionId, page: u64, frame: PhysFrame) -> bool {
        let record = region.record().filter(|_| Region::of(region).kind() == Kind::Object);
        let is_its_own = record.and_then(|number| {
            self.records.with(number, |record| {
                let mapped = record.object.as_ref()?;
                Some(mapped.object.core().has_frame(mapped.page(page), frame))
            })
        });
        is_its_own == Some(true)
    }
}

impl<P: Machine> AddressSpace<P> {
    /// Makes a region whose pages are those of an object, as `mapping` says: otherwise as
    /// [`AddressSpace::mmap`] does. The kind of the region is [`Kind::Object`].
    ///
    /// A page is mapped at the first access. Writes to a shared region are seen by all that map the object; a
    /// private region gets a copy of a page that it writes to. Accesses beyond the page with the object's
    /// last byte are [`FaultError::BeyondEnd`], however long the region is.
    ///
    /// # Errors
    ///
    /// [`MmapError`]; nothing has changed. [`MmapError::Denied`]: a shared region is to be writable, of an object
    /// that may be read alone. [`MmapError::WriteExecute`]: the region would be shared and writable while another
    /// mapping of the object, in whichever space, may be executed, or the other way round. That does not depend
    /// on which pages of the object are mapped. Regions that may be both written and executed
    /// ([`Access::write_execute`](crate::Access::write_execute)) are not refused, and
    /// [`MemoryObject::permit_write_execute`] has the rule not hold for an object.
    pub fn mmap_object(
        &self,
        pin: &CpuPin,
        request: &MapRequest,
        mapping: ObjectMapping<'_, P>,
    ) -> Result<VirtAddr, MmapError> {
        let ObjectMapping { object, offset, sharing, writes } = mapping;
        if !offset.is_multiple_of(4096) {
            return Err(MmapError::MisalignedOffset(offset));
        }
        let pages = pages_in(request.length()).ok_or(MmapError::NoRoom)?;
        (offset >> 12).checked_add(pages).filter(|end| end >> 51 == 0).ok_or(MmapError::OffsetOverflow)?;
        let region = request.region().with_kind(Kind::Object).with_sharing(sharing);
        if writes == SharedWrites::Denied && sharing == Sharing::Shared && region.access().writes() {
            return Err(MmapError::Denied);
        }
        self.core().table.note_shared();
        let claim = region.claim();
        let record = |first: u64| Record {
            object: Some(Mapped {
                object: object.clone(),
                back: (offset >> 12).wrapping_sub(first),
                writes,
                claim,
            }),
            ..request.record().unwrap_or(Record::PLAIN)
        };
        self.map_region(pin, request, region, Some(&record))
    }

    /// Returns which part of which object the region of `address` shows from the page of `address` on.
    #[must_use]
    pub fn object_at(&self, pin: &CpuPin, address: VirtAddr) -> Option<ObjectPart<P>> {
        let page = address.as_u64() >> 12;
        let range = self.next_region(pin, VirtAddr::new_truncate(page << 12))?;
        if range.start().as_u64() > page << 12 {
            return None;
        }
        let mapped = self.record_of_page(pin, page)?.object?;
        Some(ObjectPart {
            offset: mapped.page(page) << 12,
            writes: mapped.writes,
            object: mapped.object,
            length: range.end().as_u64() - (page << 12),
            sharing: range.region().sharing(),
        })
    }

    /// Returns the record of the region of `page`, if it has one.
    pub(super) fn record_of_page(&self, pin: &CpuPin, page: u64) -> Option<Record<P>> {
        let core = self.core();
        core.table.look_with(core.service.tables(pin), page, |found, _| {
            found.region().and_then(RegionId::record).map(|number| core.records.get(number))
        })
    }

    /// Writes to `pages` what each page from `start` on is (mincore(2) of Linux): of a memory object, whether the
    /// object has it in memory, mapped or not; else whether it is mapped, which counts as
    /// [`Residency::Dirty`].
    ///
    /// Costs an entry for each page. Pages that other CPUs change meanwhile are seen before or after.
    ///
    /// # Errors
    ///
    /// The address of the first page that belongs to no region (ENOMEM); the pages before it are written.
    pub fn residency(&self, pin: &CpuPin, start: VirtAddr, pages: &mut [Residency]) -> Result<(), VirtAddr> {
        let core = self.core();
        let first = start.as_u64() >> 12;
        let range = pages_from(first, pages.len() as u64).filter(|range| self.may_map(*range));
        let range = range.ok_or(start)?;
        let mut hole = None;
        core.table.visit(core.service.tables(pin), range, |part, found| {
            let (region, is_mapped) = match found {
                Found::Reserved(region) => (Region::of(region), false),
                Found::Mapped(_, Some(region)) => (Region::of(region), true),
                Found::Vacant | Found::Mapped(_, None) => {
                    hole = Some(part.first);
                    return ControlFlow::Break(());
                }
            };
            for page in part.first..=part.last {
                let of_object = region.record().filter(|_| region.kind() == Kind::Object);
                let of_object = of_object.and_then(|number| {
                    core.records.with(number, |record| {
                        let mapped = record.object.as_ref()?;
                        Some(mapped.object.residency(mapped.page(page) << 12))
                    })
                });
                pages[(page - first) as usize] = match of_object {
                    Some(residency) if residency != Residency::Absent => residency,
                    _ if is_mapped => Residency::Dirty,
                    _ => Residency::Absent,
                };
            }
            ControlFlow::Continue(())
        });
        hole.map_or(Ok(()), |page| Err(address(page)))
    }

    /// Decides what is done about `page` of `region`, whose pages are an object's; `mapped` permits less than
    /// the access needs. `None`: what is done about private memory.
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
            let policy = self.core().policy_of(region);
            let frame = spare.get(Zeroed::No, policy).ok_or(Refusal::NeedsFrame(policy))?;
            // SAFETY: the new frame is the fault's alone, and the object's stays while the entry is claimed.
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

    /// Has the page `page` of `object` be in memory.
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

    /// Returns how many faults were answered after they had waited for a pager
    /// ([`PageFault::after_wait`](super::PageFault::after_wait)).
    #[must_use]
    pub fn major_faults(&self) -> u64 {
        self.core().per_cpu.iter().map(|cpu| cpu.major_faults.load(Ordering::Relaxed)).sum()
    }
}
