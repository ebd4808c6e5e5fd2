//! Locking the part of a page table that serves a range.
//!
//! # The protocol
//!
//! Going down from the root, a cursor over a range takes shared the lock of every table above the
//! page directories whose one entry covers the range. Then
//!
//! - where one directory covers the range, it claims the entries that the range touches, the lowest
//!   first, each of which may be a large leaf, empty, or a table with all that it has;
//! - else it takes exclusively the lowest table that covers the range.
//!
//! Always from the root downwards and from low entries to high ones, so there is no cycle to
//! deadlock on. Hence:
//!
//! - cursors over ranges that share no directory entry run in parallel, be they of pages or of
//!   large leaves, and though tables come and go; but for ranges that no one directory covers;
//! - directories and lowest tables have no lock, so it does not matter who still looks at the word
//!   of one that was unlinked. A directory is unlinked only by who holds a table above it
//!   exclusively, so that nobody has claims in it;
//! - under a shared lock, an empty entry may become a table (by compare-and-swap); every other
//!   change of a table's entry needs the exclusive lock of the table or of one above, and one of a
//!   directory's entry that or its claim.
//!
//! Walks take none of these locks: see [`Walks`](super::Walks).
//!
//! Interrupt handlers must not change mappings that they may have interrupted the change of.

use core::marker::PhantomData;

use topomem_percpu::sync::atomic::AtomicU32;
use x86_64::structures::paging::PhysFrame;

use super::PageTable;
use super::claim::{CLAIMED_LEVEL, claim, release};
use super::entry::Entry;
use super::format::Format;
use super::level::{Level, Pages};
use super::lock;
use super::memory::{TableMemory, table_at};
use super::table::{Table, TableEntry};

/// The most tables above a directory: five levels, less two.
const MAX_PATH: usize = 3;

/// Exclusive use of the subtree that serves a range, until dropped.
pub(crate) struct Cursor<'a, F: Format, M: TableMemory> {
    pub(super) memory: &'a M,
    pub(super) level: Level,
    /// The lowest table that covers the range and may be changed.
    table: PhysFrame,
    /// Dropped before the path: from the bottom up.
    _held: Held<'a, F>,
    _path: Path<'a>,
}

/// What a cursor has for itself.
enum Held<'a, F: Format> {
    /// A table, by its word.
    Table(&'a AtomicU32),
    /// Entries of a directory.
    Entries(&'a [TableEntry], PhantomData<fn() -> F>),
}

impl<F: Format> Drop for Held<'_, F> {
    #[inline]
    fn drop(&mut self) {
        match self {
            Held::Table(word) => lock::unlock_exclusive(word),
            Held::Entries([entry], _) => release::<F>(entry),
            Held::Entries(entries, _) => entries.iter().for_each(release::<F>),
        }
    }
}

/// The words of the tables held shared, by level from 3 up.
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

    /// Locks the entry of `level` that serves `page`, or its table; where there is none, the lowest
    /// above.
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

    /// Locks the subtree that serves `pages`, but nothing below an entry of a level that `stay`
    /// accepts; `on_empty` may create directories, and tables above them, that are missing on the way.
    // Else its result is copied, and each level is less of a loop of known length.
    #[inline(always)]
    pub(super) fn descend<E>(
        page_table: &'a PageTable<F>,
        memory: &'a M,
        pages: Pages,
        stay: impl Fn(Level) -> bool,
        mut on_empty: impl FnMut(&Table, usize, Level) -> OnEmpty<E>,
    ) -> Result<Cursor<'a, F, M>, E> {
        const { assert!(F::ROOT.get() > CLAIMED_LEVEL.get(), "a root has a lock") };
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
                    Entry::Leaf(_) | Entry::Mark(_) => break Ok(None),
                    Entry::Empty => match on_empty(table, index, level) {
                        OnEmpty::Lock => break Ok(None),
                        OnEmpty::Retry => {}
                        OnEmpty::Abort(error) => break Err(error),
                    },
                }
            };
            match next {
                Ok(Some(next)) => {
                    path.words[usize::from(level.get() - Level::GIANT.get())] = Some(word);
                    if below == CLAIMED_LEVEL {
                        return Ok(Cursor::claim(page_table, memory, pages, stay, next, path));
                    }
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
        Ok(Cursor { memory, level, table: frame, _held: Held::Table(word), _path: path })
    }

    /// Claims what `pages` touches of the directory that covers them.
    #[inline(always)]
    fn claim(
        page_table: &'a PageTable<F>,
        memory: &'a M,
        pages: Pages,
        stay: impl Fn(Level) -> bool,
        directory: PhysFrame,
        path: Path<'a>,
    ) -> Cursor<'a, F, M> {
        let level = CLAIMED_LEVEL;
        // SAFETY: the tables above are held shared until the cursor is dropped, so this one stays
        // linked; the reference goes no further than the cursor.
        let table = unsafe { table_at(memory, directory) };
        let (first, last) = (level.index(pages.first), level.index(pages.last));
        let claim = |entry| claim::<F>(entry, &page_table.locks, || memory.relax());
        let cursor = |level, table, entries| {
            let held = Held::Entries(entries, PhantomData);
            Cursor { memory, level, table, _held: held, _path: path }
        };
        if first == last {
            let entry = table.entry(first);
            let found = F::decode(claim(entry), level);
            let entries = core::slice::from_ref(entry);
            return match (found, level.below()) {
                (Entry::Table(next), Some(below)) if !stay(level) => cursor(below, next, entries),
                _ => cursor(level, directory, entries),
            };
        }
        let entries = table.entries(first, last);
        for entry in entries {
            claim(entry);
        }
        cursor(level, directory, entries)
    }

    /// The frame of the table to change.
    pub(super) fn frame(&self) -> PhysFrame {
        self.table
    }

    /// The table to change: only what the range touches of it is the cursor's.
    pub(super) fn table(&self) -> &'a Table {
        // SAFETY: it is locked or below what is, and so linked, until `self` is dropped; who keeps
        // the reference longer is in this module's parent, and none does.
        unsafe { table_at(self.memory, self.table) }
    }
}

/// No value.
enum Never {}
