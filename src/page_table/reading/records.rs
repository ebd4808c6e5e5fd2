//! Pages of regions with records.

use topomem_percpu::PhysFrame;

use crate::page_table::format::Format;
use crate::page_table::format::entry::{Entry, RecordNumber, RegionId};
use crate::page_table::format::level::{Level, Pages};
use crate::page_table::rewrite::{Found, found};
use crate::page_table::tables::memory::{TableMemory, table_at};
use crate::page_table::tables::regions::Kept;

/// Consecutive parts with the same record, reported together.
struct Runs<'l> {
    run: Option<(RecordNumber, u64)>,
    leave: &'l mut dyn FnMut(RecordNumber, u64),
}

impl Runs<'_> {
    /// Adds a part of `pages` pages with `record`.
    #[inline(always)]
    fn add(&mut self, record: Option<RecordNumber>, pages: u64) {
        match (&mut self.run, record) {
            (Some((number, count)), Some(record)) if *number == record => *count += pages,
            (None, None) => {}
            _ => {
                self.end();
                self.run = record.map(|new| (new, pages));
            }
        }
    }

    /// Adds pages with the record of the last added part.
    fn add_alike(&mut self, pages: u64) {
        if let Some((_, count)) = &mut self.run {
            *count += pages;
        }
    }

    #[inline(never)]
    fn end(&mut self) {
        if let Some((number, count)) = self.run.take() {
            (self.leave)(number, count);
        }
    }
}

/// Calls `leave` with each part's record, if any, and the part's number of pages. The caller owns
/// the table in `frame`, of `level`.
pub(in crate::page_table) fn for_each_record<F: Format, M: TableMemory>(
    memory: &M,
    frame: PhysFrame,
    level: Level,
    pages: Pages,
    leave: &mut dyn FnMut(RecordNumber, u64),
) {
    let mut runs = Runs { run: None, leave };
    if level == Level::PAGE {
        add_pages::<F, M>(memory, frame, pages, &mut runs);
    } else {
        add_parts::<F, M>(memory, frame, level, pages, &mut runs);
    }
    runs.end();
}

/// Adds the pages of a lowest table.
fn add_pages<F: Format, M: TableMemory>(memory: &M, frame: PhysFrame, pages: Pages, runs: &mut Runs<'_>) {
    // SAFETY: the cursor keeps the table linked.
    let table = unsafe { table_at(memory, frame) };
    let kept = Kept::of(memory, frame);
    let first = Level::PAGE.index(pages.first);
    let entries = table.entries(first, Level::PAGE.index(pages.last));
    for (index, entry) in (first..).zip(entries) {
        let raw = entry.load();
        let region = match F::page(raw) {
            Some(_) => kept.at(index),
            None => F::region_in_mark(raw),
        };
        runs.add(region.and_then(RegionId::record), 1);
    }
}

/// Adds the entries below a higher table.
fn add_parts<F: Format, M: TableMemory>(
    memory: &M,
    frame: PhysFrame,
    level: Level,
    pages: Pages,
    runs: &mut Runs<'_>,
) {
    // SAFETY: the cursor keeps the table linked.
    let table = unsafe { table_at(memory, frame) };
    let mut last_mark = None;
    for part in pages.by_entry(level) {
        let index = level.index(part.first);
        let raw = table.load(index);
        if last_mark == Some(raw) {
            // Most marks equal their neighbours.
            runs.add_alike(part.count());
            continue;
        }
        last_mark = F::region_in_mark(raw).map(|_| raw);
        match (found::<F, M>(memory, frame, index, raw, level), F::decode(raw, level), level.below()) {
            (Some(Found::Reserved(region) | Found::Mapped(_, Some(region))), ..) => {
                runs.add(region.record(), part.count());
            }
            (Some(Found::Vacant | Found::Mapped(_, None)), ..) => runs.add(None, part.count()),
            (None, Entry::Table(next), Some(Level::PAGE)) => add_pages::<F, M>(memory, next, part, runs),
            (None, Entry::Table(next), Some(below)) => add_parts::<F, M>(memory, next, below, part, runs),
            (None, ..) => {}
        }
    }
}
