//! Requests for new regions.

use topomem_shootdown::{PageSize, VirtAddr};

use crate::Machine;
use crate::page_table::Access;
use crate::region::attributes::{Kind, Region};
use crate::region::record::{Record, RegionName};

/// The place of a new region.
///
/// ```
/// use topomem::region::{MapRequest, Placement};
///
/// assert_eq!(MapRequest::anonymous(4096).placement(), Placement::Anywhere);
/// ```
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
///
/// ```
/// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
/// # booted::run(|service, pin| {
/// use topomem::region::{MapRequest, Populate};
///
/// let space = service.create_space(pin)?;
/// space.mmap(pin, &MapRequest::anonymous(8192).populate(Populate::Now))?;
/// assert_eq!(space.mapped_pages(), 2);
/// # Ok(())
/// # }).unwrap();
/// ```
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
    ///
    /// ```
    /// use topomem::Access;
    /// use topomem::region::MapRequest;
    ///
    /// assert_eq!(MapRequest::anonymous(4096).region().access(), Access::WRITE);
    /// ```
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
    /// [`FaultError::NoLargePage`](crate::region::FaultError::NoLargePage). A part of a page can be
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
    ///
    /// ```
    /// use topomem::Access;
    /// use topomem::region::MapRequest;
    ///
    /// let read_only = MapRequest::anonymous(4096).access(Access::READ);
    /// assert_eq!(read_only.region().access(), Access::READ);
    /// ```
    #[must_use]
    pub const fn access(self, access: Access) -> MapRequest {
        MapRequest { region: self.region.with_access(access), ..self }
    }

    /// Sets the kind.
    ///
    /// ```
    /// use topomem::region::{Kind, MapRequest};
    ///
    /// assert_eq!(MapRequest::anonymous(4096).kind(Kind::Stack).region().kind(), Kind::Stack);
    /// ```
    #[must_use]
    pub const fn kind(self, kind: Kind) -> MapRequest {
        MapRequest { region: self.region.with_kind(kind), ..self }
    }

    /// Sets the place.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// use topomem::VirtAddr;
    /// use topomem::region::{MapRequest, Placement};
    ///
    /// let space = service.create_space(pin)?;
    /// let at = VirtAddr::new(0x1000_0000)?;
    /// let request = MapRequest::anonymous(4096).placed(Placement::Fixed(at));
    /// assert_eq!(space.mmap(pin, &request)?, at);
    /// # Ok(())
    /// # }).unwrap();
    /// ```
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
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// use topomem::region::{MapRequest, RegionName};
    ///
    /// let request = MapRequest::anonymous(4096).named(RegionName::new("cache")?);
    /// assert_eq!(request.name(), Some(RegionName::new("cache")?));
    /// # let _ = (service, pin);
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    #[must_use]
    pub const fn named(self, name: RegionName) -> MapRequest {
        MapRequest { name: Some(name), ..self }
    }

    /// Returns the requested length, in bytes.
    ///
    /// ```
    /// use topomem::region::MapRequest;
    ///
    /// assert_eq!(MapRequest::anonymous(4096).length(), 4096);
    /// ```
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
    ///
    /// ```
    /// use topomem::region::{MapRequest, Populate};
    ///
    /// assert_eq!(MapRequest::anonymous(4096).population(), Populate::OnDemand);
    /// ```
    #[must_use]
    pub const fn population(&self) -> Populate {
        self.populate
    }
}
