//! Listing the regions of a space.

use core::ops::ControlFlow;

use topomem_percpu::CpuPin;
use topomem_shootdown::VirtAddr;

use super::attributes::Region;
use super::calls::mmap::address;
use super::object::MappedObject;
use super::record::{FaultCounter, FaultCounts, Record, RegionName};
use crate::Machine;
use crate::address_space::AddressSpace;
use crate::page_table::{Found, Pages, RegionId};

/// A region: consecutive pages with equal attributes.
///
/// ```
/// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
/// # booted::run(|service, pin| {
/// use topomem::region::MapRequest;
///
/// let space = service.create_space(pin)?;
/// let start = space.mmap(pin, &MapRequest::anonymous(8192))?;
/// let found = space.next_region(pin, start).unwrap();
/// assert_eq!((found.start(), found.length()), (start, 8192));
/// # Ok(())
/// # }).unwrap();
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RegionRange {
    pages: Pages,
    region: Region,
    resident: u64,
    name: Option<RegionName>,
    object: Option<MappedObject>,
    faults: Option<FaultCounts>,
}

impl RegionRange {
    /// Returns the start.
    #[must_use]
    pub fn start(&self) -> VirtAddr {
        address(self.pages.first)
    }

    /// Returns the length in bytes.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// use topomem::region::MapRequest;
    ///
    /// let space = service.create_space(pin)?;
    /// let start = space.mmap(pin, &MapRequest::anonymous(5000))?; // rounded up to pages
    /// assert_eq!(space.next_region(pin, start).unwrap().length(), 8192);
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    #[must_use]
    pub fn length(&self) -> u64 {
        self.pages.count() << 12
    }

    /// Returns the address of the first byte behind the region.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// use topomem::region::MapRequest;
    ///
    /// let space = service.create_space(pin)?;
    /// let start = space.mmap(pin, &MapRequest::anonymous(8192))?;
    /// let found = space.next_region(pin, start).unwrap();
    /// assert_eq!(found.end().as_u64(), start.as_u64() + 8192);
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    #[must_use]
    pub fn end(&self) -> VirtAddr {
        address(self.pages.last + 1)
    }

    /// Returns the common attributes of the pages.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// use topomem::Access;
    /// use topomem::region::MapRequest;
    ///
    /// let space = service.create_space(pin)?;
    /// let start = space.mmap(pin, &MapRequest::anonymous(8192))?;
    /// assert_eq!(space.next_region(pin, start).unwrap().region().access(), Access::WRITE);
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    #[must_use]
    pub fn region(&self) -> Region {
        self.region
    }

    /// Returns the part of a memory object shown by the region, if any.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// use topomem::region::MapRequest;
    ///
    /// let space = service.create_space(pin)?;
    /// let start = space.mmap(pin, &MapRequest::anonymous(4096))?;
    /// assert!(space.next_region(pin, start).unwrap().object().is_none());
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    #[must_use]
    pub fn object(&self) -> Option<MappedObject> {
        self.object
    }

    /// Returns the name, for people.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// use topomem::region::{MapRequest, RegionName};
    ///
    /// let space = service.create_space(pin)?;
    /// let name = RegionName::new("cache")?;
    /// let start = space.mmap(pin, &MapRequest::anonymous(4096).named(name))?;
    /// assert_eq!(space.next_region(pin, start).unwrap().name(), Some(name));
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    #[must_use]
    pub fn name(&self) -> Option<RegionName> {
        self.name
    }

    /// Returns the number of faults since counting began, or `None` if faults are only counted for
    /// the whole space ([`AddressSpace::set_fault_counting`]).
    #[must_use]
    pub fn faults(&self) -> Option<FaultCounts> {
        self.faults
    }

    /// Returns the number of mapped 4 KiB pages.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// use topomem::region::MapRequest;
    ///
    /// let space = service.create_space(pin)?;
    /// let start = space.mmap(pin, &MapRequest::anonymous(8192))?;
    /// assert_eq!(space.next_region(pin, start).unwrap().resident_pages(), 0);
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    #[must_use]
    pub fn resident_pages(&self) -> u64 {
        self.resident
    }
}

impl<P: Machine> AddressSpace<P> {
    /// Returns the region around the byte at `from`, starting at `from`, or otherwise the first
    /// region above.
    ///
    /// Cost: a look at each entry of the tables serving the region and the gap before it. Pages
    /// changed by remote CPUs meanwhile are seen before or after the change.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// use topomem::region::MapRequest;
    /// use topomem::VirtAddr;
    ///
    /// let space = service.create_space(pin)?;
    /// let start = space.mmap(pin, &MapRequest::anonymous(8192))?;
    /// let region = space.next_region(pin, VirtAddr::new(0)?).expect("the space has a region");
    /// assert_eq!((region.start(), region.length()), (start, 8192));
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    #[must_use]
    pub fn next_region(&self, pin: &CpuPin, from: VirtAddr) -> Option<RegionRange> {
        let core = self.core();
        let first = (from.as_u64() >> 12).max(core.bounds.first);
        let pages = Pages { first, last: core.bounds.last };
        if pages.last < pages.first {
            return None;
        }
        let mut run: Option<(Pages, RegionId, u64)> = None;
        let mut record: Record<P> = Record::PLAIN;
        let visit = |part: Pages, found| {
            let (region, resident) = match found {
                Found::Vacant | Found::Mapped(_, None) => (None, 0),
                Found::Reserved(region) => (Some(region), 0),
                Found::Mapped(_, Some(region)) => (Some(region), part.count()),
            };
            match (&mut run, region) {
                (None, None) => {}
                (None, Some(region)) => {
                    run = Some((part, region, resident));
                    if let Some(number) = region.record() {
                        record = core.records.get(number);
                    }
                }
                (Some((pages, of, sum)), Some(region)) if *of == region => {
                    pages.last = part.last;
                    *sum += resident;
                }
                (Some(_), _) => return ControlFlow::Break(()),
            }
            ControlFlow::Continue(())
        };
        core.table.visit(core.service.tables(pin), pages, visit);
        let (pages, region, resident) = run?;
        let object = record
            .object
            .map(|mapped| MappedObject { id: mapped.object.id(), offset: mapped.page(pages.first) << 12 });
        let faults = record.faults.as_ref().map(FaultCounter::sum);
        Some(RegionRange { pages, region: Region::of(region), resident, name: record.name, object, faults })
    }

    /// Calls `look` with each region, from the lowest up.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// let space = service.create_space(pin)?;
    /// space.for_each_region(pin, |range| println!("{} {}", range.start(), range.length()));
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub fn for_each_region(&self, pin: &CpuPin, mut look: impl FnMut(RegionRange)) {
        let mut from = address(0);
        while let Some(range) = self.next_region(pin, from) {
            from = range.end();
            look(range);
        }
    }
}
