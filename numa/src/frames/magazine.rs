//! A CPU's magazine: frames it can hand out and take back alone.
//!
//! After Bonwick and Adams, "Magazines and Vmem" (USENIX 2001), but a magazine here is no list of
//! addresses: it is a small direct-mapped set of bitmap words. A refill takes a whole word, up
//! to 64 frames, in one swap; frames freed in any order gather in their words, and go home up to
//! 64 at a time in one compare-and-swap. A hit finds or sets a bit: no lock, no atomic
//! read-modify-write. A frame freed twice is found at once when it is free in this magazine or
//! at home.
//!
//! Only the owning CPU writes, in one context at a time (`busy`); other CPUs read. So every field
//! is an atomic, loaded and stored Relaxed: on common machines plain moves.

use topomem_percpu::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, compiler_fence};
use topomem_percpu::{CpuId, NodeId};

use super::Zone;
use super::entry::{Entry, Give, Word};
use super::line512::ones;

/// Words of the CPU's own node, by the low bits of the word's number.
pub(crate) const NEAR: usize = 16;
/// Words of other nodes or scarce zones, on their way home.
pub(crate) const AWAY: usize = 4;
/// How far a CPU's count of a zone may run ahead of the shared one.
pub(crate) const UNREPORTED: i64 = 256;

/// A counter with one writer.
#[derive(Debug)]
pub(crate) struct Count(AtomicU64);

impl Count {
    fn new() -> Count {
        Count(AtomicU64::new(0))
    }

    #[inline]
    pub(crate) fn add(&self, more: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }
}

/// One CPU's magazine, on that CPU's node. Aligned against prefetch of line pairs.
#[derive(Debug)]
#[repr(C, align(128))]
pub(crate) struct Magazine {
    /// A context of the owning CPU is using it.
    busy: AtomicBool,
    /// Another CPU wants it drained.
    attention: AtomicBool,
    /// The entry that frames come from.
    current: AtomicU32,
    /// Near entries that may have frames.
    occupied: AtomicU32,
    /// The away entry that is replaced next.
    next_away: AtomicU32,
    pub(crate) hits: Count,
    pub(crate) frees: Count,
    near: [Entry; NEAR],
    away: [Entry; AWAY],
    /// The owned block: its first frame + 1; 0 for none.
    block: AtomicU64,
    pub(crate) cpu: CpuId,
    pub(crate) node: NodeId,
    /// Changes of its node's zones not reported yet, as two's complement.
    unreported: [Count; Zone::COUNT],
    pub(crate) misses: Count,
    pub(crate) refills: Count,
    pub(crate) flushes: Count,
    /// Written by nested contexts, so it may lose counts to each other, but never goes wrong.
    pub(crate) nested: Count,
    pub(crate) local: Count,
    pub(crate) remote: Count,
    /// Frames freed twice, found only when their word went home.
    pub(crate) late_doubles: Count,
    /// Frames on their way from a bitmap to an entry: counted before they are in neither.
    pub(crate) arriving: Count,
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<Magazine>() <= 1024, "at most 1 KiB per CPU");

impl Magazine {
    pub(crate) fn new(cpu: CpuId, node: NodeId) -> Magazine {
        Magazine {
            busy: AtomicBool::new(false),
            attention: AtomicBool::new(false),
            current: AtomicU32::new(0),
            occupied: AtomicU32::new(0),
            next_away: AtomicU32::new(0),
            hits: Count::new(),
            frees: Count::new(),
            near: core::array::from_fn(|_| Entry::new()),
            away: core::array::from_fn(|_| Entry::new()),
            block: AtomicU64::new(0),
            cpu,
            node,
            unreported: core::array::from_fn(|_| Count::new()),
            misses: Count::new(),
            refills: Count::new(),
            flushes: Count::new(),
            nested: Count::new(),
            local: Count::new(),
            remote: Count::new(),
            late_doubles: Count::new(),
            arriving: Count::new(),
        }
    }

    /// Uses the magazine, unless an interrupted context of this CPU does. The caller is pinned
    /// to the magazine's CPU.
    #[inline]
    pub(crate) fn enter(&self) -> Option<Entered<'_>> {
        // Only contexts of this CPU get here, one nested in the other; so plain accesses do, and
        // a handler that ran between the two has finished.
        if self.busy.load(Ordering::Relaxed) {
            return None;
        }
        self.busy.store(true, Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
        Some(Entered(self))
    }

    /// Asks the owner to drain.
    pub(crate) fn request_drain(&self) {
        self.attention.store(true, Ordering::Release);
    }

    /// Acquire pairs with the Release in `request_drain`: who sees the request sees that
    /// somebody waits.
    #[inline]
    pub(crate) fn wants_attention(&self) -> bool {
        self.attention.load(Ordering::Acquire)
    }

    /// Every word that it holds frames of; a CPU that goes on using it makes this a guess.
    pub(crate) fn words(&self) -> impl Iterator<Item = Word> {
        self.near.iter().chain(&self.away).filter_map(Entry::read)
    }

    /// Of the `count` frames from `first` on, one that it holds.
    pub(crate) fn holds_of(&self, first: u64, count: u64) -> Option<u64> {
        self.words().find_map(|word| {
            let base = word.key * 64;
            let below = |end: u64| ones(end.saturating_sub(base).min(64) as u32);
            let held = word.mask & below(first + count) & !below(first);
            (held != 0).then(|| base + u64::from(held.trailing_zeros()))
        })
    }

    /// How many frames it holds, or is about to.
    pub(crate) fn cached(&self) -> u64 {
        self.words().map(|word| u64::from(word.mask.count_ones())).sum::<u64>() + self.arriving.get()
    }

