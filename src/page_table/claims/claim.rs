//! Claims: the locks of page-table entries, each a bit of the entry itself.
//!
//! Entries have claims at every level above the lowest tables. The claimant of an entry alone changes
//! the entry and everything below it; `cursor.rs` describes the protocol. The hardware ignores the bit,
//! and so do walks. Every change of an entry keeps its claim, so that only [`release`] takes the claim
//! away.

use topomem_percpu::sync::atomic::{AtomicU64, Ordering};

use crate::page_table::format::Format;
use crate::page_table::format::entry::{Entry, RawEntry};
use crate::page_table::format::level::{ENTRIES, Level};
use crate::page_table::tables::memory::{TableMemory, table_at};
use crate::page_table::tables::table::{Table, TableEntry};

/// The lowest level whose entries are claimed. These entries lead to the lowest tables, or map 2 MiB
/// each.
pub(in crate::page_table) const LOWEST_CLAIMED: Level = Level::HUGE;

/// How often claims had to be waited for.
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

    /// Claims that had to wait for another cursor: for its claim of the same entry, of an entry
    /// above, or of an entry below.
    pub fn contended(&self) -> u64 {
        self.contended.load(Ordering::Relaxed)
    }

    /// A wait that begins with the next turn.
    pub(super) fn wait(&self) -> Wait<'_> {
        Wait { counters: self, counted: false }
    }
}

/// A wait for the claims of others. It counts as one, if it has any turns.
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
    /// The same entry without a claim.
    pub(in crate::page_table) const fn unclaimed<F: Format>(self) -> RawEntry {
        RawEntry(self.0 & !F::CLAIM)
    }

    /// The same entry with a claim.
    pub(in crate::page_table) const fn claimed<F: Format>(self) -> RawEntry {
        RawEntry(self.0 | F::CLAIM)
    }

    pub(in crate::page_table) const fn is_claimed<F: Format>(self) -> bool {
        self.0 & F::CLAIM != 0
    }

    /// The same entry, claimed if `other` is.
    pub(in crate::page_table) const fn claimed_like<F: Format>(self, other: RawEntry) -> RawEntry {
        RawEntry(self.0 & !F::CLAIM | other.0 & F::CLAIM)
    }
}

/// Claims `entry` if it still says `seen`, which is unclaimed. Otherwise returns what it says now.
#[inline]
pub(super) fn claim_seen<F: Format>(entry: &TableEntry, seen: RawEntry) -> Result<(), RawEntry> {
    // Acquire pairs with the Release in `release`: the last claimant's changes are seen. A full barrier
    // besides, which pairs with the one of a claimant of an entry above or below: of the two claimants,
    // each of which then looks for the other's claim by `load_ordered`, one at least sees the other.
    entry.compare_exchange(seen, RawEntry(seen.0 | F::CLAIM))
}

/// Claims `entry`, whose table stays linked meanwhile. Returns what it says. Waits while another
/// cursor has the claim.
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

/// Claims `entry` and returns what it says, unless another has the claim.
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

/// Gives a claim back.
#[inline]
pub(in crate::page_table) fn release<F: Format>(entry: &TableEntry) {
    entry.clear_bits(F::CLAIM);
}

/// Waits until nobody has a claim under `table`, of `level`, whose own entry the caller has claimed
/// before. Later claims give way, for they find the caller's claim above them.
///
/// Goes from low entries to high ones: a cursor that is waited for may still claim entries further on.
/// Calls `visit` with what each entry says that is not vacant, and its level.
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
            // SAFETY: nobody else has a claim on its entry, or on one above, so that it stays linked.
            drain::<F, M>(memory, counters, unsafe { table_at(memory, next) }, below, visit);
        }
    }
}

impl TableEntry {
    /// Replaces what the entry, in a table of `level`, says; a claim stays. Returns the old entry with
    /// what the hardware noted in it until then.
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
