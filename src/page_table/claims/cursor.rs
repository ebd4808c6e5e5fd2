//! Claiming the part of a page table that serves a range.
//!
//! # The protocol
//!
//! A cursor goes down from the root, without writing anything, and claims the entries that serve its
//! range, the lowest first. On the way to a page it claims the first of these entries that it meets:
//!
//! - an entry that the range covers wholly, in a table above the directories;
//! - an entry that is no table: empty, or a large leaf;
//! - an entry of a directory.
//!
//! The claimant of an entry alone changes the entry and everything below it. So cursors whose ranges
//! share no 2 MiB run in parallel and write no common word, be they of pages or of large leaves, and
//! though lowest tables come and go; unless the tables on the way to them are missing.
//!
//! *Entries above.* After a claim, the cursor looks again at the entries that have led it there (see
//! [`Path`](super::path::Path)). If one is claimed, or leads elsewhere, the cursor gives its claim back,
//! waits until the entry above is free, and goes down once more. If all are as before, the tables on the
//! way stay linked until the claim is given back. Only then does it read the claimed entry: a claimant of an
//! entry above may have changed it, and gone, before the look. Entries above an earlier claim of the same cursor need
//! no second look: a claimant of theirs waits for that claim.
//!
//! *Entries below.* Whoever claims an entry that leads to a directory or to a table above then waits
//! until no entry below is claimed ([`drain`](super::claim::drain)). The two claimants of an entry and of
//! one below it each write their own claim, and then read the other's, with a full barrier in between: one
//! at least sees the other. If both do, the one below gives way.
//!
//! A walk is announced ([`Walks`](crate::page_table::Walks)) from the root until the claim is known to hold, since
//! until then tables may be unlinked.
//!
//! *No deadlock.* A cursor that waits holds only claims of lower pages than the page that it waits for,
//! or, while it waits for claims below its newest one, of no higher ones. Those below the newest one do
//! not wait for it.
//!
//! Interrupt handlers must not change mappings that they may have interrupted the change of.

use core::marker::PhantomData;
use core::slice;

use x86_64::structures::paging::PhysFrame;

use super::claim::{LOWEST_CLAIMED, LockCounters, claim, claim_seen, release};
use super::path::Path;
use super::pieces::Pieces;
use crate::page_table::PageTable;
use crate::page_table::format::Format;
use crate::page_table::format::entry::{Entry, RawEntry};
use crate::page_table::format::level::{Level, Pages};
use crate::page_table::reading::walk::WalkGuard;
use crate::page_table::tables::memory::{TableAccess, TableMemory, table_at};
use crate::page_table::tables::table::{Table, TableEntry};

/// Exclusive use of what serves a range, until dropped.
pub(crate) struct Cursor<'a, F: Format, M: TableMemory> {
    pub(in crate::page_table) memory: &'a M,
    pub(in crate::page_table) level: Level,
    /// The lowest table that covers the range.
    pub(super) table: PhysFrame,
    pub(super) held: Held<'a>,
    pub(super) format: PhantomData<fn() -> F>,
}

/// What a cursor has claimed.
pub(super) enum Held<'a> {
    /// Entries of one table.
    Entries(&'a [TableEntry]),
    /// Entries of several.
    Pieces(Pieces),
    /// The same, in a walk that ends when the claims are released.
    EntriesInWalk(&'a [TableEntry], #[allow(dead_code, reason = "held")] WalkGuard<'a>),
    /// Likewise.
    PiecesInWalk(Pieces, #[allow(dead_code, reason = "held")] WalkGuard<'a>),
}

impl<F: Format, M: TableMemory> Drop for Cursor<'_, F, M> {
    #[inline(always)]
    fn drop(&mut self) {
        match &self.held {
            Held::Entries([entry]) => release::<F>(entry),
            Held::Entries(entries) => entries.iter().for_each(release::<F>),
            Held::Pieces(pieces) | Held::PiecesInWalk(pieces, _) => {
                pieces.release::<F, M>(self.memory, self.table(), self.level);
            }
            Held::EntriesInWalk(entries, _) => entries.iter().for_each(release::<F>),
        }
    }
}

