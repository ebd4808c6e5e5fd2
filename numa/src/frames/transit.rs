//! Frames in transit: free, and for some instructions where no search finds them.
//!
//! A request may be told that nothing is free only if that was so at some instant of it. Frames
//! move all the time, so a search that looks at one place after the other can miss frames that are
//! free throughout. One rule makes up for that:
//!
//! **Every context that puts free frames where searches find them, or takes them from one such place
//! to another, is counted in transit from before its first write until after its last.** While it
//! has its CPU's magazine to itself it counts in the magazine, by plain stores; other contexts
//! (nested ones, CPUs without a magazine, changes within a region) count in the region, by
//! read-modify-writes. Claims, which only take frames away, need not count, but release: whoever
//! sees their effect sees every count that the claimer has seen.
//!
//! Quick hits are not counted in transit, as they must cost nothing. A hit that takes a frame is
//! counted as taken, before it takes it; a hit that gives one back is not counted at all.
//!
//! **A search that found nothing is conclusive** if no count of its zones and nodes changed, and
//! none was in transit, from before it began until it had looked at bitmaps, buddies and pools, and
//! then at the magazines; and if no magazine counted a frame as taken while it looked at the
//! magazines ([`Watch`]). For then nothing came into the bitmaps after it had looked there, so they
//! were empty when it turned to the magazines; and nothing left the magazines before it had looked
//! there, so they were empty then, too.
//!
//! A nested context finds the counts of the context that it interrupted, and never waits for it.

use topomem_percpu::sync::atomic::{AtomicU64, Ordering};

/// How many contexts are in transit, and how many have been.
#[derive(Debug)]
pub(super) struct Transits(AtomicU64);

/// One that has ended, in the high half of the word.
const ENDED: u64 = 1 << 32;

impl Transits {
    #[cfg(not(loom))]
    pub(super) const fn new() -> Transits {
        Transits(AtomicU64::new(0))
    }

    /// loom's atomics have no `const` constructor.
    #[cfg(loom)]
    pub(super) fn new() -> Transits {
        Transits(AtomicU64::new(0))
    }

    /// Counts a context among others that may count at the same time.
    pub(super) fn begin(&self) -> Transit<'_> {
        // Acquire keeps the claims that follow behind it; they publish it by their own Release.
        self.0.fetch_add(1, Ordering::AcqRel);
        Transit { count: self, writers: Writers::Many }
    }

    /// Counts a context that is the only one to write the count.
    #[inline]
    pub(super) fn begin_alone(&self) -> Transit<'_> {
        // Relaxed: every write by which frames appear or vanish afterwards is a Release.
        self.0.store(self.0.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        Transit { count: self, writers: Writers::One }
    }

    /// Acquire pairs with the Release of an end: who sees the end sees where the frames are.
    pub(super) fn load(&self) -> Seen {
        Seen(self.0.load(Ordering::Acquire))
    }
}

/// Who writes a count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Writers {
    One,
    Many,
}

/// Counts its holder in transit, and when dropped, as having been.
#[derive(Debug)]
pub(super) struct Transit<'t> {
    count: &'t Transits,
    writers: Writers,
}

impl Transit<'_> {
    /// Ends it without a trace: its holder touched nothing.
    pub(super) fn cancel(self) {
        self.end(u64::MAX);
        core::mem::forget(self);
    }

    #[inline]
    fn end(&self, change: u64) {
        let word = &self.count.0;
        // Release pairs with the Acquire in `Transits::load`.
        match self.writers {
            Writers::One => word.store(word.load(Ordering::Relaxed).wrapping_add(change), Ordering::Release),
            Writers::Many => _ = word.fetch_add(change, Ordering::AcqRel),
        }
    }
}

impl Drop for Transit<'_> {
    #[inline]
    fn drop(&mut self) {
        self.end(ENDED - 1);
    }
}

/// One reading of a count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen(u64);

impl Seen {
    /// Is somebody in transit?
    pub(super) fn under_way(self) -> bool {
        self.0 as u32 != 0
    }

    /// The same without `own` transits of the reader itself.
    pub(super) fn without(self, own: u64) -> Seen {
        Seen(self.0 - own)
    }
}

/// All counts that concern a search, read at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Watch {
    /// The sum of transits that have ended. It only grows, so it is the same where each count is.
    ended: u64,
    under_way: bool,
    /// Frames and blocks that magazines have handed out.
    taken: u64,
}

impl Watch {
    pub(super) fn add(&mut self, seen: Seen) {
        self.ended = self.ended.wrapping_add(seen.0 >> 32);
        self.under_way |= seen.under_way();
    }

    pub(super) fn add_taken(&mut self, taken: u64) {
        self.taken = self.taken.wrapping_add(taken);
    }

    /// Has nothing been in transit since `before`?
    pub(super) fn is_calm_since(self, before: Watch) -> bool {
        !before.under_way && !self.under_way && before.ended == self.ended
    }

    /// Has no magazine handed anything out since `before`?
    pub(super) fn took_nothing_since(self, before: Watch) -> bool {
        before.taken == self.taken
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn watch(transits: &Transits) -> Watch {
        let mut watch = Watch::default();
        watch.add(transits.load());
        watch
    }

    #[test]
    fn a_reading_tells_who_is_and_who_was_in_transit() {
        let transits = Transits::new();
        for begin in [Transits::begin, Transits::begin_alone] {
            let before = watch(&transits);
            begin(&transits).cancel();
            assert!(watch(&transits).is_calm_since(before), "without a trace");
            let (outer, inner) = (begin(&transits), begin(&transits));
            drop(inner);
            assert!(transits.load().under_way() && !transits.load().without(1).under_way());
            let within = watch(&transits);
            assert!(!watch(&transits).is_calm_since(within));
            drop(outer);
            assert!(!transits.load().under_way());
            assert!(!watch(&transits).is_calm_since(within) && !watch(&transits).is_calm_since(before));
            assert!(watch(&transits).is_calm_since(watch(&transits)));
        }
    }

    #[test]
    fn a_reading_tells_what_was_taken() {
        let (mut before, mut after) = (Watch::default(), Watch::default());
        before.add_taken(3);
        after.add_taken(3);
        assert!(after.took_nothing_since(before));
        after.add_taken(1);
        assert!(!after.took_nothing_since(before) && after.is_calm_since(before));
    }
}
