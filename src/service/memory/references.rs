//! A frame's reference word in the per-frame table: the holders of the frame, and the way to free
//! it.
//!
//! | bits | meaning |
//! |---|---|
//! | 31 | [`PART`]: the frame is a part of a split 2 MiB run, and is freed with the run's last part |
//! | 30 | [`JOINED`], in a run's first frame: the run was allocated in frames, and is freed in frames |
//! | 10 to 29 | *shares*: number of holders beyond the first |
//! | 0 to 9 | in a split run's first frame: number of parts in use; or [`RUN`] |
//!
//! A frame owned by a single leaf has no shares: its word is neither read nor written.
//!
//! # Runs
//!
//! A 2 MiB run mapped by several leaves has a single count, in its first frame's word, which is
//! marked [`RUN`]. A 2 MiB leaf counts as 512 holders, and a 4 KiB leaf as one. A space may
//! therefore cut its 2 MiB leaf into 512 small leaves while the remaining spaces keep theirs: the
//! count is unchanged, and the cut cannot fail. The words of the run's remaining frames are then
//! marked `RUN`: the drop of a small leaf finds the count of the run. All of the run is freed with
//! its last leaf, of whatever size. A part of a shared run has no count of its own, so its only
//! holder cannot be recognised.
//!
//! A run split while owned by a single leaf has no such mark: each part has shares of its own, and
//! the first frame counts the parts in use.

#[cfg(all(test, loom))]
mod models;

use topomem_percpu::sync::atomic::{AtomicU32, Ordering};

use crate::page_table::{Level, SharesFull};

/// The frame is a part of a split run. The run's first frame counts the parts in use.
pub(in crate::service) const PART: u32 = 1 << 31;

/// A single leaf owns the run from here, but the run was allocated in frames, and is freed in
/// frames.
pub(super) const JOINED: u32 = 1 << 30;

/// The number of parts in use.
pub(super) const PARTS: u32 = (1 << SHARES_SHIFT) - 1;

/// In place of the number of parts: the frame lies in a run whose first frame counts all holders.
pub(super) const RUN: u32 = PARTS;

const SHARES_SHIFT: u32 = 10;

/// Greatest number of shares counted by a word.
const MOST: u32 = (1 << 20) - 1;

const SHARES: u32 = MOST << SHARES_SHIFT;

/// A leaf holding a frame or a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::service) enum Holder {
    /// A 4 KiB leaf.
    Page,
    /// A 2 MiB leaf.
    Run,
}

impl Holder {
    /// Returns the kind of a leaf of `level`, at most [`Level::HUGE`].
    pub(crate) fn of(level: Level) -> Holder {
        debug_assert!(level <= Level::HUGE, "nothing larger is shared");
        if level == Level::PAGE { Holder::Page } else { Holder::Run }
    }

    /// Returns the number of holders the leaf counts as.
    const fn weight(self) -> u32 {
        match self {
            Holder::Page => 1,
            Holder::Run => Level::HUGE.pages() as u32,
        }
    }
}

/// Returns whether the frame with the word `word` lies in a run whose first frame counts all
/// holders.
pub(super) const fn is_run(word: u32) -> bool {
    word & PARTS == RUN
}

/// Returns the number of holders counted by `word`, the caller's `holder` included.
const fn held(word: u32, holder: Holder) -> u32 {
    if !is_run(word) && matches!(holder, Holder::Run) {
        // A run never shared: its only leaf.
        return holder.weight();
    }
    ((word & SHARES) >> SHARES_SHIFT) + 1
}

/// The change of the word for a single holder.
const ONE: u32 = 1 << SHARES_SHIFT;

/// Adds a further 4 KiB leaf like [`share`], if `word` is the frame's own, has room, and does not
/// change at the same time. Returns whether the leaf was added.
#[inline(always)]
pub(super) fn share_page(word: &AtomicU32) -> bool {
    // Relaxed, as in `share`.
    let current = word.load(Ordering::Relaxed);
    !is_run(current)
        && current & SHARES != SHARES
        && word.compare_exchange(current, current + ONE, Ordering::Relaxed, Ordering::Relaxed).is_ok()
}

