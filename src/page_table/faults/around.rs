//! Mapping the pages around a page just mapped.

use topomem_percpu::PhysFrame;

use crate::page_table::format::Format;
use crate::page_table::format::entry::{Leaf, RegionId};
use crate::page_table::format::level::{Level, Pages};
use crate::page_table::lists::chain::Reserve;
use crate::page_table::tables::memory::{TableMemory, table_at};
use crate::page_table::tables::regions;

/// A page, the pages mapped along with it, and the frames for them.
pub(crate) struct Neighbours<N> {
    /// The accessed page.
    pub page: u64,
    /// The accessed page and its surroundings, in a single lowest table.
    pub pages: Pages,
    /// Returns a zeroed frame owned by the caller, or `None` if the frames are used up.
    pub next: N,
}

/// Maps the pages of `neighbours` marked with `region`, each with the attributes of `leaf`, the
/// leaf of the accessed page. The caller owns the lowest table in `table`. Returns the number of
/// pages mapped.
pub(super) fn map_around<F: Format, M: TableMemory>(
    memory: &M,
    reserve: &mut Reserve<'_, M>,
    table: PhysFrame,
    leaf: &Leaf,
    region: RegionId,
    neighbours: &mut Neighbours<impl FnMut() -> Option<PhysFrame>>,
) -> u64 {
    // SAFETY: the table is the cursor's, or was just linked below the cursor's.
    let entries = unsafe { table_at(memory, table) };
    let mark = F::mark(region);
    let mut mapped = 0;
    for index in neighbours.pages.indexes(Level::PAGE) {
        if entries.load(index) != mark {
            continue;
        }
        let Some(frame) = (neighbours.next)() else { break };
        // Takes no frame: neighbouring leaves are of the same region, or each leaf has its own id.
        regions::set::<F, M>(memory, reserve, table, Level::PAGE, index..=index, Some(region));
        entries.store(index, F::leaf(&Leaf { frame, ..*leaf }, Level::PAGE));
        mapped += 1;
    }
    mapped
}
