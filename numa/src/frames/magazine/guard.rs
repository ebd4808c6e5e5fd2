//! The operations of a CPU on its own magazine.

use core::cell::Cell;
use core::ops::Deref;
use core::ptr;

use topomem_percpu::PhysFrame;
use topomem_percpu::sync::atomic::Ordering;

use super::entry::{Entry, Insertion, barred};
use super::held_words::{BlockHome, HeldBlock};
use super::{AWAY, Checked, LEAST_NEAR, Magazine, NEAR};
use crate::frames::region::Region;
use crate::frames::region::block::HugeBlock;
use crate::frames::region::transit::Transit;
use crate::frames::region::word::{Home, Word};
use crate::frames::types::{FrameNumber, WordNumber, Zone};

/// The number of refills and evictions between reviews of the size.
const WINDOW: u16 = 16;

/// The number of calls of [`MagazineGuard::trim`] for each review.
const TRIM_EVERY: u16 = 64;

/// The right to use a magazine: this CPU's only one.
#[derive(Debug)]
pub(crate) struct MagazineGuard {
    magazine: &'static Magazine,
    /// The near entry used next by allocations and frees.
    current: Cell<&'static Entry>,
    /// Whether the magazine may be used quickly afterwards.
    quick: Checked,
}

impl Drop for MagazineGuard {
    fn drop(&mut self) {
        let current = self.current.get();
        if self.quick == Checked::No {
            self.magazine.leave(current);
        } else {
            self.magazine.remember(current);
            self.magazine.leave(barred());
        }
    }
}

impl Deref for MagazineGuard {
    type Target = Magazine;

    fn deref(&self) -> &Magazine {
        self.magazine
    }
}

impl MagazineGuard {
    pub(super) fn new(magazine: &'static Magazine, resting: &'static Entry) -> MagazineGuard {
        let checked = ptr::eq(resting, barred());
        MagazineGuard {
            magazine,
            current: Cell::new(if checked { magazine.last() } else { resting }),
            quick: if checked { Checked::EveryUse } else { Checked::No },
        }
    }

