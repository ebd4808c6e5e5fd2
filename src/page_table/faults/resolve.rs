//! Answering an access to one page: under the claim of its entry, so that accesses of many CPUs to one
//! page are answered once.

use x86_64::structures::paging::PhysFrame;

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

/// What is to be done about a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Nothing: it is as the access wants it.
    Keep,
    /// It is mapped by this leaf of this level, in the place of what is there.
    Map(Leaf, Level),
    /// It stays mapped by the same leaf, whose frames the space now owns, with this protection.
    Own(Protection),
    /// It stays mapped by the same leaf, which is held as before, with this protection, which permits no less.
    Permit(Protection),
}

/// What became of an access.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answered<T> {
    /// What was made of the change with the entry still claimed.
    pub recorded: T,
    /// The leaf of 4 KiB whose place another has taken. Its frame, or its share of that, is the caller's
    /// once no CPU has its translation.
    pub replaced: Option<Leaf>,
    /// How many pages were mapped beside.
    pub beside: u64,
}

impl<F: Format> PageTable<F> {
    /// Finds what the page of `neighbours` is, and does with it what `decide` answers; of no region, it stays as
    /// it is. If the page comes to be mapped to a frame of its own, maps its neighbours of the same region, too.
    /// Calls `record` with what the answer made stale before another cursor can change the page.
    ///
    /// `decide` may be called several times; the last call counts.
    ///
    /// # Errors
    ///
    /// What `decide` refuses, or [`RewriteError::Tables`]; nothing has changed.
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
            // A cursor of one page is below every table.
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
            // SAFETY: it is the cursor's, or was just linked below what is.
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

/// How many frames it takes to cut what was `found` at `level` down to `to`, and to map a leaf there.
fn frames_to_cut(found: Found, level: Level, to: Level) -> u64 {
    let tables = u64::from(level.get() - to.get());
    // A new lowest table's leaves are all of the region of the entry that it takes the place of. A higher
    // table keeps its leaves' regions in a frame.
    let regions = match found {
        Found::Vacant | Found::Mapped(_, None) => 0,
        Found::Mapped(_, Some(_)) => split::regions_frames(level),
        Found::Reserved(_) => u64::from(to > Level::PAGE),
    };
    tables + regions
}

/// Makes the leaf in `entry` own its frame, with `protection`, which permits no less than it did.
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
