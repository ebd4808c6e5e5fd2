//! Claiming the part of a page table serving a range.
//!
//! # The protocol
//!
//! A cursor descends from the root without writing, and claims the entries serving its range, the
//! lowest first. On the way to a page, the cursor claims the first entry of these kinds:
//!
//! - an entry above the directories, covered wholly by the range;
//! - an entry without a table: empty, or a large leaf;
//! - an entry of a directory.
//!
//! Only the claimant of an entry changes the entry and everything below it. Cursors over ranges
//! without a common 2 MiB therefore run in parallel and write no common word, for pages and for
//! large leaves alike, even while lowest tables come and go. The exception is a range with missing
//! tables above it.
//!
//! *Entries above.* After a claim, the cursor looks again at the entries on its way (see
//! [`Path`](super::path::Path)). If an entry on the way is claimed, or leads elsewhere, the cursor
//! releases its claim, waits until the entry above is free, and descends again. If all are
//! unchanged, the tables on the way stay linked until the release of the claim. Only then does the
//! cursor read the claimed entry: a claimant of an entry above may have changed it, and released,
//! before the look. Entries above an earlier claim of the same cursor need no second look, since
//! their claimants wait for the earlier claim.
//!
//! *Entries below.* A claimant of an entry leading to a directory or to a higher table then waits
//! until no entry below is claimed ([`drain`](super::claim::drain)). The claimants of an entry and
//! of an entry below each write their own claim and then read the other's, with a full barrier in
//! between: at least one of them sees the other. If both do, the lower claimant gives way.
//!
//! A walk is announced ([`Walks`](crate::page_table::Walks)) from the root until the claim is known
//! to hold, since tables may be unlinked until then.
//!
//! *No deadlock.* A waiting cursor holds only claims of pages below the awaited page. While it
//! waits for claims below its newest claim, it holds no claims of higher pages. Cursors with claims
//! below the newest claim do not wait for it.
//!
//! Interrupt handlers must not change mappings whose change they may have interrupted.

use core::marker::PhantomData;
use core::slice;

use topomem_percpu::PhysFrame;

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

/// Exclusive use of the entries serving a range, until dropped.
pub(crate) struct Cursor<'a, F: Format, M: TableMemory> {
    pub(in crate::page_table) memory: &'a M,
    pub(in crate::page_table) level: Level,
    /// The lowest table covering the range.
    pub(super) table: PhysFrame,
    pub(super) held: Held<'a>,
    pub(super) format: PhantomData<fn() -> F>,
}

