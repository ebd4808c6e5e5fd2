//! Locking the part of a page table that serves a range.
//!
//! # The protocol
//!
//! A cursor over a range locks exclusively the lowest table that covers it, and shared every
//! table on the way there from the root; always from the root downwards, so there is no cycle
//! to deadlock on. Hence:
//!
//! - cursors over ranges in different tables run in parallel;
//! - a table is unlinked only by who holds a table above it exclusively, so no cursor can hold
//!   or wait for the lock of an unlinked table, and its aux word is free for other use;
//! - under a shared lock, an empty entry may become a table (by compare-and-swap); every other
//!   change needs the exclusive lock of a table above or of the table itself.
//!
//! Walks take none of these locks: see [`Walks`](super::Walks).
//!
//! Interrupt handlers must not change mappings that they may have interrupted the change of.

use core::marker::PhantomData;

use topomem_percpu::sync::atomic::AtomicU32;
use x86_64::structures::paging::PhysFrame;

use super::PageTable;
use super::entry::Entry;
use super::format::Format;
use super::level::{Level, Pages};
use super::lock;
use super::memory::{TableMemory, table_at};
use super::table::Table;

/// The most tables above a locked one: five levels, less one.
const MAX_PATH: usize = 4;

/// Exclusive use of the subtree that serves a range, until dropped.
pub(crate) struct Cursor<'a, F: Format, M: TableMemory> {
    pub(super) memory: &'a M,
    pub(super) level: Level,
    locked: PhysFrame,
    /// The locked table's word.
    word: &'a AtomicU32,
    /// Dropped after the locked table: from the bottom up.
    _path: Path<'a>,
    format: PhantomData<fn() -> F>,
}

/// The words of the tables held shared, by level from 2 up.
struct Path<'a> {
    words: [Option<&'a AtomicU32>; MAX_PATH],
}

impl Drop for Path<'_> {
    #[inline]
    fn drop(&mut self) {
        self.words.iter().flatten().for_each(|word| lock::unlock_shared(word));
    }
}

/// What to do about an empty entry that alone covers the range.
pub(super) enum OnEmpty<E> {
    /// Lock the table that has it.
    Lock,
    /// Look again: it was filled.
    Retry,
    /// Give up.
    Abort(E),
}

impl<'a, F: Format, M: TableMemory> Cursor<'a, F, M> {
    /// Locks the subtree that serves `pages`; where it does not exist, the lowest table above.
    #[inline]
    pub fn lock(page_table: &'a PageTable<F>, memory: &'a M, pages: Pages) -> Cursor<'a, F, M> {
        let locked = Cursor::descend(page_table, memory, pages, |_| false, |_, _, _| OnEmpty::<Never>::Lock);
        match locked {
            Ok(cursor) => cursor,
            Err(never) => match never {},
        }
    }

    /// Locks the table whose entry of `level` serves `page`; where it does not exist, the lowest
    /// table above.
    pub fn lock_entry(
        page_table: &'a PageTable<F>,
        memory: &'a M,
        page: Pages,
        level: Level,
    ) -> Cursor<'a, F, M> {
        let stay = |at| at == level;
        match Cursor::descend(page_table, memory, page, stay, |_, _, _| OnEmpty::<Never>::Lock) {
            Ok(cursor) => cursor,
            Err(never) => match never {},
        }
    }

    /// Locks the subtree that serves `pages`, but no table below one of a level that `stay`
    /// accepts; `on_empty` may create what is missing on the way.
    // Else its result is copied, and each level is less of a loop of known length.
    #[inline(always)]
    pub(super) fn descend<E>(
        page_table: &'a PageTable<F>,
        memory: &'a M,
        pages: Pages,
        stay: impl Fn(Level) -> bool,
        mut on_empty: impl FnMut(&Table, usize, Level) -> OnEmpty<E>,
    ) -> Result<Cursor<'a, F, M>, E> {
        let mut path = Path { words: [None; MAX_PATH] };
        let mut frame = page_table.root;
        let mut word = &page_table.root_lock;
        let mut level = F::ROOT;
        while let Some(below) = level.below().filter(|_| pages.within_one_entry(level) && !stay(level)) {
            lock::lock_shared(word, &page_table.locks, || memory.relax());
            // SAFETY: the tables above are held shared, so this one stays linked.
            let table = unsafe { table_at(memory, frame) };
            let index = level.index(pages.first);
            let next = loop {
                match F::decode(table.load(index), level) {
                    Entry::Table(next) => break Ok(Some(next)),
                    Entry::Leaf(_) => break Ok(None),
                    Entry::Empty => match on_empty(table, index, level) {
                        OnEmpty::Lock => break Ok(None),
                        OnEmpty::Retry => {}
                        OnEmpty::Abort(error) => break Err(error),
                    },
                }
            };
            match next {
                Ok(Some(next)) => {
                    path.words[usize::from(below.get()) - 1] = Some(word);
                    (frame, word, level) = (next, memory.aux(next), below);
                }
                // It stays linked meanwhile: the tables above are held. Whatever it holds once
                // it is ours, it covers the range.
                Ok(None) => {
                    lock::unlock_shared(word);
                    break;
                }
                Err(error) => {
                    lock::unlock_shared(word);
                    return Err(error);
                }
            }
        }
        lock::lock_exclusive(word, &page_table.locks, || memory.relax());
        Ok(Cursor { memory, level, locked: frame, word, _path: path, format: PhantomData })
    }

    /// The locked table.
    pub(super) fn table(&self) -> &'a Table {
        // SAFETY: it is locked, and so linked, until `self` is dropped; who keeps the reference
        // longer is in this module's parent, and none does.
        unsafe { table_at(self.memory, self.locked) }
    }
}

impl<F: Format, M: TableMemory> Drop for Cursor<'_, F, M> {
    #[inline]
    fn drop(&mut self) {
        lock::unlock_exclusive(self.word);
    }
}

/// No value.
enum Never {}
