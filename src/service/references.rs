//! A frame's reference word in the per-frame table: who holds the frame, and how it is freed.
//!
//! | bits | meaning |
//! |---|---|
//! | 31 | [`PART`]: the frame is a part of a 2 MiB run that was split, and is freed with the run's last part |
//! | 30 | [`JOINED`], of a run's first frame: the run was allocated in frames, and is freed so |
//! | 10 to 29 | *shares*: how many holders there are beyond the first |
//! | 0 to 9 | of a split run's first frame: how many parts are in use; or [`RUN`] |
//!
//! A frame that one leaf owns alone has no shares: nobody reads or writes its word.
//!
//! # Runs
//!
//! A 2 MiB run that several leaves map has one count, in its first frame's word, which is marked
//! [`RUN`]. A 2 MiB leaf counts as 512 holders, and a 4 KiB leaf as one. So a space may cut its 2 MiB
//! leaf into 512 small ones while other spaces keep theirs: the count stays what it is, and the cut
//! cannot fail. The words of the run's other frames are marked `RUN` then: whoever drops a small leaf
//! finds the count of the run. All of the run is freed when its last leaf is, of whatever size. A part of
//! such a run has no count of its own, so nobody can know that it has a sole holder.
//!
//! A run that was split while one leaf owned it has no such mark: each part has shares of its own, and
//! the first frame counts the parts that are in use.

use topomem_percpu::sync::atomic::{AtomicU32, Ordering};

use crate::page_table::{Level, SharesFull};

/// The frame is a part of a run that was split. The run's first frame counts the parts in use.
pub(super) const PART: u32 = 1 << 31;

/// One leaf owns the run that starts here, but the run was allocated in frames, and is freed so.
pub(super) const JOINED: u32 = 1 << 30;

/// The number of parts in use.
pub(super) const PARTS: u32 = (1 << SHARES_SHIFT) - 1;

/// In the place of the number of parts: the frame lies in a run whose first frame counts all holders.
pub(super) const RUN: u32 = PARTS;

const SHARES_SHIFT: u32 = 10;

/// The most shares that a word counts.
const MOST: u32 = (1 << 20) - 1;

const SHARES: u32 = MOST << SHARES_SHIFT;

/// A leaf that holds a frame or a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holder {
    /// A 4 KiB leaf.
    Page,
    /// A 2 MiB leaf.
    Run,
}

impl Holder {
    /// Returns the kind of a leaf of `level`, at most [`Level::HUGE`].
    pub fn of(level: Level) -> Holder {
        debug_assert!(level <= Level::HUGE, "nothing larger is shared");
        if level == Level::PAGE { Holder::Page } else { Holder::Run }
    }

    /// Returns as how many holders the leaf counts.
    const fn weight(self) -> u32 {
        match self {
            Holder::Page => 1,
            Holder::Run => Level::HUGE.pages() as u32,
        }
    }
}

/// Returns whether the frame with the word `word` lies in a run whose first frame counts all holders.
pub(super) const fn is_run(word: u32) -> bool {
    word & PARTS == RUN
}

/// Returns how many holders `word` counts, of which the caller, a `holder`, is one.
const fn held(word: u32, holder: Holder) -> u32 {
    if !is_run(word) && matches!(holder, Holder::Run) {
        // A run that was never shared: its only leaf.
        return holder.weight();
    }
    ((word & SHARES) >> SHARES_SHIFT) + 1
}

/// The word with one holder more or less.
const ONE: u32 = 1 << SHARES_SHIFT;

/// Adds a further 4 KiB leaf, as [`share`] does, if `word` is the frame's own, has room, and is not changed
/// at the same time. Returns whether it did.
#[inline(always)]
pub(super) fn share_page(word: &AtomicU32) -> bool {
    // Relaxed, as in `share`.
    let current = word.load(Ordering::Relaxed);
    !is_run(current)
        && current & SHARES != SHARES
        && word.compare_exchange(current, current + ONE, Ordering::Relaxed, Ordering::Relaxed).is_ok()
}

/// Takes away a 4 KiB leaf, as [`drop_share`] does, if `word` is the frame's own, counts others, and is not
/// changed at the same time. Returns whether it did.
#[inline(always)]
pub(super) fn drop_page(word: &AtomicU32) -> bool {
    // Relaxed: the caller is not the last holder if this succeeds.
    let current = word.load(Ordering::Relaxed);
    !is_run(current)
        && current & SHARES != 0
        // Release, as in `drop_share`.
        && word.compare_exchange(current, current - ONE, Ordering::Release, Ordering::Relaxed).is_ok()
}

/// Adds a further holder of the same kind as the caller, who is a `holder`.
///
/// # Errors
///
/// [`SharesFull`]; the word is as before.
pub(super) fn share(word: &AtomicU32, holder: Holder) -> Result<(), SharesFull> {
    // Relaxed, here and below: the caller holds the frame, so the count cannot end meanwhile, and the new
    // holder learns of the frame from the caller.
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

/// What a dropped share leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dropped {
    /// Others hold the frame or run.
    Held,
    /// The caller was the last holder: the frame or run is the caller's to free.
    Last,
}

/// Takes away the caller, who is a `holder`. Of several callers that drop the last shares at once, one
/// learns that it is the last, and all uses by the others happened before.
pub(super) fn drop_share(word: &AtomicU32, holder: Holder) -> Dropped {
    // Acquire pairs with the Release of the holders that dropped theirs before.
    let mut current = word.load(Ordering::Acquire);
    loop {
        let held = held(current, holder);
        debug_assert!(held >= holder.weight(), "dropped by who is no holder");
        if held <= holder.weight() {
            if is_run(current) {
                // Relaxed: nobody else holds it.
                word.store(current & JOINED, Ordering::Relaxed);
            }
            return Dropped::Last;
        }
        let new = current - (holder.weight() << SHARES_SHIFT);
        // Release: the caller's uses happened before the last holder frees the frame.
        match word.compare_exchange_weak(current, new, Ordering::Release, Ordering::Acquire) {
            Ok(_) => return Dropped::Held,
            Err(now) => current = now,
        }
    }
}

/// Returns whether the caller, a `holder`, is the only one. Then that stays so until the caller shares
/// the frame, and all uses by former holders happened before.
///
/// Of a 4 KiB part of a shared run this is never said.
pub(super) fn is_sole_holder(word: &AtomicU32, holder: Holder) -> bool {
    // Acquire pairs with the Release in `drop_share`.
    let word = word.load(Ordering::Acquire);
    if is_run(word) && holder == Holder::Page {
        return false;
    }
    held(word, holder) == holder.weight()
}

/// Returns which part of a frame is each holder's, in bytes, if `others` of those that `word` counts do not
/// matter: 4096 divided by the holders of the frame. Of a part of a shared run, the holders of the run are
/// taken to be spread evenly.
pub(super) fn part_of_each(word: &AtomicU32, others: u32) -> u64 {
    // Relaxed: statistics.
    let word = word.load(Ordering::Relaxed);
    let pages = if is_run(word) { Holder::Run.weight() } else { 1 };
    4096 * u64::from(pages) / u64::from(held(word, Holder::Page).saturating_sub(others).max(1))
}

#[cfg(all(test, loom))]
mod models;

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
            // One of the leaves is cut, and one of the parts shared.
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
