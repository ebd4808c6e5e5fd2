//! A node's set of frames known to be zero.
//!
//! A slot is one word: up to 16 frames of an aligned group of 16, as the group's number and a mask.
//! Taking or adding a frame is one compare-and-swap, correct even if the slot was
//! emptied and filled again meanwhile: the word holds the complete state. Slots lie in sets of a
//! cache line, and all groups of one bitmap word in the same set, and a check for frames of a word
//! reads one line.
//!
//! Lock-free, without allocation, and safe in interrupt and NMI handlers: nothing is half done
//! between two instructions.

use topomem_percpu::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::frames::region::transit::{Transit, Transits, Watch};
use crate::frames::region::word::Word;
use crate::frames::types::{FrameNumber, WordNumber, ZeroedStats};

/// Slots in a set: one cache line.
const WAYS: usize = 8;
/// The maximum number of frames of a slot.
const GROUP: u64 = 16;
/// A pool has places for four times as many frames as its target: scattered frames share no slots.
const SLACK: u64 = 4;
/// The largest pool.
pub(super) const MOST: u64 = 1024;

/// Slots for the groups of some bitmap words.
#[repr(align(64))]
#[derive(Debug)]
pub(in crate::frames) struct Set([AtomicU64; WAYS]);

#[cfg(not(loom))]
const _: () = assert!(size_of::<Set>() == 64);

impl Set {
    pub(in crate::frames) fn new() -> Set {
        Set(core::array::from_fn(|_| AtomicU64::new(0)))
    }
}

/// Frames of one group: `frame / 16` above 16 bits of mask. No packet is without frames: an
/// empty slot is 0.
#[derive(Debug, Clone, Copy)]
struct Packet(u64);

impl Packet {
    fn of(frame: FrameNumber) -> Packet {
        let number = frame.get();
        Packet((number / GROUP) << GROUP | 1 << (number % GROUP))
    }

    fn in_slot(slot: u64) -> Option<Packet> {
        (slot != 0).then_some(Packet(slot))
    }

    fn mask(self) -> u64 {
        self.0 & ((1 << GROUP) - 1)
    }

    fn lowest(self) -> FrameNumber {
        FrameNumber::new(self.0 / (1 << GROUP) * GROUP + u64::from(self.0.trailing_zeros()))
    }

    /// Returns the slot's content without the lowest frame.
    fn rest(self) -> u64 {
        if self.mask().is_power_of_two() { 0 } else { self.0 & (self.0 - 1) }
    }

    /// Returns the frames of both packets, if both are of one group.
    fn join(self, other: Packet) -> Option<u64> {
        (self.0 >> GROUP == other.0 >> GROUP).then_some(self.0 | other.0)
    }

    fn word(self) -> Word {
        let group = self.0 >> GROUP;
        Word { key: WordNumber::new(group / 4), mask: self.mask() << (group % 4 * GROUP) }
    }
}

/// A CPU's position in a pool. Relaxed: a hint; nested contexts of the CPU may confuse the hint.
#[derive(Debug)]
pub(in crate::frames) struct PoolCursor {
    /// The slot of the last frame taken.
    slot: AtomicU32,
    /// The number of frames ever added when the CPU found the pool empty, modulo 2^32.
    empty_at: AtomicU32,
}

impl PoolCursor {
    /// Creates the position of a CPU without a frame taken, at the set numbered `set`.
    #[cfg(not(loom))]
    pub(in crate::frames) const fn new(set: usize) -> PoolCursor {
        PoolCursor { slot: AtomicU32::new((set * WAYS) as u32), empty_at: AtomicU32::new(0) }
    }

    /// Creates a place (loom's atomics have no `const` constructor).
    #[cfg(loom)]
    pub(in crate::frames) fn new(set: usize) -> PoolCursor {
        PoolCursor { slot: AtomicU32::new((set * WAYS) as u32), empty_at: AtomicU32::new(0) }
    }
}

/// The result of adding a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::frames) enum Pushed {
    Kept,
    /// The frame's set has no slot for the frame.
    Full,
    /// The frame is here already.
    Twice,
}

