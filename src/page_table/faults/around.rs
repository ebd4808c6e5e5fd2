//! Mapping the pages around one that was just mapped.

use x86_64::structures::paging::PhysFrame;

use crate::page_table::format::Format;
use crate::page_table::format::entry::{Leaf, RegionId};
use crate::page_table::format::level::{Level, Pages};
use crate::page_table::lists::chain::Reserve;
use crate::page_table::tables::memory::{TableMemory, table_at};
use crate::page_table::tables::regions;

/// A page, the pages that are mapped along with it, and the frames for them.
pub(crate) struct Neighbours<N> {
    /// The page that is accessed.
    pub page: u64,
    /// It and those around it: of one lowest table.
    pub pages: Pages,
    /// Returns a frame of zeros that is the caller's alone; `None` if there are no more.
    pub next: N,
}

/// Maps those of the `neighbours` that are marked as being of `region`, as `leaf` does a page beside them, in the
/// lowest table in `table`, which the caller has for itself. That page is mapped by now. Returns how many it maps.
pub(super) fn map_around<F: Format, M: TableMemory>(
    memory: &M,
    reserve: &mut Reserve<'_, M>,
    table: PhysFrame,
    leaf: &Leaf,
    region: RegionId,
    neighbours: &mut Neighbours<impl FnMut() -> Option<PhysFrame>>,
) -> u64 {
    // SAFETY: it is the cursor's, or was just linked below what is.
    let entries = unsafe { table_at(memory, table) };
    let mark = F::mark(region);
    let mut mapped = 0;
    for index in neighbours.pages.indexes(Level::PAGE) {
        if entries.load(index) != mark {
            continue;
        }
        let Some(frame) = (neighbours.next)() else { break };
        // It takes no frame: leaves beside it are of the region, or each has its own id.
        regions::set::<F, M>(memory, reserve, table, Level::PAGE, index..=index, Some(region));
        entries.store(index, F::leaf(&Leaf { frame, ..*leaf }, Level::PAGE));
        mapped += 1;
    }
    mapped
}
