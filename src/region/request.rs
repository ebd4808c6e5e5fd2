//! Requests for new regions.

use topomem_shootdown::{PageSize, VirtAddr};

use super::attributes::{Kind, Region};
use super::record::{Record, RegionName};
use crate::Machine;
use crate::page_table::Access;

/// The place of a new region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Placement {
    /// Anywhere.
    Anywhere,
    /// At this address, rounded down to a page, if all of the range is free; otherwise anywhere.
    Hint(VirtAddr),
    /// At this address, replacing its mappings.
    Fixed(VirtAddr),
    /// At this address, or nowhere.
    FixedNoReplace(VirtAddr),
}

/// The time of mapping the pages of a new region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Populate {
    /// Each at its first access.
    OnDemand,
    /// All at once, as far as memory is available.
    Now,
}

/// A request for a region: its length, kind and place.
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
    /// Requests `length` bytes of private memory, rounded up to pages: zero at first, readable and
    /// writable, anywhere, and mapped on demand.
    #[must_use]
    pub const fn anonymous(length: u64) -> MapRequest {
        let region = Region::anonymous(Kind::Anonymous, Access::WRITE);
        let (placement, populate) = (Placement::Anywhere, Populate::OnDemand);
        MapRequest { length, region, placement, populate, name: None }
    }

    /// Requests `length` bytes of private memory like [`MapRequest::anonymous`], in pages of `size`
    /// (MAP_HUGETLB). The length is rounded up to such pages; a given address must be a multiple of
    /// them.
    ///
    /// A first access maps a page of `size`, or fails with
    /// [`FaultError::NoLargePage`](super::FaultError::NoLargePage). A part of a page can be
    /// unmapped, protected or discarded: the page is then split, and its remaining parts are later
    /// mapped with smaller pages.
    ///
    /// ```
    /// use topomem::PageSize;
    /// use topomem::region::{Kind, MapRequest};
    ///
    /// let request = MapRequest::huge(8 << 20, PageSize::Size2MiB);
    /// assert_eq!(request.region().kind(), Kind::Huge);
    /// ```
    #[must_use]
    pub const fn huge(length: u64, size: PageSize) -> MapRequest {
        MapRequest::anonymous(length).kind(Kind::in_pages_of(size))
    }

    /// Sets the access.
    #[must_use]
    pub const fn access(self, access: Access) -> MapRequest {
        MapRequest { region: self.region.with_access(access), ..self }
    }

    /// Sets the kind.
    #[must_use]
    pub const fn kind(self, kind: Kind) -> MapRequest {
        MapRequest { region: self.region.with_kind(kind), ..self }
    }

    /// Sets the place.
    #[must_use]
    pub const fn placed(self, placement: Placement) -> MapRequest {
        MapRequest { placement, ..self }
    }

    /// Sets the time of mapping: on demand or at once.
    #[must_use]
    pub const fn populate(self, populate: Populate) -> MapRequest {
        MapRequest { populate, ..self }
    }

    /// Sets a name, for people.
    #[must_use]
    pub const fn named(self, name: RegionName) -> MapRequest {
        MapRequest { name: Some(name), ..self }
    }

    /// Returns the requested length, in bytes.
    #[must_use]
    pub const fn length(&self) -> u64 {
        self.length
    }

    /// Returns the attributes of the region's pages.
    #[must_use]
    pub const fn region(&self) -> Region {
        self.region
    }

    /// Returns the place of the region.
    #[must_use]
    pub const fn placement(&self) -> Placement {
        self.placement
    }

    /// Returns the name of the region.
    #[must_use]
    pub const fn name(&self) -> Option<RegionName> {
        self.name
    }

    /// Returns the record of the region, if needed.
    pub(crate) fn record<P: Machine>(&self) -> Option<Record<P>> {
        self.name.map(|name| Record { name: Some(name), ..Record::PLAIN })
    }

    /// Returns the time of mapping the pages.
    #[must_use]
    pub const fn population(&self) -> Populate {
        self.populate
    }
}
