//! Large leaves in the place of small ones that map the same.
//!
//! # Accessed and dirty bits
//!
//! Until a CPU has heard of the promotion, its page walker may find an old leaf, by a cached way to
//! the old table or a cached translation that is not dirty yet, and mark that one, which nobody
//! looks at any more. So to combine what the old leaves say, whenever that is read, would lose what
//! is noted afterwards. The large leaf says beforehand all that a CPU may still note: it is accessed,
//! and dirty where it may be written or an old leaf was. Nothing written is taken for clean; a
//! writable range of which no page was dirty is taken for dirty, at worst.
//!
//! # Order
//!
//! The old leaves' translations stay right: they say what the large one says. But they are cached
//! under their own pages, so whoever changes the large leaf afterwards must not tell TLBs of one
//! large page before these have dropped the small ones. Hence the promotion is announced while its
//! claim is held: a later change has a later generation.

use x86_64::structures::paging::PhysFrame;

use super::PageTable;
use super::change::Changed;
use super::cursor::Cursor;
use super::entry::{Entry, Leaf, Ownership, RawEntry};
use super::format::{Format, Sizes};
use super::level::{ENTRIES, Level, Pages};
use super::map::unlink;
use super::memory::{TableAccess, TableMemory, table_at};
use super::table::Table;

/// Why a range was not promoted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unfit {
    /// Nothing is mapped at `page`.
    Vacant { page: u64 },
    /// `page`, the first of a large one, is mapped to a frame that no large leaf may start at.
    Misaligned { page: u64, frame: PhysFrame },
    /// `page` is mapped to another frame than the one that follows.
    Scattered { page: u64, frame: PhysFrame },
    /// `page` has another protection or owner than the pages before it.
    Differs { page: u64 },
    /// `page` shares its frame, and its holders are counted by 4 KiB or 2 MiB leaf.
    Shared { page: u64 },
    /// TLBs must not hold `page` in two sizes.
    OneSize { page: u64 },
}

/// A look at leaves one after the other: could one large leaf stand for them?
struct Survey {
    /// The size of the leaf that is to be.
    level: Level,
    /// The last page's leaf, the number of the frame that follows it, and the large leaf with what the
    /// hardware has noted so far; `None` before the first. A number: after the last frame of all there
    /// is no other.
    found: Option<(Leaf, u64, RawEntry)>,
}

impl Survey {
    /// Looks at the leaves under `table`, of `level`, whose first page is `page`.
    fn table<F: Format, M: TableMemory>(
        &mut self,
        memory: &M,
        table: &Table,
        level: Level,
        page: u64,
    ) -> Result<(), Unfit> {
        for index in 0..ENTRIES {
            let page = page + index as u64 * level.pages();
            let raw = table.load(index);
            match (F::decode(raw, level), level.below()) {
                (Entry::Leaf(leaf), _) => self.leaf::<F>(leaf, raw, level, page)?,
                (Entry::Table(next), Some(below)) => {
                    // SAFETY: it is linked under an entry that the caller has for itself.
                    self.table::<F, M>(memory, unsafe { table_at(memory, next) }, below, page)?;
                }
                _ => return Err(Unfit::Vacant { page }),
            }
        }
        Ok(())
    }

    fn leaf<F: Format>(&mut self, leaf: Leaf, raw: RawEntry, level: Level, page: u64) -> Result<(), Unfit> {
        if leaf.ownership == Ownership::Shared {
            return Err(Unfit::Shared { page });
        }
        let number = leaf.frame.start_address().as_u64() / 4096;
        let large = match self.found {
            None => {
                if !number.is_multiple_of(self.level.pages()) {
                    return Err(Unfit::Misaligned { page, frame: leaf.frame });
                }
                if F::sizes(&leaf) == Sizes::One {
                    return Err(Unfit::OneSize { page });
                }
                F::leaf(&leaf, self.level)
            }
            Some((last, next, large)) => {
                if number != next {
                    return Err(Unfit::Scattered { page, frame: leaf.frame });
                }
                if leaf != (Leaf { frame: leaf.frame, ..last }) {
                    return Err(Unfit::Differs { page });
                }
                large
            }
        };
        self.found = Some((leaf, number + level.pages(), F::merge_marks(large, raw)));
        Ok(())
    }
}