impl<'a, F: Format, M: TableMemory> Cursor<'a, F, M> {
    /// Claims what serves `pages`. The cursor is in the lowest table that covers them.
    #[inline]
    pub fn lock(page_table: &'a PageTable<F>, access: TableAccess<'a, M>, pages: Pages) -> Cursor<'a, F, M> {
        Cursor::lock_above(page_table, access, pages, |_| false)
    }

    /// Claims what serves `pages`, which are whole entries of `level`, or in one entry. The cursor is at
    /// that level, or where there is no such table, at the lowest above.
    pub fn lock_entry(
        page_table: &'a PageTable<F>,
        access: TableAccess<'a, M>,
        pages: Pages,
        level: Level,
    ) -> Cursor<'a, F, M> {
        Cursor::lock_above(page_table, access, pages, |at| at == level)
    }

    /// Claims what serves `pages`. The cursor is in the lowest table that covers them, but not below an
    /// entry of a level that `stay` accepts.
    // Else its result is copied, and each level is a turn of a loop of unknown length.
    #[inline(always)]
    pub(in crate::page_table) fn lock_above(
        page_table: &'a PageTable<F>,
        access: TableAccess<'a, M>,
        pages: Pages,
        stay: impl Fn(Level) -> bool,
    ) -> Cursor<'a, F, M> {
        const { assert!(F::ROOT.get() > LOWEST_CLAIMED.get(), "a root is above directories") };
        if !pages.within_one_entry(Level::GIANT) || pages.fill_entries(Level::GIANT) {
            return Cursor::lock_pieces(page_table, access, pages, stay);
        }
        // Everything else is rare: missing directories, and other cursors.
        let Some(mut claimed) = Cursor::<F, M>::try_first(page_table, access, pages.first) else {
            return Cursor::lock_pieces(page_table, access, pages, stay);
        };
        if !pages.within_one_entry(LOWEST_CLAIMED) {
            claimed.extend::<F, M>(access.memory, &page_table.locks, pages);
        }
        claimed.into_cursor(access.memory, stay)
    }

    /// Claims what serves `pages`, which are in one entry of a directory, unless a directory is missing, or
    /// another cursor in the way.
    #[inline(always)]
    pub(in crate::page_table) fn try_lock_one(
        page_table: &'a PageTable<F>,
        access: TableAccess<'a, M>,
        pages: Pages,
    ) -> Option<Cursor<'a, F, M>> {
        let claimed = Cursor::<F, M>::try_first(page_table, access, pages.first)?;
        Some(claimed.into_cursor(access.memory, |_| false))
    }

    /// Claims the entry of a directory that serves `page`, unless a directory is missing, or another cursor in
    /// the way.
    #[inline(always)]
    fn try_first(page_table: &'a PageTable<F>, access: TableAccess<'a, M>, page: u64) -> Option<Claimed<'a>> {
        let _walk = access.enter();
        let down = |_, entry| match entry {
            Entry::Table(next) => Way::Down(next),
            _ => Way::Up,
        };
        try_first::<F, M>(page_table.root, access.memory, page, down, |_| false).ok()
    }

    /// Keeps `walk` announced until the claims are released: until the change is recorded.
    pub(in crate::page_table) fn in_walk(&mut self, walk: WalkGuard<'a>) {
        self.held = match core::mem::replace(&mut self.held, Held::Entries(&[])) {
            Held::Entries(entries) => Held::EntriesInWalk(entries, walk),
            Held::Pieces(pieces) => Held::PiecesInWalk(pieces, walk),
            held => held,
        };
    }

    /// The frame of the table to change.
    pub(in crate::page_table) fn frame(&self) -> PhysFrame {
        self.table
    }

    /// The table to change: only what the range touches of it is the cursor's.
    pub(in crate::page_table) fn table(&self) -> &'a Table {
        // SAFETY: the claims keep it linked until `self` is dropped; who keeps the reference longer is in
        // this module's parent, and none does.
        unsafe { table_at(self.memory, self.table) }
    }
}

