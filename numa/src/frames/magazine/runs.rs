//! Runs of orders 1 to 8 in a magazine, by its CPU.

use topomem_percpu::sync::atomic::Ordering;
use topomem_percpu::{Order, PhysFrame};

use super::count::Count;
use super::entry::Insertion;
use super::held_words::words_of;
use super::{Magazine, NEAR, RUN_ORDERS};
use crate::frames::region::bitmap::ones;
use crate::frames::region::marks::{record_run_alloc, verify_run_free};
use crate::frames::region::word::Word;
use crate::frames::types::{FrameNumber, WordNumber};

/// Returns a run of `count` frames of one word as frames of the word.
pub(super) fn word_of(first: PhysFrame, count: u32) -> Word {
    let first = FrameNumber::of(first);
    Word { key: first.word(), mask: ones(count) << first.bit_in_word() }
}

/// Returns the frames from `first` in parts of one word each.
pub(super) fn by_word(first: PhysFrame, count: u32) -> impl Iterator<Item = (PhysFrame, u32)> {
    let mut done = 0;
    core::iter::from_fn(move || {
        let left = count.checked_sub(done).filter(|&left| left > 0)?;
        let start = first + u64::from(done);
        let in_word = 64 - FrameNumber::of(start).bit_in_word() as u32;
        let part = left.min(in_word);
        done += part;
        Some((start, part))
    })
}

impl Magazine {
    /// Takes out a run of `order` (1 to 5), marked as handed out, in paranoid mode. Returns the run's
    /// first frame. The caller has exclusive use of the magazine.
    ///
    /// Bound: a check of each near entry; mostly, of one.
    #[inline(always)]
    pub(in crate::frames) fn take_marked_run(&self, order: Order) -> Option<PhysFrame> {
        let run = self.take_run(order)?;
        let mark = self.near_place(WordNumber::of(run)).mark_at(run);
        mark.into_iter().for_each(|mark| record_run_alloc(mark, order));
        Some(run)
    }

    /// Frees a run of `order` (1 to 5) marked as handed out, if the magazine has the word, in
    /// paranoid mode. The caller has exclusive use of the magazine.
    #[inline(always)]
    pub(in crate::frames) fn insert_marked_run(&self, first: PhysFrame, order: Order) -> Insertion {
        if first.start_address().as_u64() & (order.bytes() - 1) != 0 {
            return Insertion::Elsewhere;
        }
        let (entry, count) = (self.near_place(WordNumber::of(first)), order.frames() as u32);
        match entry.mark_at(first) {
            Some(mark) if entry.has_room_for(first, count) && verify_run_free(mark, order) => {
                entry.add_run(first, count)
            }
            _ => Insertion::Elsewhere,
        }
    }

    /// Returns the count of runs of `order` (1 to 8) taken out.
    #[inline]
    fn runs_of(&self, order: Order) -> &Count {
        &self.runs[(order.get() as usize).wrapping_sub(1) % RUN_ORDERS]
    }

    /// Takes out a run of `order` (1 to 5). Returns the run's first frame. The caller has exclusive
    /// use of the magazine.
    ///
    /// Bound: a check of each near entry; mostly, of one.
    #[inline(always)]
    pub(in crate::frames) fn take_run(&self, order: Order) -> Option<PhysFrame> {
        let first = &self.near[self.near_run.load(Ordering::Relaxed) as usize % NEAR];
        first.take_run(order, self.runs_of(order)).or_else(|| self.take_run_elsewhere(order))
    }

    #[inline(never)]
    fn take_run_elsewhere(&self, order: Order) -> Option<PhysFrame> {
        let near = self.near.iter().zip(0..self.size.load(Ordering::Relaxed));
        near.into_iter().find_map(|(entry, index)| {
            let run = entry.take_run(order, self.runs_of(order))?;
            self.near_run.store(index, Ordering::Relaxed);
            Some(run)
        })
    }

    /// Takes out a run of `order` (6 to 8), as [`Magazine::take_run`] does.
    #[inline(always)]
    pub(in crate::frames) fn take_words(&self, order: Order) -> Option<PhysFrame> {
        self.held.take(order, self.runs_of(order))
    }

    /// Frees an aligned run of `order` (1 to 5), if the magazine has the word. The caller has
    /// exclusive use of the magazine.
    #[inline(always)]
    pub(in crate::frames) fn insert_run(&self, first: PhysFrame, order: Order) -> Insertion {
        self.near_place(WordNumber::of(first)).add_aligned(first, order)
    }

    /// Frees a run of `count` frames of any words, if the magazine has all of the words and no
    /// drain is requested. The caller has exclusive use of the magazine.
    #[inline]
    pub(in crate::frames) fn insert_frames(&self, first: PhysFrame, count: u32) -> Insertion {
        let near = |part: PhysFrame| self.near_place(WordNumber::of(part));
        // A request to drain is handled on the longer path.
        if self.wants_attention()
            || !by_word(first, count).all(|(part, count)| near(part).has_room_for(part, count))
        {
            return Insertion::Elsewhere;
        }
        for (part, count) in by_word(first, count) {
            near(part).add_run(part, count);
        }
        Insertion::Taken
    }

    /// Frees a run of `order` (6 to 8), if the magazine has the block. The caller has exclusive use
    /// of the magazine.
    #[inline(always)]
    pub(in crate::frames) fn insert_words(&self, frame: PhysFrame, order: Order) -> Insertion {
        let key = WordNumber::of(frame);
        // A near word would take a frame held among whole words, too.
        let mut word = 0;
        while word < words_of(order) as u64 {
            if self.near_place(key + word).has_key(key + word) {
                return Insertion::Elsewhere;
            }
            word += 1;
        }
        self.held.add(frame, order)
    }
}
