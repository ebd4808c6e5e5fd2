//! Sets of CPUs: a plain value, and one that CPUs join and leave concurrently.

use core::fmt;

use crate::sync::atomic::{AtomicU64, Ordering};
use crate::{CpuId, MAX_CPUS};

const WORDS: usize = MAX_CPUS.div_ceil(64);

const fn place(cpu: CpuId) -> (usize, u64) {
    (cpu.index() / 64, 1 << (cpu.index() % 64))
}

/// A set of CPUs, one cache line.
#[derive(Clone, Copy, Eq, Default)]
pub struct CpuSet {
    words: [u64; WORDS],
}

impl PartialEq for CpuSet {
    /// Without the call of `memcmp` that comparing arrays is.
    #[inline]
    fn eq(&self, other: &CpuSet) -> bool {
        let words = self.words.iter().zip(&other.words);
        words.fold(0, |differing, (one, other)| differing | (one ^ other)) == 0
    }
}

impl CpuSet {
    /// The set without members.
    pub const EMPTY: CpuSet = CpuSet { words: [0; WORDS] };

    /// The set of `cpu` alone.
    #[must_use]
    pub const fn of(cpu: CpuId) -> CpuSet {
        let mut set = CpuSet::EMPTY;
        let (word, bit) = place(cpu);
        set.words[word] = bit;
        set
    }

    /// Adds `cpu`; true where it was not a member.
    #[inline]
    pub fn insert(&mut self, cpu: CpuId) -> bool {
        let (word, bit) = place(cpu);
        let fresh = self.words[word] & bit == 0;
        self.words[word] |= bit;
        fresh
    }

    /// Takes `cpu` out; true where it was a member.
    #[inline]
    pub fn remove(&mut self, cpu: CpuId) -> bool {
        let (word, bit) = place(cpu);
        let member = self.words[word] & bit != 0;
        self.words[word] &= !bit;
        member
    }

    /// Is `cpu` a member?
    #[inline]
    #[must_use]
    pub const fn contains(&self, cpu: CpuId) -> bool {
        let (word, bit) = place(cpu);
        self.words[word] & bit != 0
    }

    /// Has it no members?
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        // Without a branch for each word: most sets have members in the first at most.
        self.words.iter().fold(0, |all, word| all | word) == 0
    }

    /// How many members it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// The members, in order of number.
    #[inline]
    pub fn iter(&self) -> impl Iterator<Item = CpuId> + use<> {
        let words = self.words;
        let (mut index, mut word) = (0, words[0]);
        core::iter::from_fn(move || {
            while word == 0 {
                index += 1;
                word = *words.get(index)?;
            }
            let bit = word.trailing_zeros() as usize;
            word &= word - 1;
            CpuId::new(index * 64 + bit)
        })
    }

    /// The members of either set.
    #[must_use]
    pub fn union(mut self, other: &CpuSet) -> CpuSet {
        for (word, &others) in self.words.iter_mut().zip(&other.words) {
            *word |= others;
        }
        self
    }

    /// The members that `other` lacks.
    #[must_use]
    pub fn difference(mut self, other: &CpuSet) -> CpuSet {
        for (word, &others) in self.words.iter_mut().zip(&other.words) {
            *word &= !others;
        }
        self
    }
}

impl FromIterator<CpuId> for CpuSet {
    fn from_iter<I: IntoIterator<Item = CpuId>>(cpus: I) -> CpuSet {
        let mut set = CpuSet::EMPTY;
        for cpu in cpus {
            set.insert(cpu);
        }
        set
    }
}

impl fmt::Debug for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// A [`CpuSet`] that CPUs join and leave concurrently.
///
/// Each member's bit is coherent by itself; [`AtomicCpuSet::load`] reads word by word, so it is
/// no snapshot across 64-CPU words. The protocols built on it order a join against their own
/// data with a full barrier, and need no more than that per CPU.
pub struct AtomicCpuSet {
    words: [AtomicU64; WORDS],
}

impl AtomicCpuSet {
    /// The set without members.
    #[cfg(not(loom))]
    #[must_use]
    pub const fn new() -> AtomicCpuSet {
        AtomicCpuSet { words: [const { AtomicU64::new(0) }; WORDS] }
    }

    /// The set without members (loom's atomics have no `const` constructor).
    #[cfg(loom)]
    #[must_use]
    pub fn new() -> AtomicCpuSet {
        AtomicCpuSet { words: core::array::from_fn(|_| AtomicU64::new(0)) }
    }

