//! The reader-writer lock of a table above the page directories, in its word of the per-frame
//! table.
//!
//! Bit 31: held exclusively. Bit 30: someone waits to, so that new sharers stand back. The rest
//! counts sharers. A zeroed word is a free lock.

use topomem_percpu::sync::atomic::{AtomicU32, AtomicU64, Ordering};

const EXCLUSIVE: u32 = 1 << 31;
const WAITING: u32 = 1 << 30;

/// How often locks and claims had to be waited for.
#[derive(Debug, Default)]
pub struct LockCounters {
    contended: AtomicU64,
}

impl LockCounters {
    #[cfg(not(loom))]
    pub(super) const fn new() -> LockCounters {
        LockCounters { contended: AtomicU64::new(0) }
    }

    #[cfg(loom)]
    pub(super) fn new() -> LockCounters {
        LockCounters { contended: AtomicU64::new(0) }
    }

    /// Acquisitions that found the lock or claim held by another cursor.
    pub fn contended(&self) -> u64 {
        self.contended.load(Ordering::Relaxed)
    }

    pub(super) fn count(&self) {
        self.contended.fetch_add(1, Ordering::Relaxed);
    }
}

/// Takes `word` shared; spins through `relax` while it is held exclusively.
#[inline]
pub(super) fn lock_shared(word: &AtomicU32, counters: &LockCounters, relax: impl Fn()) {
    let mut waited = false;
    loop {
        let state = word.load(Ordering::Relaxed);
        if state & (EXCLUSIVE | WAITING) != 0 {
            if !waited {
                counters.count();
                waited = true;
            }
            relax();
            continue;
        }
        // Acquire pairs with the Release in `unlock_exclusive`: the holder's entries are seen.
        // A lost race against another sharer is no contention: nobody waits for anybody.
        if word.compare_exchange_weak(state, state + 1, Ordering::Acquire, Ordering::Relaxed).is_ok() {
            return;
        }
    }
}

/// Takes `word` shared, unless it is held exclusively or somebody waits for that.
pub(super) fn try_lock_shared(word: &AtomicU32) -> bool {
    let mut state = word.load(Ordering::Relaxed);
    while state & (EXCLUSIVE | WAITING) == 0 {
        // Acquire as in `lock_shared`.
        match word.compare_exchange_weak(state, state + 1, Ordering::Acquire, Ordering::Relaxed) {
            Ok(_) => return true,
            Err(now) => state = now,
        }
    }
    false
}

/// Gives back what [`lock_shared`] or [`try_lock_shared`] took.
#[inline]
pub(super) fn unlock_shared(word: &AtomicU32) {
    // Release pairs with the Acquire in `lock_exclusive`: entries that a sharer linked are seen.
    word.fetch_sub(1, Ordering::Release);
}

/// Takes `word` exclusively; spins through `relax` while anybody holds it.
#[inline]
pub(super) fn lock_exclusive(word: &AtomicU32, counters: &LockCounters, relax: impl Fn()) {
    let mut waited = false;
    loop {
        let state = word.load(Ordering::Relaxed);
        if state & !WAITING == 0 {
            // Acquire pairs with the Releases of both unlocks. WAITING goes away with it; who
            // else waits sets it again.
            if word.compare_exchange_weak(state, EXCLUSIVE, Ordering::Acquire, Ordering::Relaxed).is_ok() {
                return;
            }
            continue;
        }
        if !waited {
            counters.count();
            waited = true;
        }
        if state & WAITING == 0 {
            word.fetch_or(WAITING, Ordering::Relaxed);
        }
        relax();
    }
}

/// Takes `word` exclusively, if nobody holds it or waits for that.
pub(super) fn try_lock_exclusive(word: &AtomicU32) -> bool {
    // Acquire as in `lock_exclusive`.
    word.compare_exchange(0, EXCLUSIVE, Ordering::Acquire, Ordering::Relaxed).is_ok()
}

/// Gives back what [`lock_exclusive`] or [`try_lock_exclusive`] took.
#[inline]
pub(super) fn unlock_exclusive(word: &AtomicU32) {
    word.fetch_and(!EXCLUSIVE, Ordering::Release);
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    #[test]
    fn a_waiting_writer_holds_new_readers_back() {
        let word = AtomicU32::new(0);
        let counters = LockCounters::new();
        lock_shared(&word, &counters, || panic!("free"));
        lock_shared(&word, &counters, || panic!("shared"));
        assert_eq!(counters.contended(), 0);
        let turns = std::cell::Cell::new(0);
        lock_exclusive(&word, &counters, || {
            assert_eq!(word.load(Ordering::Relaxed) & !3, WAITING);
            unlock_shared(&word);
            turns.set(turns.get() + 1);
        });
        assert_eq!(turns.get(), 2);
        assert_eq!(counters.contended(), 1);
        unlock_exclusive(&word);
        assert_eq!(word.load(Ordering::Relaxed), 0);
    }
}