/// The frames of one node known to be zero: free, but neither in the bitmaps nor in the
/// zones' counts.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct ZeroedPool {
    sets: &'static [Set],
    /// The target number of frames.
    pub(in crate::frames) target: u64,
    /// Contexts moving frames from a bitmap into the pool or back.
    moving: Transits,
    /// Frames added. Relaxed like the counts below: a statistic.
    filled: AtomicU64,
    /// Frames returned unused.
    spilled: AtomicU64,
    /// Requests for a zeroed frame with the pool empty, except requests counted by magazines.
    misses: AtomicU64,
    /// Frames found freed twice: once while in the pool.
    doubles: AtomicU64,
}

impl ZeroedPool {
    /// Returns the pool's memory.
    pub(in crate::frames) fn sets(&self) -> &'static [Set] {
        self.sets
    }

    /// Returns the number of sets of a pool of `target` frames: a power of two, or 0.
    pub(in crate::frames) fn sets_for(target: u64) -> usize {
        match target.min(MOST) {
            0 => 0,
            target => (target * SLACK).div_ceil(GROUP * WAYS as u64).next_power_of_two() as usize,
        }
    }

    pub(in crate::frames) fn new(sets: &'static [Set], target: u64) -> ZeroedPool {
        ZeroedPool {
            sets,
            target: target.min(MOST),
            moving: Transits::new(),
            filled: AtomicU64::new(0),
            spilled: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            doubles: AtomicU64::new(0),
        }
    }

    fn slots(&self) -> impl Iterator<Item = &AtomicU64> {
        self.sets.iter().flat_map(|set| &set.0)
    }

    /// Returns the set of a bitmap word: adjacent words have different sets, and fill
    /// evenly.
    fn set_of(&self, key: WordNumber) -> Option<&'static Set> {
        self.sets.get(key.get() as usize & self.sets.len().wrapping_sub(1))
    }

    /// Adds a frame owned by the caller and filled with zeros.
    ///
    /// Bound: 16 slots; lock-free, a slot is retried only if another CPU changed the slot.
    #[allow(deprecated, reason = "`try_update` is newer than `rust-version`")]
    pub(in crate::frames) fn push(&self, frame: FrameNumber) -> Pushed {
        let packet = Packet::of(frame);
        let Some(set) = self.set_of(frame.word()) else { return Pushed::Full };
        if self.held(frame.word()) & frame.mask_in_word() != 0 {
            return Pushed::Twice;
        }
        let place = |into: &dyn Fn(u64) -> Option<u64>| {
            // Release (in SeqCst) pairs with the Acquire of `pop` and `empty`: makes the zeros
            // visible. SeqCst pairs with the fence of a context about to wait for memory.
            set.0.iter().any(|slot| slot.fetch_update(Ordering::SeqCst, Ordering::Relaxed, into).is_ok())
        };
        let joined = place(&|slot| Packet::in_slot(slot)?.join(packet));
        if joined || place(&|slot| (slot == 0).then_some(packet.0)) {
            // Release pairs with the Acquire in `pop_elsewhere`: a context seeing the count sees
            // the frame.
            self.filled.fetch_add(1, Ordering::Release);
            Pushed::Kept
        } else {
            Pushed::Full
        }
    }

    /// Takes a frame, from the slot of the last frame of the CPU of `place`, if the slot has any. CPUs with
    /// different first sets do not meet while the sets are full.
    ///
    /// Bound: two loads if nothing was added since the CPU found the pool empty, otherwise one of
    /// each slot (`target / 4`); lock-free as [`ZeroedPool::push`].
    #[inline]
    pub(in crate::frames) fn pop(&self, place: &PoolCursor) -> Option<FrameNumber> {
        let slot = place.slot.load(Ordering::Relaxed) as usize;
        self.pop_from(slot).or_else(|| self.pop_elsewhere(slot, place))
    }

    /// Takes a frame from the slot numbered `number`.
    #[inline]
    #[allow(deprecated, reason = "`try_update` is newer than `rust-version`")]
    fn pop_from(&self, number: usize) -> Option<FrameNumber> {
        let slot = &self.sets.get(number / WAYS)?.0[number % WAYS];
        let rest = |slot| Packet::in_slot(slot).map(Packet::rest);
        // Acquire pairs with the Release of `push`, also across other pops. Release pairs with the
        // Acquire in `words`: a context finding the frame gone sees the transits that this CPU
        // has seen.
        let taken = slot.fetch_update(Ordering::AcqRel, Ordering::Relaxed, rest).ok()?;
        Some(Packet(taken).lowest())
    }

    /// Takes a frame, from the slots after `begin` first.
    #[inline(never)]
    fn pop_elsewhere(&self, begin: usize, place: &PoolCursor) -> Option<FrameNumber> {
        // Before the slots are read. Acquire pairs with the Release of `push`.
        let filled = self.filled.load(Ordering::Acquire) as u32;
        if filled == place.empty_at.load(Ordering::Relaxed) {
            return None;
        }
        let slots = self.sets.len() * WAYS;
        let mut numbers = (0..slots).map(|further| (begin + further) % slots);
        let found = numbers.find_map(|number| Some((number, self.pop_from(number)?)));
        match found {
            Some((number, frame)) => {
                place.slot.store(number as u32, Ordering::Relaxed);
                Some(frame)
            }
            None => {
                place.empty_at.store(filled, Ordering::Relaxed);
                None
            }
        }
    }

    /// Takes everything out.
    ///
    /// Bound: a swap of each used slot.
    pub(in crate::frames) fn empty(&self, mut home: impl FnMut(Word)) {
        for slot in self.slots() {
            if slot.load(Ordering::Relaxed) == 0 {
                continue;
            }
            // AcqRel as in `pop`.
            if let Some(packet) = Packet::in_slot(slot.swap(0, Ordering::AcqRel)) {
                self.spilled.fetch_add(packet.mask().count_ones().into(), Ordering::Relaxed);
                home(packet.word());
            }
        }
    }

    /// Returns the frames in the pool; an estimate during concurrent uses.
    pub(in crate::frames) fn words(&self) -> impl Iterator<Item = Word> {
        self.slots().filter_map(|slot| Packet::in_slot(slot.load(Ordering::Acquire))).map(Packet::word)
    }

    /// Returns the number of frames in the pool; an estimate during concurrent uses.
    pub(in crate::frames) fn count(&self) -> u64 {
        self.words().map(|word| u64::from(word.mask.count_ones())).sum()
    }

    /// Returns the frames of a bitmap word in the pool.
    ///
    /// Cost: one load if the pool was never filled, otherwise one line.
    #[inline]
    pub(in crate::frames) fn held(&self, key: WordNumber) -> u64 {
        if !self.is_used() {
            return 0;
        }
        let slots = self.set_of(key).into_iter().flat_map(|set| &set.0);
        slots
            // Relaxed: a double free after the push, on any CPU, sees the push.
            .filter_map(|slot| Packet::in_slot(slot.load(Ordering::Relaxed)))
            .map(Packet::word)
            .filter(|word| word.key == key)
            .fold(0, |held, word| held | word.mask)
    }

    /// Returns true if a frame was ever added.
    #[inline]
    pub(in crate::frames) fn is_used(&self) -> bool {
        self.filled.load(Ordering::Relaxed) != 0
    }

    /// Counts the caller as moving frames between the bitmaps and the pool.
    pub(in crate::frames) fn moving(&self) -> Transit<'_> {
        self.moving.begin()
    }

    /// Adds the pool's count to a reading.
    pub(in crate::frames) fn watch(&self, watch: &mut Watch) {
        watch.add(self.moving.load());
    }

    /// Returns true if the pool holds no frame.
    pub(in crate::frames) fn is_empty(&self) -> bool {
        self.words().next().is_none()
    }

    pub(in crate::frames) fn count_miss(&self) {
        self.misses.fetch_add(1, Ordering::Relaxed);
    }

    pub(in crate::frames) fn count_doubles(&self, frames: u32) {
        self.doubles.fetch_add(frames.into(), Ordering::Relaxed);
    }

    pub(in crate::frames) fn stats(&self) -> ZeroedStats {
        let frames = self.count();
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let left = read(&self.spilled) + frames;
        ZeroedStats {
            frames,
            hits: read(&self.filled).saturating_sub(left),
            misses: read(&self.misses),
            doubles: read(&self.doubles),
        }
    }
}

#[cfg(all(test, not(loom)))]
#[path = "zeroed_pool_tests.rs"]
mod tests;
