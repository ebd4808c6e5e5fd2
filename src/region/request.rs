//! What a new region is to be, and where.

use topomem_shootdown::{PageSize, VirtAddr};

use super::attributes::{Kind, Region};
use super::record::{Record, RegionName};
use crate::Machine;
use crate::page_table::Access;

/// Where a new region is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Placement {
    /// Anywhere.
    Anywhere,
    /// At this address, rounded down to a page, if all of it is free; else anywhere.
    Hint(VirtAddr),
    /// At this address, in the place of what is there.
    Fixed(VirtAddr),
    /// At this address, or nowhere.
    FixedNoReplace(VirtAddr),
}

/// When the pages of a new region are mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Populate {
    /// Each at the first access.
    OnDemand,
    /// All at once, as far as there is memory.
    Now,
}

/// A request for a region: how long, what kind, where.
///
/// ```
/// use topomem::region::{Kind, MapRequest, Placement};
/// use topomem::{Access, VirtAddr};
///
/// let at = VirtAddr::new(0x1000_0000).unwrap();
/// let stack = MapRequest::anonymous(64 << 10).kind(Kind::Stack).placed(Placement::FixedNoReplace(at));
/// let code = MapRequest::anonymous(4096).access(Access::EXECUTE);
/// assert_eq!(stack.length(), 16 * code.length());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapRequest {
    length: u64,
    region: Region,
    placement: Placement,
    populate: Populate,
    name: Option<RegionName>,
}

impl MapRequest {
    /// Asks for `length` bytes of private memory, rounded up to pages, that is zero at first, may be read
    /// and written, lies anywhere, and is mapped on demand.
    #[must_use]
    pub const fn anonymous(length: u64) -> MapRequest {
        let region = Region::anonymous(Kind::Anonymous, Access::WRITE);
        let (placement, populate) = (Placement::Anywhere, Populate::OnDemand);
        MapRequest { length, region, placement, populate, name: None }
    }

    /// Asks for `length` bytes of private memory as [`MapRequest::anonymous`] does, in pages of `size`
    /// (MAP_HUGETLB). The length is rounded up to such pages; a given address is a multiple of them.
    ///
    /// A first access maps a page of that size, or fails with
    /// [`FaultError::NoLargePage`](super::FaultError::NoLargePage). A part of a page can be unmapped,
    /// protected or given up: the page is split, and what is mapped in its other parts later are smaller
    /// pages.
    #[must_use]
    pub const fn huge(length: u64, size: PageSize) -> MapRequest {
        MapRequest::anonymous(length).kind(Kind::in_pages_of(size))
    }

    /// The same with another access.
    #[must_use]
    pub const fn access(self, access: Access) -> MapRequest {
        MapRequest { region: self.region.with_access(access), ..self }
    }

    /// The same of another kind.
    #[must_use]
    pub const fn kind(self, kind: Kind) -> MapRequest {
        MapRequest { region: self.region.with_kind(kind), ..self }
    }

    /// The same at another place.
    #[must_use]
    pub const fn placed(self, placement: Placement) -> MapRequest {
        MapRequest { placement, ..self }
    }

    /// The same, mapped on demand or at once.
    #[must_use]
    pub const fn populate(self, populate: Populate) -> MapRequest {
        MapRequest { populate, ..self }
    }

    /// The same with a name, for people.
    #[must_use]
    pub const fn named(self, name: RegionName) -> MapRequest {
        MapRequest { name: Some(name), ..self }
    }

    /// Returns the length asked for, in bytes.
    #[must_use]
    pub const fn length(&self) -> u64 {
        self.length
    }

    /// Returns what the region's pages have in common.
    #[must_use]
    pub const fn region(&self) -> Region {
        self.region
    }

    /// Returns where the region is to be.
    #[must_use]
    pub const fn placement(&self) -> Placement {
        self.placement
    }

    /// Returns what the region is called.
    #[must_use]
    pub const fn name(&self) -> Option<RegionName> {
        self.name
    }

    /// Returns the record that the region needs, if any.
    pub(crate) fn record<P: Machine>(&self) -> Option<Record<P>> {
        self.name.map(|name| Record { name: Some(name), ..Record::PLAIN })
    }

    /// Returns when its pages are mapped.
    #[must_use]
    pub const fn population(&self) -> Populate {
        self.populate
    }
}
