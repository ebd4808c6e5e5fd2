//! Claims: the locks of page-table entries, each a bit of the entry itself.
//!
//! Entries have claims at every level above the lowest tables. Only the claimant of an entry
//! changes the entry and everything below it; `cursor.rs` describes the protocol. The hardware
//! ignores the bit, and so do walks. Every change of an entry keeps its claim: only [`release`]
//! removes the claim.

use topomem_percpu::sync::atomic::{AtomicU64, Ordering};

use crate::page_table::format::Format;
use crate::page_table::format::entry::{Entry, RawEntry};
use crate::page_table::format::level::{ENTRIES, Level};
use crate::page_table::tables::memory::{TableMemory, table_at};
use crate::page_table::tables::table::{Table, TableEntry};

/// The lowest level with claimed entries. The entries lead to the lowest tables, or map 2 MiB each.
pub(in crate::page_table) const LOWEST_CLAIMED: Level = Level::HUGE;

/// Counts the waits for claims.
#[derive(Debug, Default)]
pub struct LockCounters {
    contended: AtomicU64,
}

impl LockCounters {
    #[cfg(not(loom))]
    pub(in crate::page_table) const fn new() -> LockCounters {
        LockCounters { contended: AtomicU64::new(0) }
    }

    #[cfg(loom)]
    pub(in crate::page_table) fn new() -> LockCounters {
        LockCounters { contended: AtomicU64::new(0) }
    }

    /// Returns the number of claims delayed by another cursor's claim of the same entry, of an
    /// entry above, or of an entry below. Relaxed: a count orders nothing.
    pub fn contended(&self) -> u64 {
        self.contended.load(Ordering::Relaxed)
    }

    /// Returns a wait, which begins with its first turn.
    pub(super) fn wait(&self) -> Wait<'_> {
        Wait { counters: self, counted: false }
    }
}

/// A wait for the claims of other cursors. Counted once, at its first turn.
pub(super) struct Wait<'a> {
    counters: &'a LockCounters,
    counted: bool,
}

impl Wait<'_> {
    #[cold]
    pub(super) fn turn<M: TableMemory>(&mut self, memory: &M) {
        if !self.counted {
            self.counters.contended.fetch_add(1, Ordering::Relaxed);
            self.counted = true;
        }
        memory.relax();
    }
}

impl RawEntry {
    /// Returns the entry without a claim.
    pub(in crate::page_table) const fn unclaimed<F: Format>(self) -> RawEntry {
        RawEntry(self.0 & !F::CLAIM)
    }

    /// Returns the entry with a claim.
    pub(in crate::page_table) const fn claimed<F: Format>(self) -> RawEntry {
        RawEntry(self.0 | F::CLAIM)
    }

    pub(in crate::page_table) const fn is_claimed<F: Format>(self) -> bool {
        self.0 & F::CLAIM != 0
    }

    /// Returns the entry, claimed if `other` is claimed.
    pub(in crate::page_table) const fn claimed_like<F: Format>(self, other: RawEntry) -> RawEntry {
        RawEntry(self.0 & !F::CLAIM | other.0 & F::CLAIM)
    }
}

/// Claims `entry` if it still equals `seen`, which is unclaimed. Otherwise returns the present
/// contents.
#[inline]
pub(super) fn claim_seen<F: Format>(entry: &TableEntry, seen: RawEntry) -> Result<(), RawEntry> {
    // Acquire pairs with the Release in `release`: the last claimant's changes are visible. The
    // exchange is also a full barrier, pairing with the barrier of a claimant of an entry above or
    // below. Each of the two claimants then looks for the other's claim with `load_ordered`, and at
    // least one of them sees the other.
    entry.compare_exchange(seen, RawEntry(seen.0 | F::CLAIM))
}

/// Claims `entry`, whose table stays linked meanwhile, and returns the contents. Waits while
/// another cursor has the claim.
#[inline]
pub(super) fn claim<F: Format, M: TableMemory>(
    entry: &TableEntry,
    memory: &M,
    counters: &LockCounters,
) -> RawEntry {
    let mut wait = counters.wait();
    loop {
        match try_claim::<F>(entry) {
            Some(found) => return found,
            None => wait.turn(memory),
        }
    }
}

/// Claims `entry` and returns its contents, or returns `None` if another cursor has the claim.
#[inline]
pub(in crate::page_table) fn try_claim<F: Format>(entry: &TableEntry) -> Option<RawEntry> {
    let mut current = entry.load();
    while !current.is_claimed::<F>() {
        // The hardware may set the accessed bit in between.
        match claim_seen::<F>(entry, current) {
            Ok(()) => return Some(current),
            Err(now) => current = now,
        }
    }
    None
}

/// Releases the claim of `entry`.
#[inline]
pub(in crate::page_table) fn release<F: Format>(entry: &TableEntry) {
    entry.clear_bits(F::CLAIM);
}

/// Waits until no entry under `table`, of `level`, is claimed. The caller has claimed the table's
/// own entry before. Later claimants give way, since they find the caller's claim above theirs.
///
/// The wait proceeds from low entries to high entries: an awaited cursor may still claim entries
/// further up. Calls `visit` with the contents and the level of each entry not vacant.
pub(super) fn drain<F: Format, M: TableMemory>(
    memory: &M,
    counters: &LockCounters,
    table: &Table,
    level: Level,
    visit: &mut impl FnMut(Entry, Level),
) {
    for index in table.used(0..=ENTRIES - 1) {
        let mut wait = counters.wait();
        let found = loop {
            let found = table.entry(index).load_ordered();
            if !found.is_claimed::<F>() {
                break found;
            }
            wait.turn(memory);
        };
        let entry = F::decode(found, level);
        visit(entry, level);
        if let (Entry::Table(next), Some(below)) = (entry, level.below())
            && level > LOWEST_CLAIMED
        {
            // SAFETY: no other context has a claim on the table's entry, or on an entry above, so
            // the table stays linked.
            drain::<F, M>(memory, counters, unsafe { table_at(memory, next) }, below, visit);
        }
    }
}

impl TableEntry {
    /// Replaces the contents of the entry, in a table of `level`, and keeps a claim. Returns the
    /// old contents, with everything marked by the hardware until the exchange.
    #[inline(always)]
    pub(in crate::page_table) fn replace<F: Format>(&self, level: Level, new: RawEntry) -> RawEntry {
        if level < LOWEST_CLAIMED {
            return self.swap(new);
        }
        let mut current = self.load();
        loop {
            match self.compare_exchange(current, new.claimed_like::<F>(current)) {
                Ok(()) => return current.unclaimed::<F>(),
                Err(now) => current = now,
            }
        }
    }
}
