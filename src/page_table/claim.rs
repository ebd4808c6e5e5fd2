//! Claims: the locks of a page directory's entries, each a bit of the entry itself.
//!
//! Who has claimed an entry alone changes it and all that is below it. The hardware ignores the
//! bit, and walks do. Every change of a claimed entry keeps it, so that it goes away only by
//! [`release`].

use super::entry::RawEntry;
use super::format::Format;
use super::level::Level;
use super::lock::LockCounters;
use super::table::TableEntry;

/// The tables whose entries are claimed one by one: those that point to the lowest tables, or map
/// 2 MiB each.
pub(super) const CLAIMED_LEVEL: Level = Level::HUGE;

impl RawEntry {
    /// The same, whoever has claimed it.
    pub(super) const fn unclaimed<F: Format>(self) -> RawEntry {
        RawEntry(self.0 & !F::CLAIM)
    }

    const fn is_claimed<F: Format>(self) -> bool {
        self.0 & F::CLAIM != 0
    }

    /// The same, claimed where `other` is.
    pub(super) const fn claimed_like<F: Format>(self, other: RawEntry) -> RawEntry {
        RawEntry(self.0 & !F::CLAIM | other.0 & F::CLAIM)
    }
}

/// Claims `entry`; spins through `relax` while another has it. What it says comes back.
#[inline]
pub(super) fn claim<F: Format>(entry: &TableEntry, counters: &LockCounters, relax: impl Fn()) -> RawEntry {
    let mut waited = false;
    let mut current = entry.load();
    loop {
        if current.is_claimed::<F>() {
            if !waited {
                counters.count();
                waited = true;
            }
            relax();
            current = entry.load();
            continue;
        }
        // Acquire pairs with the Release in `release`: the last claimant's entries are seen. Where
        // the hardware has set the accessed bit in between, nobody waits for anybody.
        match entry.compare_exchange(current, RawEntry(current.0 | F::CLAIM)) {
            Ok(()) => return current,
            Err(now) => current = now,
        }
    }
}

/// Claims `entry` and returns what it says, unless another has it.
pub(super) fn try_claim<F: Format>(entry: &TableEntry) -> Option<RawEntry> {
    let mut current = entry.load();
    while !current.is_claimed::<F>() {
        // Acquire as in `claim`.
        match entry.compare_exchange(current, RawEntry(current.0 | F::CLAIM)) {
            Ok(()) => return Some(current),
            Err(now) => current = now,
        }
    }
    None
}

/// Gives back what [`claim`] or [`try_claim`] took.
#[inline]
pub(super) fn release<F: Format>(entry: &TableEntry) {
    entry.clear_bits(F::CLAIM);
}

impl TableEntry {
    /// Replaces what the entry, in a table of `level`, says; a claim stays. What the hardware
    /// noted in the old one until then comes back with it.
    #[inline(always)]
    pub(super) fn replace<F: Format>(&self, level: Level, new: RawEntry) -> RawEntry {
        if level != CLAIMED_LEVEL {
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
