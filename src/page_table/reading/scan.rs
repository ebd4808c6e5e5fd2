//! Looking at leaves without claims, even in tables of another page table.

use core::ops::ControlFlow;

use topomem_percpu::PhysFrame;

use crate::page_table::PageTable;
use crate::page_table::format::Format;
use crate::page_table::format::entry::{Entry, Leaf};
use crate::page_table::format::level::{Level, Pages};
use crate::page_table::tables::memory::{TableAccess, TableMemory, table_at};

fn scan<F: Format, M: TableMemory>(
    memory: &M,
    frame: PhysFrame,
    level: Level,
    pages: Pages,
    visit: &mut impl FnMut(Pages, Leaf) -> ControlFlow<()>,
) -> ControlFlow<()> {
    // SAFETY: the root lives as long as the page table. A table below was linked when its entry was
    // read, and is not freed while the walk is announced.
    let table = unsafe { table_at(memory, frame) };
    for part in pages.by_entry(level) {
        match (F::decode(table.load(level.index(part.first)), level), level.below()) {
            (Entry::Leaf(leaf), _) => visit(part, leaf)?,
            (Entry::Table(next), Some(below)) => scan::<F, M>(memory, next, below, part, visit)?,
            _ => {}
        }
    }
    ControlFlow::Continue(())
}

impl<F: Format> PageTable<F> {
    /// Calls `visit` with each leaf in `pages` and its mapped pages within the range, in ascending
    /// order, until `visit` breaks. Claims nothing: leaves changed meanwhile are seen before or
    /// after the change.
    pub(crate) fn for_each_leaf<M: TableMemory>(
        &self,
        access: TableAccess<'_, M>,
        pages: Pages,
        mut visit: impl FnMut(Pages, Leaf) -> ControlFlow<()>,
    ) {
        let _walk = access.enter();
        let _ = scan::<F, M>(access.memory, self.root, F::ROOT, pages, &mut visit);
    }
}