    /// Adds `cpu`; true where it was not a member.
    pub fn insert(&self, cpu: CpuId, order: Ordering) -> bool {
        let (word, bit) = place(cpu);
        self.words[word].fetch_or(bit, order) & bit == 0
    }

    /// Takes `cpu` out; true where it was a member.
    pub fn remove(&self, cpu: CpuId, order: Ordering) -> bool {
        let (word, bit) = place(cpu);
        self.words[word].fetch_and(!bit, order) & bit != 0
    }

    /// Is `cpu` a member?
    #[inline]
    pub fn contains(&self, cpu: CpuId, order: Ordering) -> bool {
        let (word, bit) = place(cpu);
        self.words[word].load(order) & bit != 0
    }

    /// Has it a member besides `cpu`? Reads every word with `order`.
    #[inline]
    pub fn has_others(&self, cpu: CpuId, order: Ordering) -> bool {
        let (own, bit) = place(cpu);
        let others = self.words[own].load(order) & !bit;
        let (before, after) = (&self.words[..own], &self.words[own + 1..]);
        // Without a branch for each word: most machines use the first alone.
        before.iter().chain(after).fold(others, |all, word| all | word.load(order)) != 0
    }

    /// The first member from number `index` on that `wanted` accepts; each word is read once,
    /// with `order`, before its members are asked about.
    #[inline]
    pub fn find_from(
        &self,
        index: usize,
        order: Ordering,
        mut wanted: impl FnMut(CpuId) -> bool,
    ) -> Option<CpuId> {
        let mut place = index / 64;
        let mut above = u64::MAX << (index % 64);
        while let Some(word) = self.words.get(place) {
            let mut members = word.load(order) & above;
            while members != 0 {
                let cpu = CpuId::new(place * 64 + members.trailing_zeros() as usize)?;
                if wanted(cpu) {
                    return Some(cpu);
                }
                members &= members - 1;
            }
            place += 1;
            above = u64::MAX;
        }
        None
    }

    /// The members, read word by word with `order` each.
    #[inline]
    pub fn load(&self, order: Ordering) -> CpuSet {
        CpuSet { words: core::array::from_fn(|word| self.words[word].load(order)) }
    }
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

#[cfg(all(test, not(loom)))]
mod tests {
    use std::vec::Vec;

    use super::*;

    fn cpu(index: usize) -> CpuId {
        CpuId::new(index).unwrap()
    }

    #[test]
    #[cfg_attr(miri, ignore = "safe code, and of more CPUs than there are under Miri")]
    fn members_come_back_in_order() {
        let set: CpuSet = [511, 0, 64, 63].map(cpu).into_iter().collect();
        let members: Vec<usize> = set.iter().map(CpuId::index).collect();
        assert_eq!(members, [0, 63, 64, 511]);
        assert_eq!(set.len(), 4);
        assert!(!set.difference(&CpuSet::of(cpu(64))).contains(cpu(64)));
    }

    #[test]
    #[cfg_attr(miri, ignore = "safe code, and of more CPUs than there are under Miri")]
    fn atomic_set_reports_changes() {
        let set = AtomicCpuSet::new();
        assert!(set.insert(cpu(70), Ordering::SeqCst));
        assert!(!set.insert(cpu(70), Ordering::SeqCst));
        assert_eq!(set.load(Ordering::SeqCst), CpuSet::of(cpu(70)));
        assert!(set.remove(cpu(70), Ordering::SeqCst));
        assert!(set.load(Ordering::SeqCst).is_empty());
    }

    #[test]
    #[cfg_attr(miri, ignore = "safe code, and of more CPUs than there are under Miri")]
    fn finds_members_from_a_number_on() {
        let set = AtomicCpuSet::new();
        for member in [3, 64, 511].map(cpu) {
            set.insert(member, Ordering::Relaxed);
        }
        let first_from = |index| set.find_from(index, Ordering::Relaxed, |_| true).map(CpuId::index);
        for (index, first) in [(0, 3), (3, 3), (4, 64), (64, 64), (65, 511), (511, 511)] {
            assert_eq!(first_from(index), Some(first));
        }
        let odd = set.find_from(4, Ordering::Relaxed, |cpu| cpu.index() % 2 == 1);
        assert_eq!(odd.map(CpuId::index), Some(511));
        assert!(set.has_others(cpu(64), Ordering::Relaxed));
        set.remove(cpu(511), Ordering::Relaxed);
        set.remove(cpu(3), Ordering::Relaxed);
        assert!(set.has_others(cpu(0), Ordering::Relaxed));
        assert!(!set.has_others(cpu(64), Ordering::Relaxed));
        assert_eq!((first_from(65), first_from(MAX_CPUS)), (None, None));
    }
}
