//! How much memory regions use, as records and as people read it.

mod maps;

use core::ops::{AddAssign, ControlFlow};

use topomem_percpu::{CpuPin, MAX_NODES, NodeId};
use topomem_shootdown::PageRange;

pub use maps::{Maps, NumaMaps, Smaps};

use crate::Machine;
use crate::address_space::{AddressSpace, pages_of, range_of_pages};
use crate::page_table::{Found, Level, Ownership, Pages};
use crate::service::shares;

/// What regions use, in pages of 4 KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Pages of regions, mapped or not.
    pub total: u64,
    /// Pages that are mapped, to frames of whatever kind.
    pub resident: u64,
    /// Of these: to frames that no other space has.
    pub private: u64,
    /// To frames that other spaces have, too, or had.
    pub shared: u64,
    /// The private frames, and the space's part of the shared ones, in bytes: a frame's bytes divided by the
    /// number of mappings that have the frame, in all spaces (Pss of Linux). The page cache's own hold of a
    /// frame does not count. Small parts of a page of 2 MiB that several spaces have share its mappings evenly.
    pub proportional_bytes: u64,
    /// To the frame of zeros that all spaces share, or to other frames that are not the space's.
    pub borrowed: u64,
    /// Of [`Usage::resident`]: by leaves of 2 MiB and more.
    pub large: u64,
    /// Private and shared frames by node.
    nodes: [u64; MAX_NODES],
}

impl Usage {
    const NOTHING: Usage = Usage {
        total: 0,
        resident: 0,
        private: 0,
        shared: 0,
        proportional_bytes: 0,
        borrowed: 0,
        large: 0,
        nodes: [0; MAX_NODES],
    };

    /// Returns how many of the private and shared frames are on `node`.
    #[must_use]
    pub fn on_node(&self, node: NodeId) -> u64 {
        self.nodes[node.index()]
    }
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
        self.nodes.iter_mut().zip(other.nodes).for_each(|(sum, count)| *sum += count);
    }
}

impl<P: Machine> AddressSpace<P> {
    /// Returns what the regions in `range` use. Pages of no region do not count.
    ///
    /// Costs a look at each entry of the tables that serve the range. Pages that other CPUs change meanwhile
    /// count as before or after.
    #[must_use]
    pub fn usage_in(&self, pin: &CpuPin, range: PageRange) -> Usage {
        let bounds = self.core().bounds;
        let pages = pages_of(range);
        let pages = Pages { first: pages.first.max(bounds.first), last: pages.last.min(bounds.last) };
        if pages.first > pages.last { Usage::NOTHING } else { self.usage_of(pin, pages) }
    }

    /// Returns what all regions use.
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
                if let Some(node) = frames.node_of(leaf.frame)
                    && leaf.ownership != Ownership::Borrowed
                {
                    usage.nodes[node.index()] += count;
                }
            }
            ControlFlow::Continue(())
        });
        usage
    }
}