    fn in_use(&self) -> &'static [Entry] {
        &self.magazine.near[..NEAR.min(self.size.load(Ordering::Relaxed) as usize)]
    }

    /// Returns the slot of a near word.
    #[inline]
    fn slot(&self, key: WordNumber) -> &'static Entry {
        self.magazine.near_place(key)
    }

    /// Returns true if every use checks marks, or zeroes freed frames.
    pub(in crate::frames) fn is_checked(&self) -> bool {
        self.quick == Checked::EveryUse
    }

    /// Returns true if frames of the region belong into the magazine's near words.
    pub(in crate::frames) fn is_near(&self, region: &Region) -> bool {
        region.node == self.node && region.cached
    }

    /// Takes a frame of the current word.
    pub(crate) fn take(&self) -> Option<PhysFrame> {
        self.current.get().take(&self.magazine.taken)
    }

    /// Takes a frame of any near word.
    ///
    /// Bound: one check of each near entry.
    pub(crate) fn take_any(&self) -> Option<PhysFrame> {
        if let Some(taken) = self.take() {
            return Some(taken);
        }
        self.current.set(self.in_use().iter().find(|entry| entry.read().is_some())?);
        self.take()
    }

    /// Returns true if the magazine has the near word of a frame.
    #[inline]
    pub(crate) fn has_near(&self, frame: PhysFrame) -> bool {
        self.slot(WordNumber::of(frame)).is_of(frame)
    }

    /// Returns true if the magazine has the near word of a frame, without any frame of the word.
    pub(crate) fn has_emptied(&self, frame: PhysFrame) -> bool {
        let entry = self.slot(WordNumber::of(frame));
        entry.is_of(frame) && entry.read().is_none()
    }

    /// Returns the frames of the word numbered `key` held in the near and the whole words.
    pub(in crate::frames) fn held_of(&self, key: WordNumber) -> u64 {
        match self.slot(key).read() {
            Some(near) if near.key == key => near.mask,
            _ if self.held.has(key) => u64::MAX,
            _ => 0,
        }
    }

    /// Returns the entry with frames of the near word numbered `key`.
    pub(in crate::frames) fn near_of(&self, key: WordNumber) -> Option<&'static Entry> {
        let entry = self.slot(key);
        (entry.read()?.key == key).then_some(entry)
    }

    /// Frees a frame of a held near word.
    pub(crate) fn insert_near(&self, frame: PhysFrame) -> Insertion {
        let entry = self.slot(WordNumber::of(frame));
        let inserted = entry.add(frame);
        if inserted == Insertion::Taken {
            self.current.set(entry);
        }
        inserted
    }

    /// Frees a frame of a held away word.
    pub(crate) fn insert_away(&self, frame: PhysFrame) -> Insertion {
        self.away
            .iter()
            .find(|entry| entry.is_of(frame))
            .map_or(Insertion::Elsewhere, |entry| entry.add(frame))
    }

    /// Holds a near word, and makes the word the current word. Another word in the slot is passed to
    /// `home` first.
    pub(crate) fn hold(&self, word: Word, at: Home, home: impl FnOnce(&Entry)) {
        let entry = self.slot(word.key);
        self.current.set(entry);
        if entry.key() == Some(word.key) {
            // Frames freed into the bitmap word since the magazine last took the word.
            entry.merge(word.mask);
            return;
        }
        let evicted = entry.read().is_some();
        if evicted {
            home(entry);
        }
        self.note_block(word.key.first_frame());
        entry.hold(word, at);
        if evicted {
            self.look_at_size(1);
        }
    }

    /// Holds whole words of a block in the block's place.
    pub(in crate::frames) fn hold_words(&self, place: &HeldBlock, home: BlockHome, mask: u64) {
        self.note_block(home.first);
        place.hold(home, mask);
    }

    /// Holds whole words of a block, taken from the bitmap. Returns the number of frames.
    pub(in crate::frames) fn refilled_words(&self, place: &HeldBlock, home: BlockHome, mask: u64) -> u64 {
        let frames = u64::from(mask.count_ones()) * 64;
        self.hold_words(place, home, mask);
        self.net_moved.add(frames);
        frames
    }

    /// Records the block of a frame: the magazine is about to have words of the block.
    fn note_block(&self, number: FrameNumber) {
        self.blocks.add(number, || {
            let near = self.near.iter().filter_map(Entry::key).map(WordNumber::first_frame);
            near.chain(self.held.firsts())
        });
    }

    /// Holds an away word. Another word in the slot is passed to `home` first.
    pub(crate) fn hold_away(&self, word: Word, at: Home, home: impl FnOnce(&Entry)) {
        let next = self.next_away.load(Ordering::Relaxed);
        self.next_away.store(next.wrapping_add(1), Ordering::Relaxed);
        let entry = &self.away[next as usize % AWAY];
        if entry.read().is_some() {
            home(entry);
        }
        entry.hold(word, at);
    }

    /// Records a refill.
    pub(crate) fn refilled(&self, word: Word) {
        self.refills.add(1);
        self.net_moved.add(word.frames());
        self.look_at_size(0);
    }

    /// Records the flush of a word with `late` frames already free in the bitmap.
    pub(crate) fn flushed(&self, word: Word, late: u32) {
        self.flushes.add(1);
        self.net_moved.add(word.frames().wrapping_neg());
        self.late_doubles.add(u64::from(late));
    }

    /// Counts a refill (0) or an eviction (1), and doubles the room if both are frequent: then the
    /// CPU's demand varies by more than the magazine holds. If only refills or only evictions are frequent, more
    /// room would not help.
    fn look_at_size(&self, event: usize) {
        let bump = |index: usize, more: u16| {
            let value = self.window[index].load(Ordering::Relaxed) + more;
            self.window[index].store(value, Ordering::Relaxed);
            value
        };
        bump(event, 1);
        let (refills, evictions) = (bump(0, 0), bump(1, 0));
        if refills + evictions < WINDOW {
            return;
        }
        self.window.iter().for_each(|count| count.store(0, Ordering::Relaxed));
        let size = self.size.load(Ordering::Relaxed);
        if refills.min(evictions) * 4 < WINDOW || size as usize >= NEAR {
            return;
        }
        let _transit = self.transit_within();
        self.size.store(size * 2, Ordering::Relaxed);
        // A word's slot is the same in the doubled array, or as far again behind.
        for (slot, entry) in self.magazine.near[..size as usize].iter().enumerate() {
            let moves = entry.key().is_some_and(|key| key.get() as usize & (size as usize) != 0);
            if let Some(place) = self.magazine.near.get(slot + size as usize).filter(|_| moves) {
                place.take_over(entry);
                if ptr::eq(self.current.get(), entry) {
                    self.current.set(place);
                }
            }
        }
    }

    /// Halves the room on every 64th call if little was taken since the last review. Words
    /// without a slot afterwards are passed to `home`. If no run of whole words was taken since then, the
    /// held whole words are passed to `home_of_words`.
    pub(crate) fn trim(&self, mut home: impl FnMut(&Entry), home_of_words: impl FnMut(&HeldBlock)) {
        let round = self.round.load(Ordering::Relaxed).wrapping_add(1) % TRIM_EVERY;
        self.round.store(round, Ordering::Relaxed);
        if round != 0 {
            return;
        }
        let runs = self.runs_of_words_taken();
        if runs == self.runs_at_trim.get() {
            self.held.iter().for_each(home_of_words);
        }
        self.runs_at_trim.set(runs);
        let (taken, size) = (self.frames_taken(), self.size.load(Ordering::Relaxed));
        let since = taken.wrapping_sub(self.taken_at_trim.get());
        self.taken_at_trim.set(taken);
        if size <= LEAST_NEAR || since >= u64::from(size) * 64 {
            return;
        }
        let half = size as usize / 2;
        let _transit = self.transit_within();
        self.size.store(size / 2, Ordering::Relaxed);
        for (slot, entry) in self.near[half..size as usize].iter().enumerate() {
            let place = &self.near[slot];
            match place.read() {
                None => place.take_over(entry),
                Some(_) => home(entry),
            }
        }
        self.current.set(&self.magazine.near[0]);
    }

    /// Passes all words to `home`, one by one, and clears a request to drain.
    pub(crate) fn empty(&self, home: impl FnMut(&Entry)) {
        // Before the entries: a request from now on is for frames freed from now on.
        self.forget_request();
        self.magazine.near.iter().chain(&self.magazine.away).for_each(home);
    }

    /// Returns true if another whole block may be held back.
    pub(crate) fn has_huge_room(&self) -> bool {
        self.huge.has_room()
    }

    /// Holds a whole block back, if there is room.
    pub(crate) fn push_huge(&self, block: HugeBlock) {
        self.huge.push(block);
    }

    /// Takes a held whole block, counted as taken.
    pub(crate) fn take_huge(&self) -> Option<HugeBlock> {
        self.huge.top()?;
        self.huge_taken.add(1);
        self.huge.pop()
    }

    /// Returns the first frame of the whole block to be freed next.
    pub(crate) fn top_huge(&self) -> Option<FrameNumber> {
        self.huge.top()
    }

    /// Takes out the block of [`MagazineGuard::top_huge`]. The caller is in transit.
    pub(crate) fn drop_huge(&self) {
        self.huge.pop();
    }

    /// Records the owned block, by its first frame.
    pub(crate) fn set_block(&self, first: Option<FrameNumber>) {
        self.block.store(first.map_or(0, |frame| frame.get() + 1), Ordering::Relaxed);
    }

    /// Returns the unreported sum, to be reported now.
    pub(crate) fn report(&self, zone: Zone) -> i64 {
        let sum = self.unreported(zone);
        self.unreported[zone.index()].set(0);
        sum
    }

    /// Counts this context in transit with frames of `region`.
    #[inline]
    pub(in crate::frames) fn transit(&self, region: &Region) -> Transit<'_> {
        let own = region.node == self.node;
        self.transits[if own { region.zone.index() } else { Zone::COUNT }].begin_alone()
    }

    /// Counts this context in transit with its node's frames of `zone`.
    pub(in crate::frames) fn transit_in(&self, zone: Zone) -> Transit<'_> {
        self.transits[zone.index()].begin_alone()
    }

    /// Counts this context as moving frames of any zone from one place of the magazine to another.
    fn transit_within(&self) -> Transit<'_> {
        self.transits[Zone::COUNT].begin_alone()
    }

    /// Ends the use for good: the magazine stays closed.
    pub(in crate::frames) fn close(self) {
        core::mem::forget(self);
    }
}