/// The claims of a cursor.
pub(super) enum Held<'a> {
    /// Entries of a single table.
    Entries(&'a [TableEntry]),
    /// Entries of several tables.
    Pieces(Pieces),
    /// Entries of a single table, within a walk ending after the release of the claims.
    EntriesInWalk(&'a [TableEntry], #[allow(dead_code, reason = "held")] WalkGuard<'a>),
    /// Entries of several tables, within a walk ending after the release of the claims.
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
    /// Claims the entries serving `pages`. The cursor is in the lowest table covering the pages.
    #[inline]
    pub(crate) fn lock(
        page_table: &'a PageTable<F>,
        access: TableAccess<'a, M>,
        pages: Pages,
    ) -> Cursor<'a, F, M> {
        Cursor::lock_above(page_table, access, pages, |_| false)
    }

    /// Claims the entries serving `pages`, which fill entries of `level`, or lie in a single entry.
    /// The cursor is at `level`, or at the lowest level above if the table is missing.
    pub(crate) fn lock_entry(
        page_table: &'a PageTable<F>,
        access: TableAccess<'a, M>,
        pages: Pages,
        level: Level,
    ) -> Cursor<'a, F, M> {
        Cursor::lock_above(page_table, access, pages, |at| at == level)
    }

    /// Claims the entries serving `pages`. The cursor is in the lowest table covering the pages,
    /// but not below an entry of a level accepted by `stay`.
    // Inlined: otherwise the result is copied, and each level is a turn of a loop of unknown
    // length.
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
        // The rest is rare: missing directories, and other cursors.
        let Some(mut claimed) = Cursor::<F, M>::try_first(page_table, access, pages.first) else {
            return Cursor::lock_pieces(page_table, access, pages, stay);
        };
        if !pages.within_one_entry(LOWEST_CLAIMED) {
            claimed.extend::<F, M>(access.memory, &page_table.locks, pages);
        }
        claimed.into_cursor(access.memory, stay)
    }

    /// Claims the entry serving `pages`, which lie in a single entry of a directory. Returns `None`
    /// if a directory is missing, or another cursor is in the way.
    #[inline(always)]
    pub(in crate::page_table) fn try_lock_one(
        page_table: &'a PageTable<F>,
        access: TableAccess<'a, M>,
        pages: Pages,
    ) -> Option<Cursor<'a, F, M>> {
        let claimed = Cursor::<F, M>::try_first(page_table, access, pages.first)?;
        Some(claimed.into_cursor(access.memory, |_| false))
    }

    /// Claims the directory entry serving `page`. Returns `None` if a directory is missing, or
    /// another cursor is in the way.
    #[inline(always)]
    fn try_first(page_table: &'a PageTable<F>, access: TableAccess<'a, M>, page: u64) -> Option<Claimed<'a>> {
        let _walk = access.enter();
        let down = |_, entry| match entry {
            Entry::Table(next) => Way::Down(next),
            _ => Way::Up,
        };
        try_first::<F, M>(page_table.root, access.memory, page, down, |_| false).ok()
    }

    /// Keeps `walk` announced until the claims are released, after the change is recorded.
    pub(in crate::page_table) fn in_walk(&mut self, walk: WalkGuard<'a>) {
        self.held = match core::mem::replace(&mut self.held, Held::Entries(&[])) {
            Held::Entries(entries) => Held::EntriesInWalk(entries, walk),
            Held::Pieces(pieces) => Held::PiecesInWalk(pieces, walk),
            held => held,
        };
    }

    /// Returns the frame of the table to change.
    pub(in crate::page_table) fn frame(&self) -> PhysFrame {
        self.table
    }

    /// Returns the table to change. The cursor owns only the entries touched by its range.
    pub(in crate::page_table) fn table(&self) -> &'a Table {
        // SAFETY: the claims keep the table linked until `self` is dropped. Only this module's
        // parent could keep the reference longer, and no code there does.
        unsafe { table_at(self.memory, self.table) }
    }
}

/// Claims in a single table, known to hold.
pub(super) struct Claimed<'a> {
    /// The table with the entries.
    table: PhysFrame,
    pub level: Level,
    pub entries: &'a [TableEntry],
    /// The contents of the first entry.
    pub found: RawEntry,
}

impl<'a> Claimed<'a> {
    /// Claims the entries of the same directory serving the rest of `pages`. The claimed entry
    /// serves the first page.
    #[inline(always)]
    pub(super) fn extend<F: Format, M: TableMemory>(
        &mut self,
        memory: &'a M,
        counters: &LockCounters,
        pages: Pages,
    ) {
        // SAFETY: the claim of an entry keeps the table linked; the reference goes no further than
        // the claims.
        let directory = unsafe { table_at(memory, self.table) };
        let [first, last] = [pages.first, pages.last].map(|page| LOWEST_CLAIMED.index(page));
        self.entries = directory.entries(first, last);
        for entry in &self.entries[1..] {
            claim::<F, M>(entry, memory, counters);
        }
    }

    /// Returns the cursor of a range covered by the entries: in the table below if the only entry
    /// leads to a table, unless `stay` accepts the entry's level.
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

/// The way of a cursor from an entry above the directories.
pub(super) enum Way {
    /// To the table under the entry.
    Down(PhysFrame),
    /// No further: the cursor claims the entry.
    Here,
    /// Back.
    Up,
}

/// The reason why no entry was claimed.
pub(super) enum Missed {
    /// Another cursor has the claim of the entry, or of an entry above.
    Claimed,
    /// The entry, or an entry above, has changed meanwhile.
    Changed,
    /// The cursor went [`Way::Up`].
    Left,
}

/// Tries to claim an entry serving `page`: the directory's, or a higher entry at which `way` stops.
/// Entries of levels accepted by `held` get no second look: the caller has a claim below them.
///
/// Called within an announced walk.
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
        // SAFETY: the root lives as long as the page table. A table below was linked when its entry
        // was read, and is not freed while the walk is announced or the claim held.
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
        // A claimant of an entry above may have changed the entry between its claim and our look.
        let found = entry.load();
        if !intact || level > LOWEST_CLAIMED && found.unclaimed::<F>() != seen {
            release::<F>(entry);
            return Err(Missed::Changed);
        }
        return Ok(Claimed { table, level, entries: slice::from_ref(entry), found });
    }
}
