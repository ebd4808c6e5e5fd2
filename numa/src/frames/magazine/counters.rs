//! The counters of a magazine, written by its CPU.

use topomem_percpu::NodeId;

use super::count::Count;
use super::held_words::WORD_ORDER;
use super::{MISSED, Magazine};
use crate::frames::node::UNREPORTED;
use crate::frames::region::word::Word;
use crate::frames::types::{MagazineStats, WordNumber, Zone};

impl Magazine {
    /// Returns true if another frame of the word bypassed the magazine recently, and records the new
    /// frame.
    #[inline]
    pub(crate) fn freed_before(&self, key: WordNumber) -> bool {
        let missed = &self.missed[key.get() as usize % MISSED];
        let before = missed.get();
        missed.set(key.get());
        before == key.get()
    }

    /// Counts frames gained or lost by `zone` of the magazine's node. Returns the sum if the sum is to be reported
    /// now.
    #[inline]
    pub(crate) fn account(&self, zone: Zone, frames: i64) -> Option<i64> {
        let count = &self.unreported[zone.index()];
        let sum = count.get() as i64 + frames;
        if sum.abs() < UNREPORTED {
            count.set(sum as u64);
            return None;
        }
        count.set(0);
        Some(sum)
    }

    /// Returns the unreported change of `zone` of the magazine's node.
    pub(crate) fn unreported(&self, zone: Zone) -> i64 {
        self.unreported[zone.index()].get() as i64
    }

    /// Returns the number of runs of orders 1 to 8 taken out.
    pub(crate) fn runs_taken(&self) -> u64 {
        self.runs.iter().map(Count::get).sum()
    }

    /// Returns the number of runs of whole words taken out.
    pub(super) fn runs_of_words_taken(&self) -> u64 {
        self.runs.iter().skip(WORD_ORDER as usize - 1).map(Count::get).sum()
    }

    /// Returns the number of frames taken out of near words, alone or in runs.
    pub(super) fn frames_taken(&self) -> u64 {
        let runs = self.runs.iter().zip(1..).take(WORD_ORDER as usize - 1);
        self.taken.get() + runs.map(|(count, order)| count.get() << order).sum::<u64>()
    }

    /// Returns the number of frames freed into the magazine, alone or in runs below order 9: the
    /// frames taken out and held, less the frames brought by refills.
    pub(crate) fn frees(&self) -> u64 {
        let held: u64 = self.words().map(Word::frames).sum();
        let runs = self.runs.iter().zip(1..).map(|(count, order)| count.get() << order);
        let frees = (self.taken.get() + runs.sum::<u64>() + held).wrapping_sub(self.net_moved.get()) as i64;
        // A momentary disagreement between the parts must not show.
        frees.max(0) as u64
    }

    /// Counts a call nested in a use of the magazine.
    pub(in crate::frames) fn count_nested(&self) {
        self.nested.add(1);
    }

    /// Counts a request not served by the magazine.
    pub(in crate::frames) fn count_miss(&self) {
        self.misses.add(1);
    }

    /// Counts a frame freed directly into a bitmap.
    pub(in crate::frames) fn count_straight(&self) {
        self.straight.add(1);
    }

    /// Counts a run of `node` from the shared path. A nested context's count may get lost; the count
    /// is a statistic.
    pub(in crate::frames) fn count_shared(&self, node: NodeId) {
        if node == self.node { self.local.add(1) } else { self.remote.add(1) }
    }

    /// Counts a frame taken from the node's pool of zeroed frames.
    pub(in crate::frames) fn count_zeroed_hit(&self) {
        self.zeroed_hits.add(1);
    }

    /// Counts a request for a zeroed frame with the node's pool empty.
    pub(in crate::frames) fn count_zeroed_miss(&self) {
        self.zeroed_misses.add(1);
    }

    /// Returns the number of requests for a zeroed frame with the node's pool empty.
    pub(in crate::frames) fn zeroed_misses(&self) -> u64 {
        self.zeroed_misses.get()
    }

    /// Returns the number of runs of the CPU's own node taken from the magazine and the pool.
    pub(in crate::frames) fn taken_locally(&self) -> u64 {
        self.taken.get() + self.huge_taken.get() + self.zeroed_hits.get() + self.runs_taken()
    }

    /// Returns the counters; any CPU may read the counters at any time.
    pub(in crate::frames) fn stats(&self) -> MagazineStats {
        let (taken, refills) = (self.taken.get() + self.runs_taken(), self.refills.get());
        let blocks = self.huge_taken.get();
        MagazineStats {
            hits: taken.saturating_sub(refills) + blocks,
            misses: self.misses.get(),
            refills,
            frees: self.frees(),
            straight: self.straight.get(),
            flushes: self.flushes.get(),
            nested: self.nested.get(),
            local: taken + blocks + self.local.get() + self.zeroed_hits.get(),
            remote: self.remote.get(),
            late_doubles: self.late_doubles.get(),
            cached: self.cached(),
        }
    }
}
