//! Memory use of regions, for programs and for people.

mod maps;
mod nodes;

use core::ops::{AddAssign, ControlFlow};

use topomem_percpu::CpuPin;
use topomem_shootdown::PageRange;

pub use maps::{Maps, NumaMaps, Smaps};
pub use nodes::NodePages;

use crate::Machine;
use crate::address_space::{AddressSpace, pages_of, range_of_pages};
use crate::page_table::{Found, Level, Ownership, Pages};
use crate::service::memory::shares;

/// Memory use of regions, in pages of 4 KiB.
///
/// ```
/// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
/// # booted::run(|service, pin| {
/// use topomem::region::{MapRequest, Populate};
///
/// let space = service.create_space(pin)?;
/// space.mmap(pin, &MapRequest::anonymous(8192).populate(Populate::Now))?;
/// let usage = space.usage(pin);
/// assert_eq!((usage.total, usage.resident), (2, 2));
/// # Ok(())
/// # }).unwrap();
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Pages of regions, mapped or not.
    pub total: u64,
    /// Mapped pages, with frames of any kind.
    pub resident: u64,
    /// Mapped pages with frames of the space alone.
    pub private: u64,
    /// Mapped pages with frames shared with other spaces, now or earlier.
    pub shared: u64,
    /// The private frames, and the space's part of the shared frames, in bytes: a frame's bytes
    /// divided by the number of its mappings in all spaces (Pss of Linux). The page cache's own
    /// hold of a frame does not count. Small parts of a 2 MiB page of several spaces share its
    /// mappings evenly.
    pub proportional_bytes: u64,
    /// Mapped pages with the frame of zeros shared by all spaces, or with foreign frames.
    pub borrowed: u64,
    /// Part of [`Usage::resident`] mapped with leaves of 2 MiB and more.
    pub large: u64,
}

impl Usage {
    const NOTHING: Usage =
        Usage { total: 0, resident: 0, private: 0, shared: 0, proportional_bytes: 0, borrowed: 0, large: 0 };
}

impl AddAssign<&Usage> for Usage {
    fn add_assign(&mut self, other: &Usage) {
        self.total += other.total;
        self.resident += other.resident;
        self.private += other.private;
        self.shared += other.shared;
        self.proportional_bytes += other.proportional_bytes;
        self.borrowed += other.borrowed;
        self.large += other.large;
    }
}

impl<P: Machine> AddressSpace<P> {
    /// Returns the memory use of the regions in `range`. Pages without a region do not count.
    ///
    /// Cost: a look at each entry of the tables serving the range. Pages changed by remote CPUs
    /// meanwhile count as before or after the change.
    #[must_use]
    pub fn usage_in(&self, pin: &CpuPin, range: PageRange) -> Usage {
        self.pages_in(range).map_or(Usage::NOTHING, |pages| self.usage_of(pin, pages))
    }

    /// Returns the pages of `range` that the space may map.
    fn pages_in(&self, range: PageRange) -> Option<Pages> {
        let bounds = self.core().bounds;
        let pages = pages_of(range);
        let pages = Pages { first: pages.first.max(bounds.first), last: pages.last.min(bounds.last) };
        (pages.first <= pages.last).then_some(pages)
    }

    /// Returns the memory use of all regions.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// use topomem::region::{MapRequest, Populate};
    ///
    /// let space = service.create_space(pin)?;
    /// space.mmap(pin, &MapRequest::anonymous(16384).populate(Populate::Now))?;
    /// let usage = space.usage(pin);
    /// assert_eq!((usage.total, usage.resident), (4, 4));
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    #[must_use]
    pub fn usage(&self, pin: &CpuPin) -> Usage {
        self.usage_in(pin, range_of_pages(self.core().bounds))
    }

    fn usage_of(&self, pin: &CpuPin, pages: Pages) -> Usage {
        let core = self.core();
        let frames = core.service.frames();
        let mut usage = Usage::NOTHING;
        core.table.visit(core.service.tables(pin), pages, |part, found| {
            let count = part.count();
            let mapped = match found {
                Found::Vacant | Found::Mapped(_, None) => return ControlFlow::Continue(()),
                Found::Reserved(_) => None,
                Found::Mapped(leaf, Some(region)) => Some((leaf, region)),
            };
            usage.total += count;
            if let Some((leaf, region)) = mapped {
                usage.resident += count;
                match leaf.ownership {
                    Ownership::Owned => {
                        usage.private += count;
                        usage.proportional_bytes += count << 12;
                    }
                    Ownership::Shared => {
                        usage.shared += count;
                        let level = if count > 1 { Level::HUGE } else { Level::PAGE };
                        let of_object = u32::from(core.is_of_object(region, part.first, leaf.frame));
                        usage.proportional_bytes +=
                            count * shares::part_of_each(frames, leaf.frame, level, of_object);
                    }
                    Ownership::Borrowed => usage.borrowed += count,
                }
                if count > 1 {
                    usage.large += count;
                }
            }
            ControlFlow::Continue(())
        });
        usage
    }
}
