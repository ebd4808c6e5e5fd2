//! Pages whose regions have records.

use x86_64::structures::paging::PhysFrame;

use crate::page_table::format::Format;
use crate::page_table::format::entry::{Entry, RecordNumber};
use crate::page_table::format::level::{Level, Pages};
use crate::page_table::rewrite::{Found, found};
use crate::page_table::tables::memory::{TableMemory, table_at};

/// Calls `leave` with the record of each part of `pages` that has one, and how many pages the part has.
/// The table in `frame`, of `level`, is the caller's.
pub(in crate::page_table) fn for_each_record<F: Format, M: TableMemory>(
    memory: &M,
    frame: PhysFrame,
    level: Level,
    pages: Pages,
    leave: &mut dyn FnMut(RecordNumber, u64),
) {
    // Parts one after the other that have one record are told of at once.
    let mut run: Option<(RecordNumber, u64)> = None;
    // SAFETY: the cursor keeps it linked.
    let table = unsafe { table_at(memory, frame) };
    let mut last_mark = None;
    for part in pages.by_entry(level) {
        let index = level.index(part.first);
        let raw = table.load(index);
        if last_mark == Some(raw) {
            // Most marks are like their neighbours.
            if let Some((_, count)) = &mut run {
                *count += part.count();
            }
            continue;
        }
        last_mark = F::region_in_mark(raw).map(|_| raw);
        let record = match found::<F, M>(memory, frame, index, raw, level) {
            Some(Found::Reserved(region) | Found::Mapped(_, Some(region))) => region.record(),
            Some(Found::Vacant | Found::Mapped(_, None)) => None,
            None => {
                if let (Entry::Table(next), Some(below)) = (F::decode(raw, level), level.below()) {
                    for_each_record::<F, M>(memory, next, below, part, leave);
                }
                None
            }
        };
        match (&mut run, record) {
            (Some((number, count)), Some(record)) if *number == record => *count += part.count(),
            (_, record) => {
                if let Some((number, count)) =
                    core::mem::replace(&mut run, record.map(|new| (new, part.count())))
                {
                    leave(number, count);
                }
            }
        }
    }
    if let Some((number, count)) = run {
        leave(number, count);
    }
}
