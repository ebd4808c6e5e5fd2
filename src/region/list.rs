//! The regions of a space, one after the other.

use core::ops::ControlFlow;

use topomem_percpu::CpuPin;
use topomem_shootdown::VirtAddr;

use super::attributes::Region;
use super::mmap::address;
use super::object::MappedObject;
use super::record::{FaultCounter, FaultCounts, Record, RegionName};
use crate::Machine;
use crate::address_space::AddressSpace;
use crate::page_table::{Found, Pages, RegionId};

/// A region: pages one after the other that have the same in common.
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
    /// Returns where it begins.
    #[must_use]
    pub fn start(&self) -> VirtAddr {
        address(self.pages.first)
    }

    /// Returns its length in bytes.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.pages.count() << 12
    }

    /// Returns the address of the first byte after it.
    #[must_use]
    pub fn end(&self) -> VirtAddr {
        address(self.pages.last + 1)
    }

    /// Returns what its pages have in common.
    #[must_use]
    pub fn region(&self) -> Region {
        self.region
    }

    /// Returns which part of which memory object it shows, if any.
    #[must_use]
    pub fn object(&self) -> Option<MappedObject> {
        self.object
    }

    /// Returns what people call it.
    #[must_use]
    pub fn name(&self) -> Option<RegionName> {
        self.name
    }

    /// Returns how many faults its pages have had since they are counted; `None` if they are counted for the space
    /// alone ([`AddressSpace::set_fault_counting`]).
    #[must_use]
    pub fn faults(&self) -> Option<FaultCounts> {
        self.faults
    }

    /// Returns how many of its pages are mapped, of 4 KiB.
    #[must_use]
    pub fn resident_pages(&self) -> u64 {
        self.resident
    }
}

impl<P: Machine> AddressSpace<P> {
    /// Returns the region that has the byte at `from`, from there on, or else the first one above.
    ///
    /// Costs a look at each entry of the tables that serve the region and the gap before it. Pages that
    /// other CPUs change meanwhile are seen before or after.
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
    pub fn for_each_region(&self, pin: &CpuPin, mut look: impl FnMut(RegionRange)) {
        let mut from = address(0);
        while let Some(range) = self.next_region(pin, from) {
            from = range.end();
            look(range);
        }
    }
}
