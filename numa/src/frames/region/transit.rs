//! Frames in transit: free, and for some instructions in no place covered by searches.
//!
//! A request may fail for lack of free frames only if at some instant of the request no frame was
//! free. Frames move all the time, and a search of place after place can miss frames that are
//! free throughout. A rule prevents the miss:
//!
//! **Every context that puts free frames into a searched place, or moves frames between searched
//! places, is counted in transit from before the first write until after the last.** A context with
//! exclusive use of the CPU's magazine counts in the magazine, by plain stores. All further contexts
//! (nested contexts, CPUs without a magazine, changes within a region) count in the region, by
//! read-modify-writes. Claims only take frames away. Claims need not count, but release: a context
//! that sees the effect of a claim sees every count seen by the claimer.
//!
//! Quick hits are not counted in transit, and cost nothing for transits. A hit that takes a frame is
//! counted as taken, before the frame is taken; a hit that frees a frame is not counted at all.
//!
//! **A search that found nothing is conclusive** under two conditions. First, no count of the
//! searched zones and nodes changed, and no context was in transit, from before the search began
//! until the bitmaps, buddies and pools, and then the magazines were searched. Second, no magazine
//! counted a frame as taken during the search of the magazines ([`Watch`]). For then nothing came
//! into the bitmaps after the bitmaps were searched: the bitmaps were empty when the search of the
//! magazines began. And nothing left the magazines before the magazines were searched: the
//! magazines were empty then, too.
//!
//! A nested context finds the counts of the interrupted context, and never waits for that context.

use topomem_percpu::sync::atomic::{AtomicU64, Ordering};

/// The number of contexts in transit, and the number of ended transits.
#[derive(Debug)]
pub(in crate::frames) struct Transits(AtomicU64);

/// One ended transit, in the high half of the word.
const ENDED: u64 = 1 << 32;

impl Transits {
    #[cfg(not(loom))]
    pub(in crate::frames) const fn new() -> Transits {
        Transits(AtomicU64::new(0))
    }

    /// Creates a count (loom's atomics have no `const` constructor).
    #[cfg(loom)]
    pub(in crate::frames) fn new() -> Transits {
        Transits(AtomicU64::new(0))
    }

    /// Counts a context, with concurrent writers of the count.
    pub(in crate::frames) fn begin(&self) -> Transit<'_> {
        // Acquire keeps the following claims behind the count; the Release of a claim publishes the count.
        self.0.fetch_add(1, Ordering::AcqRel);
        Transit { count: self, writers: Writers::Many }
    }

    /// Counts a context, the only writer of the count.
    #[inline]
    pub(in crate::frames) fn begin_alone(&self) -> Transit<'_> {
        // Relaxed: every later write by which frames appear or vanish is a Release.
        self.0.store(self.0.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        Transit { count: self, writers: Writers::One }
    }

    /// Returns a transit begun by [`Transits::begin_alone`], and forgotten.
    pub(in crate::frames) fn go_on_alone(&self) -> Transit<'_> {
        Transit { count: self, writers: Writers::One }
    }

    /// Loads the count. Acquire pairs with the Release of an end: a context that sees the end sees
    /// the frames in the new place.
    pub(in crate::frames) fn load(&self) -> Seen {
        Seen(self.0.load(Ordering::Acquire))
    }
}

/// The writers of a count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Writers {
    One,
    Many,
}

/// Counts the holder in transit, and when dropped, as ended.
#[derive(Debug)]
pub(in crate::frames) struct Transit<'t> {
    count: &'t Transits,
    writers: Writers,
}

impl Transit<'_> {
    /// Ends the transit without a trace: the holder changed nothing.
    pub(in crate::frames) fn cancel(self) {
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
pub(in crate::frames) struct Seen(u64);

impl Seen {
    /// Returns true if a context is in transit.
    pub(in crate::frames) fn under_way(self) -> bool {
        self.0 as u32 != 0
    }

    /// Returns the reading without the reader's `own` transits.
    pub(in crate::frames) fn without(self, own: u64) -> Seen {
        Seen(self.0 - own)
    }
}

/// All counts relevant for a search, read at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::frames) struct Watch {
    /// The sum of ended transits. Counts only grow: sums are equal only if all counts are.
    ended: u64,
    under_way: bool,
    /// Frames and blocks that magazines have handed out.
    taken: u64,
}

impl Watch {
    pub(in crate::frames) fn add(&mut self, seen: Seen) {
        self.ended = self.ended.wrapping_add(seen.0 >> 32);
        self.under_way |= seen.under_way();
    }

    pub(in crate::frames) fn add_taken(&mut self, taken: u64) {
        self.taken = self.taken.wrapping_add(taken);
    }

    /// Returns true if nothing has been in transit since `before`.
    pub(in crate::frames) fn is_calm_since(self, before: Watch) -> bool {
        !before.under_way && !self.under_way && before.ended == self.ended
    }

    /// Returns true if no magazine has handed out frames since `before`.
    pub(in crate::frames) fn took_nothing_since(self, before: Watch) -> bool {
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
