//! Handling an access to a page under the claim of the page's entry. Accesses of many CPUs to the
//! same page are therefore handled once.

use topomem_percpu::PhysFrame;

use super::around::{Neighbours, map_around};
use crate::page_table::PageTable;
use crate::page_table::claims::cursor::Cursor;
use crate::page_table::format::Format;
use crate::page_table::format::entry::{Entry, Leaf, Ownership};
use crate::page_table::format::level::{Level, Pages};
use crate::page_table::format::protection::Protection;
use crate::page_table::lists::chain::Reserve;
use crate::page_table::mapping::changed::Changed;
use crate::page_table::mapping::edit::reprotect;
use crate::page_table::mapping::split::{self, split};
use crate::page_table::rewrite::{Found, RewriteError, found};
use crate::page_table::tables::memory::{TableAccess, TableMemory, table_at};
use crate::page_table::tables::regions;
use crate::page_table::tables::table::TableEntry;

/// The decision about a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Keep the page: the access is permitted already.
    Keep,
    /// Map the page with this leaf of this level, in place of the present entry.
    Map(Leaf, Level),
    /// Keep the leaf, make the space the owner of its frames, and set this protection.
    Own(Protection),
    /// Keep the leaf and its ownership, and set this protection, which permits no less.
    Permit(Protection),
}

/// The outcome of an access.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answered<T> {
    /// The result of `record`, called with the entry still claimed.
    pub recorded: T,
    /// The replaced 4 KiB leaf. Its frame, or its share of the frame, belongs to the caller after
    /// no CPU has the translation.
    pub replaced: Option<Leaf>,
    /// Number of neighbouring pages mapped.
    pub beside: u64,
}

impl<F: Format> PageTable<F> {
    /// Looks up the page of `neighbours`, and applies the answer of `decide`. A page without a
    /// region stays unchanged. If the page is newly mapped to a frame of its own, its neighbours of
    /// the same region are mapped, too. Calls `record` with the stale translations before another
    /// cursor can change the page.
    ///
    /// `decide` may be called several times; the last call counts.
    ///
    /// # Errors
    ///
    /// Nothing has changed on an error:
    ///
    /// - [`RewriteError::Refused`] with the error of `decide`.
    /// - [`RewriteError::Tables`] if no frame for a table is left.
    pub(crate) fn resolve<M: TableMemory, E, T>(
        &self,
        access: TableAccess<'_, M>,
        reserve: &mut Reserve<'_, M>,
        neighbours: &mut Neighbours<impl FnMut() -> Option<PhysFrame>>,
        mut decide: impl FnMut(Found, Level) -> Result<Answer, E>,
        changed: &mut Changed,
        record: impl FnOnce(&mut Changed) -> T,
    ) -> Result<Answered<T>, RewriteError<E, M::Error>> {
        let page = neighbours.page;
        let pages = Pages { first: page, last: page };
        let memory = access.memory;
        loop {
            let cursor = Cursor::<F, M>::lock(self, access, pages);
            let (mut frame, mut level) = (cursor.frame(), cursor.level);
            let raw = cursor.table().load(level.index(page));
            // The cursor of a single page is below every table.
            let found = found::<F, M>(memory, frame, level.index(page), raw, level).unwrap_or(Found::Vacant);
            let answer = decide(found, level).map_err(RewriteError::Refused)?;
            let region = match found {
                Found::Vacant => None,
                Found::Reserved(region) => Some(region),
                Found::Mapped(_, region) => region,
            };
            let needed = match answer {
                Answer::Keep | Answer::Own(_) | Answer::Permit(_) => 0,
                Answer::Map(_, at) if level > at => frames_to_cut(found, level, at),
                Answer::Map(..) => u64::from(regions::needs_frame::<F, M>(
                    memory,
                    frame,
                    level,
                    pages.indexes(level),
                    region,
                )),
            };
            if needed > reserve.len() {
                drop(cursor);
                reserve.fill_to(needed).map_err(RewriteError::Tables)?;
                continue;
            }
            let (mut replaced, mut beside) = (None, 0);
            if answer == Answer::Keep {
                return Ok(Answered { recorded: record(changed), replaced, beside });
            }
            while let (Answer::Map(_, at), Some(below)) = (answer, level.below())
                && level > at
            {
                let Some(next) = split::<F, M>(memory, reserve, frame, level.index(page), level) else {
                    debug_assert!(false, "the plan counted too few tables");
                    return Ok(Answered { recorded: record(changed), replaced, beside });
                };
                (frame, level) = (next, below);
            }
            if let Answer::Map(..) = answer {
                regions::set::<F, M>(memory, reserve, frame, level, pages.indexes(level), region);
            }
            // SAFETY: the table is the cursor's, or was just linked below the cursor's.
            let entry = unsafe { table_at(memory, frame) }.entry(level.index(page));
            match answer {
                Answer::Keep => {}
                Answer::Map(leaf, _) => {
                    let old = entry.replace::<F>(level, F::leaf(&leaf, level));
                    if let Entry::Leaf(old) = F::decode(old, level) {
                        changed.note_leaves(pages, level, 1);
                        replaced = Some(old);
                    } else if let (Found::Reserved(region), Level::PAGE, Ownership::Owned) =
                        (found, level, leaf.ownership)
                        && neighbours.pages.first != neighbours.pages.last
                    {
                        beside = map_around::<F, M>(memory, reserve, frame, &leaf, region, neighbours);
                    }
                }
                Answer::Own(protection) => own::<F>(entry, level, protection),
                Answer::Permit(protection) => {
                    reprotect::<F>(entry, raw, level, protection);
                }
            }
            return Ok(Answered { recorded: record(changed), replaced, beside });
        }
    }
}

/// Returns the number of frames needed to cut `found`, at `level`, down to `to`, and to map a leaf
/// there.
fn frames_to_cut(found: Found, level: Level, to: Level) -> u64 {
    let tables = u64::from(level.get() - to.get());
    // The leaves of a new lowest table all belong to the region of the replaced entry. A higher
    // table keeps its leaves' regions in a frame.
    let regions = match found {
        Found::Vacant | Found::Mapped(_, None) => 0,
        Found::Mapped(_, Some(_)) => split::regions_frames(level),
        Found::Reserved(_) => u64::from(to > Level::PAGE),
    };
    tables + regions
}

/// Makes the leaf in `entry` the owner of its frame, with `protection`, which permits no less than
/// before.
fn own<F: Format>(entry: &TableEntry, level: Level, protection: Protection) {
    let mut raw = entry.load();
    while let Entry::Leaf(leaf) = F::decode(raw, level) {
        let owned = Leaf { protection, ownership: Ownership::Owned, ..leaf };
        // The hardware may set accessed and dirty bits in between.
        let new = F::merge_marks(F::leaf(&owned, level), raw);
        match entry.compare_exchange(raw, new.claimed_like::<F>(raw)) {
            Ok(()) => return,
            Err(now) => raw = now,
        }
    }
}