/// The large leaf of `level` for the leaves under `table`, whose first page is `page`.
fn large_leaf<F: Format, M: TableMemory>(
    memory: &M,
    table: &Table,
    level: Level,
    page: u64,
) -> Result<RawEntry, Unfit> {
    let mut survey = Survey { level, found: None };
    let below = level.below().unwrap_or(Level::PAGE);
    survey.table::<F, M>(memory, table, below, page)?;
    let (.., large) = survey.found.ok_or(Unfit::Vacant { page })?;
    Ok(F::mark_ahead(large))
}

/// Owned frames of 4 KiB leaves under `table`, of `level`, which start at `frame`, become runs.
fn join_runs<F: Format, M: TableMemory>(memory: &M, table: &Table, level: Level, frame: PhysFrame) {
    if level == Level::PAGE {
        return memory.join_run(frame);
    }
    let Some(below) = level.below() else { return };
    for index in 0..ENTRIES {
        if let Entry::Table(next) = F::decode(table.load(index), level) {
            // SAFETY: it is linked under an entry that the caller has for itself.
            let next = unsafe { table_at(memory, next) };
            join_runs::<F, M>(memory, next, below, frame + index as u64 * level.pages());
        }
    }
}

struct Promoter<'a, M: TableMemory> {
    memory: &'a M,
    /// The leaves that are to be.
    level: Level,
    changed: Changed,
}

/// What is done with each table that a large leaf could take the place of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pass {
    Check,
    Change,
}

impl<M: TableMemory> Promoter<'_, M> {
    fn apply<F: Format>(
        &mut self,
        pass: Pass,
        table: &Table,
        level: Level,
        pages: Pages,
    ) -> Result<(), Unfit> {
        for part in pages.by_entry(level) {
            let index = level.index(part.first);
            match (F::decode(table.load(index), level), level.below()) {
                // It is as large already, or larger.
                (Entry::Leaf(_), _) => {}
                (Entry::Table(next), Some(below)) => {
                    // SAFETY: it is linked under an entry that the cursor has for itself.
                    let lower = unsafe { table_at(self.memory, next) };
                    if level > self.level {
                        self.apply::<F>(pass, lower, below, part)?;
                        continue;
                    }
                    let large = large_leaf::<F, M>(self.memory, lower, level, part.first)?;
                    if pass == Pass::Change {
                        table.entry(index).replace::<F>(level, large);
                        self.retire::<F>(large, lower, next, part);
                    }
                }
                _ => return Err(Unfit::Vacant { page: part.first }),
            }
        }
        Ok(())
    }

    /// `large` has taken the place of the table `lower`, in the frame `unlinked`.
    fn retire<F: Format>(&mut self, large: RawEntry, lower: &Table, unlinked: PhysFrame, part: Pages) {
        let Some(below) = self.level.below() else { return };
        if let Entry::Leaf(leaf) = F::decode(large, self.level)
            && leaf.ownership == Ownership::Owned
        {
            join_runs::<F, M>(self.memory, lower, below, leaf.frame);
        }
        unlink::<F, M>(self.memory, unlinked, below, &mut self.changed.retired.tables);
        // Their translations are cached by the old sizes.
        self.changed.note_leaves(part, Level::PAGE, part.count());
    }
}

impl<F: Format> PageTable<F> {
    /// Puts leaves of `level` in the place of the smaller ones in `pages`, which are whole pages of
    /// that size, and calls `record` with what that made stale before another cursor can change them; or
    /// changes nothing.
    pub(crate) fn promote<M: TableMemory, T>(
        &self,
        access: TableAccess<'_, M>,
        pages: Pages,
        level: Level,
        record: impl FnOnce(Changed) -> T,
    ) -> Result<T, Unfit> {
        let cursor = Cursor::<F, M>::lock_entry(self, access, pages, level);
        let mut promoter = Promoter { memory: access.memory, level, changed: Changed::NOTHING };
        for pass in [Pass::Check, Pass::Change] {
            promoter.apply::<F>(pass, cursor.table(), cursor.level, pages)?;
        }
        Ok(record(promoter.changed))
    }
}
