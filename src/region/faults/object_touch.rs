//! The first access to a page of an object: the usual fault of such pages, with the surrounding
//! pages.

use topomem_percpu::CpuPin;
use topomem_percpu::sync::atomic::Ordering;

use super::fault::{FaultAccess, Resolved, permits};
use crate::Machine;
use crate::address_space::AddressSpace;
use crate::object::{Mapped, Use, Writable};
use crate::page_table::{Leaf, Level, Ownership, Reach, TableMemory};
use crate::region::attributes::{Kind, Region, Sharing};
use crate::region::record::FaultClass;

/// Greatest number of pages mapped together: an aligned group. The same as in Linux.
const AROUND: u64 = 16;

impl<P: Machine> AddressSpace<P> {
    /// Handles the first access to `page`, if the page shows an object's page in memory without a
    /// copy, no frame is needed for page tables, and no other cursor is in the way. Maps the
    /// surrounding pages in memory, too.
    ///
    /// Returns `None` if nothing has changed.
    #[inline(never)]
    pub(super) fn touch_object(&self, pin: &CpuPin, page: u64, tried: FaultAccess) -> Option<Resolved> {
        let core = self.core();
        if !core.service.fault.may_touch_first() {
            return None;
        }
        let marked = core.table.claim_marked(core.service.tables(pin), page)?;
        let region = Region::of(marked.region());
        let writes = tried == FaultAccess::Write;
        let is_shown = region.kind() == Kind::Object
            && !(writes && region.sharing() == Sharing::Private)
            && !region.is_guard()
            && permits(region.access(), tried);
        if !is_shown {
            return None;
        }
        let mapped = core.records.with(region.record()?, |record| {
            let of = record.object.as_ref()?;
            let leaf = self.leaf_of_object(page, region, of, if writes { Use::Write } else { Use::Read })?;
            marked.map(page, &leaf);
            let mut mapped = 1;
            for beside in page & !(AROUND - 1)..=page | (AROUND - 1) {
                if marked.is_marked(beside)
                    && let Some(leaf) = self.leaf_of_object(beside, region, of, Use::Read)
                {
                    marked.map(beside, &leaf);
                    mapped += 1;
                }
            }
            if let Some(faults) = &record.faults {
                faults.count(pin, FaultClass::Minor);
            }
            Some(mapped)
        })?;
        drop(marked);
        // Relaxed: statistics.
        core.of_cpu(pin).minor_faults.fetch_add(1, Ordering::Relaxed);
        core.count_mapped(pin, mapped);
        Some(Resolved::ObjectPage)
    }

    /// Returns the leaf for `page` of `region` showing its page of an object, with a share of the
    /// frame, if the object has the page in memory. The page's entry is claimed.
    fn leaf_of_object(&self, page: u64, region: Region, of: &Mapped<P>, wanted: Use) -> Option<Leaf> {
        let found = of.object.core().find(of.page(page), wanted).ok()?;
        self.core().service.frames().share(found.frame, Level::PAGE).ok()?;
        let protection = match (region.sharing(), found.writable) {
            (Sharing::Shared, Writable::Yes) => region.protection(),
            _ => region.protection_of_copies(),
        };
        Some(Leaf { frame: found.frame, protection, reach: Reach::Space, ownership: Ownership::Shared })
    }
}
