//! Sets of CPUs with concurrent changes.

use core::fmt;

use super::{CpuSet, WORDS, place};
use crate::CpuId;
use crate::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// A [`CpuSet`] with concurrent joins and leaves.
///
/// Each member's bit is coherent. [`AtomicCpuSet::load`] reads word by word: the
/// result is no snapshot across 64-CPU words. The protocols built on the set order a join against
/// the protocol's data with a full barrier, and need no more per CPU.
///
/// Reading costs a load for each word up to the last that ever had a member: one on a machine of up
/// to 64 CPUs. A set takes 520 bytes.
///
/// # Examples
///
/// ```
/// # use std::sync::atomic::Ordering;
/// # use topomem_percpu::{AtomicCpuSet, CpuId, CpuSet};
/// static ACTIVE: AtomicCpuSet = AtomicCpuSet::new();
///
/// // SeqCst: a full barrier between the join and the joiner's next loads.
/// assert!(ACTIVE.insert(CpuId::BOOT, Ordering::SeqCst));
/// assert!(ACTIVE.contains(CpuId::BOOT, Ordering::SeqCst));
/// assert_eq!(ACTIVE.load(Ordering::SeqCst), CpuSet::of(CpuId::BOOT));
/// ```
pub struct AtomicCpuSet {
    /// The number of words with possible members. The number grows before the first member of a
    /// word joins, with the same ordering as the join, and never shrinks: a reader of too small a
    /// number could as well have read the words without the member.
    reach: AtomicUsize,
    words: [AtomicU64; WORDS],
}

impl AtomicCpuSet {
    /// Creates a set without members.
    #[cfg(not(loom))]
    #[must_use]
    pub const fn new() -> AtomicCpuSet {
        AtomicCpuSet { reach: AtomicUsize::new(0), words: [const { AtomicU64::new(0) }; WORDS] }
    }

    /// Creates a set without members (loom's atomics have no `const` constructor).
    #[cfg(loom)]
    #[must_use]
    pub fn new() -> AtomicCpuSet {
        AtomicCpuSet { reach: AtomicUsize::new(0), words: core::array::from_fn(|_| AtomicU64::new(0)) }
    }

    /// Adds `cpu`. Returns true if `cpu` was not a member.
    pub fn insert(&self, cpu: CpuId, order: Ordering) -> bool {
        let (word, bit) = place(cpu);
        // Relaxed: a reader required to see the member, by happens-before or by the barriers of
        // both sides, sees at least the reach read here.
        if self.reach.load(Ordering::Relaxed) <= word {
            self.reach.fetch_max(word + 1, order);
        }
        self.words[word].fetch_or(bit, order) & bit == 0
    }

    /// Returns the words with possible members.
    #[inline]
    fn reached(&self, order: Ordering) -> &[AtomicU64] {
        let reach = self.reach.load(order);
        // SAFETY: only `insert` writes the reach, as a word's index plus 1. Asserted here to
        // spare the checks of the words and of their members' numbers.
        unsafe { core::hint::assert_unchecked(reach <= WORDS) };
        &self.words[..reach]
    }

    /// Removes `cpu`. Returns true if `cpu` was a member.
    pub fn remove(&self, cpu: CpuId, order: Ordering) -> bool {
        let (word, bit) = place(cpu);
        self.words[word].fetch_and(!bit, order) & bit != 0
    }

    /// Returns true if `cpu` is a member.
    #[inline]
    pub fn contains(&self, cpu: CpuId, order: Ordering) -> bool {
        // Shifted, not masked: polling loops keep no mask in a register.
        self.words[cpu.index() / 64].load(order) >> (cpu.index() % 64) & 1 != 0
    }

    /// Returns true if every member except `cpu` is in `set`.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::sync::atomic::Ordering;
    /// # use topomem_percpu::{AtomicCpuSet, CpuId, CpuSet};
    /// let active = AtomicCpuSet::new();
    /// active.insert(CpuId::BOOT, Ordering::Relaxed);
    /// active.insert(CpuId::new(1).unwrap(), Ordering::Relaxed);
    /// assert!(!active.others_are_in(&CpuSet::new(), CpuId::BOOT, Ordering::Relaxed));
    /// ```
    #[inline]
    pub fn others_are_in(&self, set: &CpuSet, cpu: CpuId, order: Ordering) -> bool {
        !self.any_other(cpu, order, |index, members| members & !set.word(index) != 0)
    }

    /// Returns true if `wanted` accepts a word's index and its members. `cpu` is left out.
    #[inline]
    fn any_other(&self, cpu: CpuId, order: Ordering, wanted: impl Fn(usize, u64) -> bool) -> bool {
        let (own, bit) = place(cpu);
        let words = self.reached(order);
        // The word of `cpu` first: most machines have no second word.
        words.get(own).is_some_and(|word| wanted(own, word.load(order) & !bit))
            || (words.len() > 1
                && (0..).zip(words).any(|(index, word)| index != own && wanted(index, word.load(order))))
    }

    /// Returns the first member from number `index` on that `wanted` accepts. Each word is read
    /// once, with `order`, before its members are passed to `wanted`.
    #[inline(always)]
    pub fn find_from(
        &self,
        index: usize,
        order: Ordering,
        mut wanted: impl FnMut(CpuId) -> bool,
    ) -> Option<CpuId> {
        let words = self.reached(order);
        let mut place = index / 64;
        let mut above = u64::MAX << (index % 64);
        // The first word alone: most machines have no second word.
        if place == 0 {
            let members = words.first()?.load(order) & above;
            if let Some(cpu) = first_of(0, members, &mut wanted) {
                return Some(cpu);
            }
            (place, above) = (1, u64::MAX);
        }
        while let Some(word) = words.get(place) {
            if let Some(cpu) = first_of(place, word.load(order) & above, &mut wanted) {
                return Some(cpu);
            }
            (place, above) = (place + 1, u64::MAX);
        }
        None
    }

    /// Returns the members, reading each word with `order`.
    #[inline]
    pub fn load(&self, order: Ordering) -> CpuSet {
        let mut set = CpuSet::new();
        for (word, members) in set.words.iter_mut().zip(self.reached(order)) {
            word.write(members.load(order));
            set.reach += 1;
        }
        set
    }
}

/// Returns the first of `members`, of the word numbered `place`, that `wanted` accepts.
#[inline(always)]
fn first_of(place: usize, mut members: u64, wanted: &mut impl FnMut(CpuId) -> bool) -> Option<CpuId> {
    while members != 0 {
        // SAFETY: only CPUs' bits are ever set.
        let cpu = unsafe { CpuId::new_unchecked(place * 64 + members.trailing_zeros() as usize) };
        if wanted(cpu) {
            return Some(cpu);
        }
        members &= members - 1;
    }
    None
}

impl Default for AtomicCpuSet {
    fn default() -> AtomicCpuSet {
        AtomicCpuSet::new()
    }
}

impl fmt::Debug for AtomicCpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.load(Ordering::Relaxed).fmt(f)
    }
}