/// Takes away a 4 KiB leaf like [`drop_share`], if `word` is the frame's own, counts further
/// holders, and does not change at the same time. Returns whether the leaf was taken away.
#[inline(always)]
pub(super) fn drop_page(word: &AtomicU32) -> bool {
    // Relaxed: the caller is not the last holder if the exchange succeeds.
    let current = word.load(Ordering::Relaxed);
    !is_run(current)
        && current & SHARES != 0
        // Release pairs with the Acquire in `drop_share` of the last holder.
        && word.compare_exchange(current, current - ONE, Ordering::Release, Ordering::Relaxed).is_ok()
}

/// Adds a further holder of the same kind as the caller's `holder`.
///
/// # Errors
///
/// Returns [`SharesFull`] if the count is full. The word is unchanged then.
pub(in crate::service) fn share(word: &AtomicU32, holder: Holder) -> Result<(), SharesFull> {
    // Relaxed, here and below: the caller holds the frame, so the count cannot end meanwhile, and
    // the new holder learns of the frame from the caller.
    let mut current = word.load(Ordering::Relaxed);
    loop {
        debug_assert!(current & PART == 0 || holder == Holder::Page, "a split run is no leaf's");
        let shares = held(current, holder) + holder.weight() - 1;
        if shares > MOST {
            return Err(SharesFull);
        }
        let mark = if holder == Holder::Run { RUN } else { 0 };
        let new = current & !SHARES | shares << SHARES_SHIFT | mark;
        match word.compare_exchange_weak(current, new, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => return Ok(()),
            Err(now) => current = now,
        }
    }
}

/// The state after a dropped share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::service) enum Dropped {
    /// The frame or run has further holders.
    Held,
    /// The caller was the last holder, and has to free the frame or run.
    Last,
}

/// Takes away the caller's `holder`. Of several callers dropping the last shares at once, exactly
/// one gets [`Dropped::Last`], and all uses by the rest happened before.
pub(in crate::service) fn drop_share(word: &AtomicU32, holder: Holder) -> Dropped {
    // Acquire pairs with the Release of the holders dropped before.
    let mut current = word.load(Ordering::Acquire);
    loop {
        let held = held(current, holder);
        debug_assert!(held >= holder.weight(), "dropped by who is no holder");
        if held <= holder.weight() {
            if is_run(current) {
                // Relaxed: no other holder exists.
                word.store(current & JOINED, Ordering::Relaxed);
            }
            return Dropped::Last;
        }
        let new = current - (holder.weight() << SHARES_SHIFT);
        // Release pairs with the Acquire of the last holder: the caller's uses happened before the
        // free.
        match word.compare_exchange_weak(current, new, Ordering::Release, Ordering::Acquire) {
            Ok(_) => return Dropped::Held,
            Err(now) => current = now,
        }
    }
}

/// Returns whether the caller's `holder` is the only one. If true, the answer stays true until the
/// caller shares the frame, and all uses by former holders happened before.
///
/// Always false for a 4 KiB part of a shared run.
pub(in crate::service) fn is_sole_holder(word: &AtomicU32, holder: Holder) -> bool {
    // Acquire pairs with the Release in `drop_share`.
    let word = word.load(Ordering::Acquire);
    if is_run(word) && holder == Holder::Page {
        return false;
    }
    held(word, holder) == holder.weight()
}