/// Claims in one table that hold.
pub(super) struct Claimed<'a> {
    /// The table that has the entries.
    table: PhysFrame,
    pub level: Level,
    pub entries: &'a [TableEntry],
    /// What the first entry says.
    pub found: RawEntry,
}

impl<'a> Claimed<'a> {
    /// Claims the entries of the same directory that serve the other pages of `pages`, whose first one
    /// the claimed entry serves.
    #[inline(always)]
    pub(super) fn extend<F: Format, M: TableMemory>(
        &mut self,
        memory: &'a M,
        counters: &LockCounters,
        pages: Pages,
    ) {
        // SAFETY: the claim of one of its entries keeps it linked; the reference goes no further than the
        // claims.
        let directory = unsafe { table_at(memory, self.table) };
        let [first, last] = [pages.first, pages.last].map(|page| LOWEST_CLAIMED.index(page));
        self.entries = directory.entries(first, last);
        for entry in &self.entries[1..] {
            claim::<F, M>(entry, memory, counters);
        }
    }

    /// The cursor of a range that the entries cover: below them if there is one, unless `stay` accepts its
    /// level.
    #[inline(always)]
    pub(super) fn into_cursor<F: Format, M: TableMemory>(
        self,
        memory: &'a M,
        stay: impl Fn(Level) -> bool,
    ) -> Cursor<'a, F, M> {
        let (level, table) = match (F::decode(self.found, self.level), self.level.below()) {
            (Entry::Table(next), Some(below)) if self.entries.len() == 1 && !stay(self.level) => {
                (below, next)
            }
            _ => (self.level, self.table),
        };
        Cursor { memory, level, table, held: Held::Entries(self.entries), format: PhantomData }
    }
}

/// Where a cursor goes from an entry above the directories.
pub(super) enum Way {
    /// To the table that the entry leads to.
    Down(PhysFrame),
    /// Nowhere: it claims the entry.
    Here,
    /// Back.
    Up,
}

/// Why no entry was claimed.
pub(super) enum Missed {
    /// Another cursor has the claim of the entry, or of one above.
    Claimed,
    /// The entry, or one above, has changed meanwhile.
    Changed,
    /// The cursor went [`Way::Up`].
    Left,
}

/// Tries to claim an entry that serves `page`: the one of a directory, or one above from which `way` does not
/// go on. Looks at no entry again of a level that `held` accepts: the caller has a claim below it.
///
/// To be called in an announced walk.
#[inline(always)]
pub(super) fn try_first<'a, F: Format, M: TableMemory>(
    root: PhysFrame,
    memory: &'a M,
    page: u64,
    way: impl Fn(Level, Entry) -> Way,
    held: impl Fn(Level) -> bool,
) -> Result<Claimed<'a>, Missed> {
    let mut path = Path::ROOT;
    let (mut table, mut level) = (root, F::ROOT);
    loop {
        // SAFETY: the root lives as long as the page table; a table below was linked when its entry was
        // read, and is not freed while the walk is announced, or the claim held.
        let entry = unsafe { table_at(memory, table) }.entry(level.index(page));
        let seen = entry.load();
        let held = held(level);
        if seen.is_claimed::<F>() && !held {
            return Err(Missed::Claimed);
        }
        if level > LOWEST_CLAIMED
            && let Some(below) = level.below()
        {
            match way(level, F::decode(seen, level)) {
                Way::Down(next) => {
                    if !held {
                        path.add(level, entry, seen);
                    }
                    (table, level) = (next, below);
                    continue;
                }
                Way::Here => {}
                Way::Up => return Err(Missed::Left),
            }
        }
        if claim_seen::<F>(entry, seen).is_err() {
            return Err(Missed::Changed);
        }
        let intact = path.is_intact::<F>();
        // A claimant of an entry above may have changed the entry between its claim and that look.
        let found = entry.load();
        if !intact || level > LOWEST_CLAIMED && found.unclaimed::<F>() != seen {
            release::<F>(entry);
            return Err(Missed::Changed);
        }
        return Ok(Claimed { table, level, entries: slice::from_ref(entry), found });
    }
}
