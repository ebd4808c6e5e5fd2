//! A 2 MiB page in place of small pages of the same region, with a copy of their contents.
//!
//! Two errors must not happen: a write to a small page missed by the copy, and a CPU writing to the
//! large page while another still reads the small page through its TLB. The collapse therefore
//! proceeds in steps, each under a single claim, and each complete on all CPUs before the next:
//!
//! 1. The small leaves lose write permission.
//! 2. If none has regained write permission, and nothing is pending in the range, no CPU can write
//!    to the pages. They are copied, and a single store puts the large leaf in their place. The
//!    large leaf does not permit writes, either.
//! 3. The small frames are freed. A later write to the large page finds the space as its only
//!    holder, and may get write permission (see `AddressSpace::on_page_fault`).
//!
//! Until the first write, the large leaf shares its frames, with a single holder: before step 3,
//! `mprotect` therefore gives no write permission, as for frames shared by a fork.

use topomem_percpu::PhysFrame;

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

/// The questions of a collapse to its caller.
pub(crate) trait Collapse {
    /// Returns the protection of a leaf of `region` whose frames have no other user.
    fn protection(&self, region: RegionId) -> Protection;

    /// Returns whether unmapped pages of `region` are zero.
    fn is_zero_at_first(&self, region: RegionId) -> bool;

    /// Returns whether `frame`, borrowed by a leaf, is the frame of zeros.
    fn is_zero(&self, frame: PhysFrame) -> bool;

    /// Returns whether each CPU has flushed the earlier changes of `pages`. Called with the pages
    /// claimed.
    fn is_quiet(&self, pages: Pages) -> bool;

    /// Copies the frame `from` to the frame `to`.
    fn copy(&self, from: PhysFrame, to: PhysFrame);
}

/// The outcome of a step of a collapse.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Collapsed<T> {
    /// A large leaf is in place already, or nothing is mapped.
    Same,
    /// The next step may be tried when the pending changes in the range are complete.
    Frozen(T),
    /// The large leaf has replaced this number of small leaves.
    Done { recorded: T, leaves: u64 },
}

/// A summary of a lowest table's entries.
struct Survey {
    region: RegionId,
    leaves: u64,
    shares: u64,
    /// Whether a leaf is writable.
    writable: bool,
}

/// Checks whether a single leaf can replace the entries of the lowest table in `frame`, whose first
/// page is `page`. Returns `None` if nothing is mapped.
fn survey<F: Format, M: TableMemory>(
    memory: &M,
    frame: PhysFrame,
    page: u64,
    ask: &impl Collapse,
) -> Result<Option<Survey>, Unfit> {
    // SAFETY: the cursor keeps the table linked.
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

/// Returns `protection` without write permission.
fn frozen(protection: Protection) -> Protection {
    let access = protection.access();
    protection.with_access(if access.writes() { Access::READ } else { access })
}

/// Removes write permission from the leaves of the lowest table in `frame`.
fn freeze<F: Format, M: TableMemory>(memory: &M, frame: PhysFrame) {
    // SAFETY: the cursor keeps the table linked.
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

/// Copies the pages mapped by the lowest table in `frame` to the run `into`, and adds their frames
/// and shares to `changed`.
fn copy_leaves<F: Format, M: TableMemory>(
    memory: &M,
    frame: PhysFrame,
    into: PhysFrame,
    ask: &impl Collapse,
    changed: &mut Changed,
) {
    // SAFETY: the cursor keeps the table linked.
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
    /// Tries the next step towards a single leaf in place of the small leaves of the 2 MiB from the
    /// page `first` on, all of one region. Unmapped pages become mapped. The leaf maps the zeroed
    /// run `into`, which belongs to the page table after [`Collapsed::Done`]. Adds the stale
    /// translations to `changed`, and calls `record` with it before another cursor can change the
    /// pages.
    ///
    /// # Errors
    ///
    /// Nothing has changed on an error:
    ///
    /// - [`Unpromoted::Unfit`] if the pages cannot become a large page.
    /// - [`Unpromoted::Tables`] if no frame for the regions of large leaves is left.
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
