//! Regions showing pages of a memory object.

use core::ops::ControlFlow;

use topomem_percpu::sync::atomic::Ordering;
use topomem_percpu::{CpuPin, PhysFrame};
use topomem_shootdown::VirtAddr;

use super::attributes::{Kind, Region, Sharing};
use super::calls::error::MmapError;
use super::calls::mmap::{address, pages_from, pages_in};
use super::calls::request::MapRequest;
use super::record::Record;
use crate::Machine;
use crate::address_space::{AddressSpace, SpaceCore};
use crate::object::{Mapped, MemoryObject, ObjectId, Residency, SharedWrites};
use crate::page_table::{Found, RegionId};

/// The part of an object shown by a region.
///
/// ```
/// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
/// # booted::run(|service, pin| {
/// use topomem::object::MemoryObject;
/// use topomem::region::{MapRequest, ObjectMapping, Sharing};
///
/// let object = MemoryObject::anonymous(service, pin, 4096)?;
/// let space = service.create_space(pin)?;
/// let mapping = ObjectMapping::new(&object, 0, Sharing::Shared);
/// let start = space.mmap_object(pin, &MapRequest::anonymous(4096), mapping)?;
/// assert!(space.object_at(pin, start).is_some());
/// # Ok(())
/// # }).unwrap();
/// ```
#[derive(Debug)]
pub struct ObjectMapping<'o, P: Machine> {
    object: &'o MemoryObject<P>,
    offset: u64,
    sharing: Sharing,
    writes: SharedWrites,
}

impl<'o, P: Machine> ObjectMapping<'o, P> {
    /// Shows `object` from its byte `offset` on, a multiple of 4096. `sharing` decides on the
    /// visibility of writes to the region.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// use topomem::Access;
    /// use topomem::object::{MemoryObject, ObjectMapping};
    /// use topomem::region::{MapRequest, Sharing};
    ///
    /// let space = service.create_space(pin)?;
    /// let file = MemoryObject::anonymous(service, pin, 1 << 20)?;
    /// let view = ObjectMapping::new(&file, 4096, Sharing::Shared).deny_writes();
    /// let request = MapRequest::anonymous(8192).access(Access::READ);
    /// let start = space.mmap_object(pin, &request, view)?;
    /// assert_eq!(space.object_at(pin, start).map(|part| part.offset), Some(4096));
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    #[must_use]
    pub const fn new(object: &'o MemoryObject<P>, offset: u64, sharing: Sharing) -> ObjectMapping<'o, P> {
        ObjectMapping { object, offset, sharing, writes: SharedWrites::Permitted }
    }

    /// Denies writes, for a user with read permission only: a shared region cannot become writable,
    /// not even through [`mprotect`](AddressSpace::mprotect).
    #[must_use]
    pub const fn deny_writes(self) -> ObjectMapping<'o, P> {
        ObjectMapping { writes: SharedWrites::Denied, ..self }
    }
}

/// The part of an object shown by a region, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MappedObject {
    /// The object's number.
    pub id: ObjectId,
    /// The offset in the object of the region's first byte.
    pub offset: u64,
}

/// The part of an object shown by a region from an address on.
#[derive(Debug)]
pub struct ObjectPart<P: Machine> {
    /// The object.
    pub object: MemoryObject<P>,
    /// The offset in the object of the page around the address.
    pub offset: u64,
    /// Number of bytes of the region from this page on.
    pub length: u64,
    /// The visibility of writes.
    pub sharing: Sharing,
    /// Whether the region may become writable, if shared.
    pub writes: SharedWrites,
}

impl<P: Machine> SpaceCore<P> {
    /// Returns whether `frame`, mapped by the page `page` of the region `region`, belongs to the
    /// object shown by the region. The caller has claimed the page's entry.
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
    /// Makes a region showing an object as described by `mapping`, otherwise like
    /// [`AddressSpace::mmap`]. The kind of the region is [`Kind::Object`].
    ///
    /// A page is mapped at the first access. Writes to a shared region are visible to all mappings
    /// of the object. A private region gets a copy of a page at its first write. Accesses beyond
    /// the page with the object's last byte fail with [`FaultError::BeyondEnd`](crate::FaultError::BeyondEnd), however long the
    /// region is.
    ///
    /// # Errors
    ///
    /// Nothing has changed on an error:
    ///
    /// - [`MmapError::MisalignedOffset`] or [`MmapError::OffsetOverflow`] if the offset is invalid.
    /// - [`MmapError::Denied`] if a shared region of a read-only object is to be writable.
    /// - [`MmapError::WriteExecute`] if the region would be shared and writable while another
    ///   mapping of the object, in whichever space, may be executed, or the other way round,
    ///   whichever pages of the object are mapped. Regions both writable and executable
    ///   ([`Access::write_execute`](crate::Access::write_execute)) are not refused.
    ///   [`MemoryObject::permit_write_execute`] lifts the rule for an object.
    /// - All others as for [`AddressSpace::mmap`].
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// use topomem::object::{MemoryObject, ObjectMapping};
    /// use topomem::region::{FaultAccess, MapRequest, PageFault, Sharing};
    ///
    /// let (writer, reader) = (service.create_space(pin)?, service.create_space(pin)?);
    /// let buffer = MemoryObject::anonymous(service, pin, 4096)?;
    /// for space in [&writer, &reader] {
    ///     let shared = ObjectMapping::new(&buffer, 0, Sharing::Shared);
    ///     let start = space.mmap_object(pin, &MapRequest::anonymous(4096), shared)?;
    ///     space.on_page_fault(pin, PageFault::new(start, FaultAccess::Write))?;
    /// }
    /// assert_eq!(buffer.resident_pages(), 1); // both spaces have the same frame
    /// # Ok(())
    /// # }).unwrap();
    /// ```
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

    /// Returns the part of an object shown by the region of `address`, from the page of `address`
    /// on.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// use topomem::VirtAddr;
    ///
    /// let space = service.create_space(pin)?;
    /// assert!(space.object_at(pin, VirtAddr::new(0x1000)?).is_none());
    /// # Ok(())
    /// # }).unwrap();
    /// ```
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

    /// Returns the record of the region of `page`, if any.
    pub(super) fn record_of_page(&self, pin: &CpuPin, page: u64) -> Option<Record<P>> {
        let core = self.core();
        core.table.look_with(core.service.tables(pin), page, |found, _| {
            found.region().and_then(RegionId::record).map(|number| core.records.get(number))
        })
    }

    /// Writes the state of each page from `start` on to `pages` (mincore(2) of Linux). For a memory
    /// object, a page's state is its state in the object, mapped or not. For other memory, a mapped
    /// page counts as [`Residency::Dirty`].
    ///
    /// Cost: an entry for each page. Pages changed by remote CPUs meanwhile are seen before or
    /// after the change.
    ///
    /// # Errors
    ///
    /// Returns the address of the first page without a region (ENOMEM). The states of the preceding
    /// pages are written.
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

    /// Returns the number of faults handled after a wait for a pager
    /// ([`PageFault::after_wait`](super::PageFault::after_wait)).
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// let space = service.create_space(pin)?;
    /// assert_eq!(space.major_faults(), 0); // no fault has waited for a pager
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    #[must_use]
    pub fn major_faults(&self) -> u64 {
        self.core().per_cpu.iter().map(|cpu| cpu.major_faults.load(Ordering::Relaxed)).sum()
    }
}
