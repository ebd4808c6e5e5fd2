//! A page of 2 MiB in the place of small ones of one region, with a copy of their contents.
//!
//! Two things must not happen: that a write to a small page is missed by the copy, and that one CPU writes to
//! the large page while another still reads the small one by its TLB. So it goes in steps, each under one
//! claim, and each complete on all CPUs before the next:
//!
//! 1. The small leaves lose the permission to write.
//! 2. If they have not got it back meanwhile, and nothing is pending in the range, no CPU can write to them:
//!    they are copied, and the large leaf takes their place by one store. It does not permit writes, either.
//! 3. The small frames are freed. From now on a write to the large page finds that the space is its only
//!    holder, and may have the permission to write (see `AddressSpace::on_page_fault`).
//!
//! The large leaf shares its frames, with one holder, until that write: so `mprotect` gives it no permission to
//! write before step 3, as it gives none to what a fork shares.

use x86_64::structures::paging::PhysFrame;

use crate::page_table::PageTable;
use crate::page_table::claims::cursor::Cursor;
use crate::page_table::format::entry::{Entry, Leaf, Ownership, Reach, RegionId};
use crate::page_table::format::level::{ENTRIES, Level, Pages};
use crate::page_table::format::protection::{Access, Protection};
use crate::page_table::format::{Format, Sizes};
use crate::page_table::large::promote::{Unfit, Unpromoted};
use crate::page_table::lists::chain::Reserve;
use crate::page_table::mapping::changed::Changed;
use crate::page_table::mapping::edit::reprotect;
use crate::page_table::mapping::map::unlink;
use crate::page_table::tables::memory::{TableAccess, TableMemory, table_at};
use crate::page_table::tables::regions;

/// What a collapse asks its caller.
pub(crate) trait Collapse {
    /// Returns what a leaf of `region` permits that is the frames' only user.
    fn protection(&self, region: RegionId) -> Protection;

    /// Are pages of `region` that are not mapped zero?
    fn is_zero_at_first(&self, region: RegionId) -> bool;

    /// Is `frame`, which a leaf borrows, the frame of zeros?
    fn is_zero(&self, frame: PhysFrame) -> bool;

    /// Has each CPU dropped what was changed in `pages` before? Called with the pages claimed.
    fn is_quiet(&self, pages: Pages) -> bool;

    /// Copies the frame `from` to the frame `to`.
    fn copy(&self, from: PhysFrame, to: PhysFrame);
}

/// What a step of a collapse came to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Collapsed<T> {
    /// A large leaf stands there already, or nothing is mapped.
    Same,
    /// The next step may be tried when what is pending in the range is complete.
    Frozen(T),
    /// The large leaf has taken the place of this many small ones.
    Done { recorded: T, leaves: u64 },
}

/// What stands in a lowest table.
struct Survey {
    region: RegionId,
    leaves: u64,
    shares: u64,
    /// May a leaf be written?
    writable: bool,
}

/// Looks whether one leaf can take the place of the entries of the lowest table in `frame`, whose first page is
/// `page`; `None` if nothing is mapped.
fn survey<F: Format, M: TableMemory>(
    memory: &M,
    frame: PhysFrame,
    page: u64,
    ask: &impl Collapse,
) -> Result<Option<Survey>, Unfit> {
    // SAFETY: the cursor keeps it linked.
    let table = unsafe { table_at(memory, frame) };
    let mut survey: Option<Survey> = None;
    for index in 0..ENTRIES {
        let page = page + index as u64;
        let (region, leaf) = match F::decode(table.load(index), Level::PAGE) {
            Entry::Empty | Entry::Table(_) => return Err(Unfit::Vacant { page }),
            Entry::Mark(region) => (region, None),
            Entry::Leaf(leaf) => match regions::region_of(memory, frame, index) {
                Some(region) => (region, Some(leaf)),
                None => return Err(Unfit::Differs { page }),
            },
        };
        let survey = survey.get_or_insert(Survey { region, leaves: 0, shares: 0, writable: false });
        if survey.region != region || !ask.is_zero_at_first(region) {
            return Err(Unfit::Differs { page });
        }
        let Some(leaf) = leaf else { continue };
        if F::sizes(&leaf) == Sizes::One {
            return Err(Unfit::OneSize { page });
        }
        match leaf.ownership {
            Ownership::Borrowed if !ask.is_zero(leaf.frame) => return Err(Unfit::Differs { page }),
            Ownership::Shared => survey.shares += 1,
            _ => {}
        }
        survey.leaves += 1;
        survey.writable |= leaf.protection.access().writes();
    }
    Ok(survey.filter(|survey| survey.leaves > 0))
}