/// Returns each holder's part of a frame, in bytes: 4096 divided by the number of holders counted
/// by `word`, without `others` of them. For a part of a shared run, the run's holders are assumed
/// to be spread evenly.
pub(in crate::service) fn part_of_each(word: &AtomicU32, others: u32) -> u64 {
    // Relaxed: statistics.
    let word = word.load(Ordering::Relaxed);
    let pages = if is_run(word) { Holder::Run.weight() } else { 1 };
    4096 * u64::from(pages) / u64::from(held(word, Holder::Page).saturating_sub(others).max(1))
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    fn word(of: u32) -> AtomicU32 {
        AtomicU32::new(of)
    }

    fn shares(word: &AtomicU32) -> u32 {
        (word.load(Ordering::Relaxed) & SHARES) >> SHARES_SHIFT
    }

    #[test]
    fn holders_share_a_frame_evenly() {
        let page = word(0);
        assert_eq!(part_of_each(&page, 0), 4096);
        share(&page, Holder::Page).unwrap();
        assert_eq!((part_of_each(&page, 0), part_of_each(&page, 1)), (2048, 4096));
        share(&page, Holder::Page).unwrap();
        assert_eq!((part_of_each(&page, 0), part_of_each(&page, 1)), (1365, 2048));
        let run = word(0);
        share(&run, Holder::Run).unwrap();
        assert_eq!(part_of_each(&run, 0), 2048);
        assert_eq!(drop_share(&run, Holder::Run), Dropped::Held);
        assert_eq!(part_of_each(&run, 0), 4096);
    }

    #[test]
    fn pages_are_counted_beyond_the_first_holder() {
        for flags in [0, PART, PART | 300] {
            let word = word(flags);
            assert!(is_sole_holder(&word, Holder::Page));
            share(&word, Holder::Page).unwrap();
            share(&word, Holder::Page).unwrap();
            assert_eq!(shares(&word), 2);
            assert_eq!(drop_share(&word, Holder::Page), Dropped::Held);
            assert!(!is_sole_holder(&word, Holder::Page));
            assert_eq!(drop_share(&word, Holder::Page), Dropped::Held);
            assert!(is_sole_holder(&word, Holder::Page));
            assert_eq!(drop_share(&word, Holder::Page), Dropped::Last);
            assert_eq!(word.load(Ordering::Relaxed), flags);
        }
    }

    #[test]
    fn a_run_counts_leaves_of_both_sizes() {
        for flags in [0, JOINED] {
            let word = word(flags);
            assert!(is_sole_holder(&word, Holder::Run));
            share(&word, Holder::Run).unwrap();
            assert!(!is_sole_holder(&word, Holder::Run));
            assert_eq!(shares(&word), 1023);
            // One leaf is cut, and one part shared.
            share(&word, Holder::Page).unwrap();
            for _ in 0..513 {
                assert!(!is_sole_holder(&word, Holder::Page));
                assert_eq!(drop_share(&word, Holder::Page), Dropped::Held);
            }
            assert!(is_sole_holder(&word, Holder::Run), "the other leaf");
            share(&word, Holder::Run).unwrap();
            assert_eq!(drop_share(&word, Holder::Run), Dropped::Held);
            for _ in 0..511 {
                assert_eq!(drop_share(&word, Holder::Page), Dropped::Held);
                assert!(!is_sole_holder(&word, Holder::Page));
            }
            assert_eq!(drop_share(&word, Holder::Page), Dropped::Last);
            assert_eq!(word.load(Ordering::Relaxed), flags);
        }
    }

    #[test]
    fn a_full_count_refuses_and_stays() {
        let full = word(MOST << SHARES_SHIFT);
        assert_eq!(share(&full, Holder::Page), Err(SharesFull));
        assert_eq!(shares(&full), MOST);
        let run = word(0);
        for _ in 1..2048 {
            share(&run, Holder::Run).unwrap();
        }
        let before = run.load(Ordering::Relaxed);
        assert_eq!(share(&run, Holder::Run), Err(SharesFull));
        assert_eq!(share(&run, Holder::Page), Err(SharesFull));
        assert_eq!(run.load(Ordering::Relaxed), before);
        for _ in 1..2048 {
            assert_eq!(drop_share(&run, Holder::Run), Dropped::Held);
        }
        assert_eq!(drop_share(&run, Holder::Run), Dropped::Last);
    }
}