    /// The first frame of the owned block.
    pub(crate) fn block(&self) -> Option<u64> {
        self.block.load(Ordering::Relaxed).checked_sub(1)
    }

    /// What its node's zone has gained and not been told.
    pub(crate) fn unreported(&self, zone: Zone) -> i64 {
        self.unreported[zone.index()].get() as i64
    }
}

/// The right to use a magazine: this CPU's only one.
#[derive(Debug)]
pub(crate) struct Entered<'m>(&'m Magazine);

impl Drop for Entered<'_> {
    #[inline]
    fn drop(&mut self) {
        compiler_fence(Ordering::SeqCst);
        self.0.busy.store(false, Ordering::Relaxed);
    }
}

impl core::ops::Deref for Entered<'_> {
    type Target = Magazine;

    #[inline]
    fn deref(&self) -> &Magazine {
        self.0
    }
}

impl Entered<'_> {
    /// A frame, if it holds a near one.
    ///
    /// Bound: one look into each entry that may have frames; usually into one.
    #[inline]
    pub(crate) fn take(&self) -> Option<u64> {
        let slot = self.current.load(Ordering::Relaxed) as usize % NEAR;
        self.take_from(slot).or_else(|| self.take_elsewhere())
    }

    #[inline]
    fn take_from(&self, slot: usize) -> Option<u64> {
        let entry = &self.near[slot];
        let mask = entry.mask.load(Ordering::Relaxed);
        if mask == 0 {
            return None;
        }
        entry.mask.store(mask & (mask - 1), Ordering::Relaxed);
        self.hits.add(1);
        Some(entry.key.load(Ordering::Relaxed) << 6 | u64::from(mask.trailing_zeros()))
    }

    #[cold]
    fn take_elsewhere(&self) -> Option<u64> {
        let mut occupied = self.occupied.load(Ordering::Relaxed);
        while occupied != 0 {
            let slot = occupied.trailing_zeros() as usize % NEAR;
            if let Some(frame) = self.take_from(slot) {
                self.current.store(slot as u32, Ordering::Relaxed);
                self.occupied.store(occupied, Ordering::Relaxed);
                return Some(frame);
            }
            occupied &= occupied - 1;
        }
        self.occupied.store(0, Ordering::Relaxed);
        None
    }

    /// Takes a frame back, if it is of a near word that it has.
    #[inline]
    pub(crate) fn give(&self, frame: u64) -> Give {
        let slot = (frame >> 6) as usize % NEAR;
        let entry = &self.near[slot];
        if entry.key.load(Ordering::Relaxed) != frame >> 6 {
            return Give::Elsewhere;
        }
        let given = entry.add(1 << (frame % 64));
        if given == Give::Taken {
            self.occupy(slot);
            self.frees.add(1);
        }
        given
    }

    #[inline]
    fn occupy(&self, slot: usize) {
        self.occupied.store(self.occupied.load(Ordering::Relaxed) | 1 << slot, Ordering::Relaxed);
        self.current.store(slot as u32, Ordering::Relaxed);
    }

    /// Takes a frame back, if it is of an away word that it has.
    pub(crate) fn give_away(&self, frame: u64) -> Give {
        let held = |entry: &&Entry| entry.key.load(Ordering::Relaxed) == frame >> 6;
        match self.away.iter().find(held) {
            Some(entry) => {
                let given = entry.add(1 << (frame % 64));
                if given == Give::Taken {
                    self.frees.add(1);
                }
                given
            }
            None => Give::Elsewhere,
        }
    }

    /// Holds a near word; the word whose place it takes must go home.
    pub(crate) fn hold(&self, word: Word, home: &'static AtomicU64) -> Option<Word> {
        let slot = word.key as usize % NEAR;
        let entry = &self.near[slot];
        if entry.key.load(Ordering::Relaxed) == word.key {
            // Frames that others freed into the word since we had it last.
            entry.mask.store(entry.mask.load(Ordering::Relaxed) | word.mask, Ordering::Relaxed);
            self.occupy(slot);
            return None;
        }
        let evicted = entry.vacate();
        entry.hold(word, home);
        self.occupy(slot);
        evicted
    }

    /// Holds an away word; the word whose place it takes must go home.
    pub(crate) fn hold_away(&self, word: Word, home: &'static AtomicU64) -> Option<Word> {
        let next = self.next_away.load(Ordering::Relaxed);
        self.next_away.store(next.wrapping_add(1), Ordering::Relaxed);
        let entry = &self.away[next as usize % AWAY];
        let evicted = entry.vacate();
        entry.hold(word, home);
        evicted
    }

    /// Empties it, word by word; also forgets that it was asked to.
    pub(crate) fn empty(&self, mut home: impl FnMut(Word)) {
        // Before the entries: a request from now on is for frames given from now on.
        self.attention.store(false, Ordering::Relaxed);
        for entry in self.near.iter().chain(&self.away) {
            if let Some(word) = entry.vacate() {
                home(word);
            }
        }
        self.occupied.store(0, Ordering::Relaxed);
    }

    /// Notes which block it owns, by its first frame.
    pub(crate) fn set_block(&self, first: Option<u64>) {
        self.block.store(first.map_or(0, |frame| frame + 1), Ordering::Relaxed);
    }

    /// Counts frames that its node's `zone` gained or lost; returns what is to be reported now.
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

    /// What is not reported yet, to be reported now.
    pub(crate) fn report(&self, zone: Zone) -> i64 {
        let sum = self.unreported(zone);
        self.unreported[zone.index()].set(0);
        sum
    }

    /// Announces frames that are about to arrive, or that they have (0).
    pub(crate) fn announce(&self, frames: u64) {
        // Release, and before the swap that takes the frames: who misses them in the bitmap
        // because of that swap sees them here.
        self.arriving.0.store(frames, Ordering::Release);
    }
}