/// Returns `protection` without the permission to write.
fn frozen(protection: Protection) -> Protection {
    let access = protection.access();
    protection.with_access(if access.writes() { Access::READ } else { access })
}

/// Takes the permission to write from the leaves of the lowest table in `frame`.
fn freeze<F: Format, M: TableMemory>(memory: &M, frame: PhysFrame) {
    // SAFETY: the cursor keeps it linked.
    let table = unsafe { table_at(memory, frame) };
    for index in 0..ENTRIES {
        let raw = table.load(index);
        if let Entry::Leaf(leaf) = F::decode(raw, Level::PAGE)
            && leaf.protection.access().writes()
        {
            reprotect::<F>(table.entry(index), raw, Level::PAGE, frozen(leaf.protection));
        }
    }
}

/// Copies what the leaves of the lowest table in `frame` map to the run `into`, and adds to `changed` what they
/// had.
fn copy_leaves<F: Format, M: TableMemory>(
    memory: &M,
    frame: PhysFrame,
    into: PhysFrame,
    ask: &impl Collapse,
    changed: &mut Changed,
) {
    // SAFETY: the cursor keeps it linked.
    let table = unsafe { table_at(memory, frame) };
    for index in 0..ENTRIES {
        let Entry::Leaf(leaf) = F::decode(table.load(index), Level::PAGE) else { continue };
        match leaf.ownership {
            Ownership::Borrowed => continue,
            Ownership::Owned => changed.retired.push(memory, leaf.frame, Level::PAGE),
            Ownership::Shared => changed.retired.shares.push(memory, leaf.frame, Level::PAGE),
        }
        ask.copy(leaf.frame, into + index as u64);
    }
}

impl<F: Format> PageTable<F> {
    /// Tries the next step towards one leaf in the place of the small ones of the 2 MiB from the page `first`
    /// on, all of one region; those that are not mapped come to be mapped. The leaf maps the zeroed run `into`,
    /// which is the table's after [`Collapsed::Done`]. Adds to `changed` what the step made stale, and calls
    /// `record` with it before another cursor can change the pages.
    ///
    /// # Errors
    ///
    /// [`Unpromoted`]; nothing has changed.
    pub(crate) fn collapse<M: TableMemory, T>(
        &self,
        access: TableAccess<'_, M>,
        reserve: &mut Reserve<'_, M>,
        (first, into): (u64, PhysFrame),
        ask: &impl Collapse,
        changed: &mut Changed,
        record: impl FnOnce(&mut Changed) -> T,
    ) -> Result<Collapsed<T>, Unpromoted<M::Error>> {
        let memory = access.memory;
        let pages = Pages { first, last: first + Level::HUGE.pages() - 1 };
        loop {
            let cursor = Cursor::<F, M>::lock_entry(self, access, pages, Level::HUGE);
            let (frame, index) = (cursor.frame(), cursor.level.index(first));
            let next = match F::decode(cursor.table().load(index), cursor.level) {
                Entry::Empty => return Err(Unpromoted::Unfit(Unfit::Vacant { page: first })),
                Entry::Mark(_) | Entry::Leaf(_) => return Ok(Collapsed::Same),
                Entry::Table(next) => next,
            };
            let found = survey::<F, M>(memory, next, first, ask).map_err(Unpromoted::Unfit)?;
            let Some(Survey { region, leaves, shares, writable }) = found else {
                return Ok(Collapsed::Same);
            };
            if writable {
                freeze::<F, M>(memory, next);
                changed.note_leaves(pages, Level::PAGE, 0);
                return Ok(Collapsed::Frozen(record(changed)));
            }
            if !ask.is_quiet(pages) {
                return Ok(Collapsed::Frozen(record(changed)));
            }
            let gathers = changed.retired.shares.pages_for(memory, shares);
            let needed = gathers + u64::from(!regions::has_frame(memory, frame));
            if needed > reserve.len() {
                drop(cursor);
                reserve.fill_to(needed).map_err(Unpromoted::Tables)?;
                continue;
            }
            changed.retired.shares.add_pages(memory, reserve, gathers);
            copy_leaves::<F, M>(memory, next, into, ask, changed);
            self.note_shared();
            let protection = frozen(ask.protection(region));
            let leaf = Leaf { frame: into, protection, reach: Reach::Space, ownership: Ownership::Shared };
            regions::set::<F, M>(memory, reserve, frame, Level::HUGE, index..=index, Some(region));
            let large = F::mark_ahead(F::leaf(&leaf, Level::HUGE));
            cursor.table().entry(index).replace::<F>(Level::HUGE, large);
            unlink::<F, M>(memory, next, Level::PAGE, &mut changed.retired.tables);
            changed.note_leaves(pages, Level::PAGE, 0);
            return Ok(Collapsed::Done { recorded: record(changed), leaves });
        }
    }
}
