//! Sets of CPUs: a plain value, and an atomic set for concurrent joins and leaves.

mod atomic;

use core::fmt;
use core::mem::MaybeUninit;

use crate::{CpuId, MAX_CPUS};

pub use atomic::AtomicCpuSet;

const WORDS: usize = MAX_CPUS.div_ceil(64);

const fn place(cpu: CpuId) -> (usize, u64) {
    (cpu.index() / 64, 1 << (cpu.index() % 64))
}

/// A set of CPUs.
///
/// A set takes room for [`MAX_CPUS`] bits, most bits never written: only the words up to the greatest member's are
/// written, read and copied, one on a machine of up to 64 CPUs. The set is passed by reference.
///
/// # Examples
///
/// ```
/// # use topomem_percpu::{CpuId, CpuSet};
/// let second = CpuId::new(1).unwrap();
/// let mut set = CpuSet::of(CpuId::BOOT);
/// assert!(set.insert(second));
/// assert!(set.remove(CpuId::BOOT));
/// assert_eq!(set, CpuSet::of(second));
/// assert_eq!(set.len(), 1);
/// ```
pub struct CpuSet {
    /// The number of written words. The words behind have no members.
    reach: usize,
    words: [MaybeUninit<u64>; WORDS],
}

impl CpuSet {
    /// Returns the set without members.
    #[must_use]
    #[inline(always)]
    pub const fn new() -> CpuSet {
        // Written field by field: as a constant, all of the set would be written with zeros.
        let mut set = MaybeUninit::<CpuSet>::uninit();
        // SAFETY: the reach is written, and words need not be.
        unsafe {
            (&raw mut (*set.as_mut_ptr()).reach).write(0);
            set.assume_init()
        }
    }

    /// Returns the set of `cpu` alone.
    #[must_use]
    #[inline]
    pub fn of(cpu: CpuId) -> CpuSet {
        let mut set = CpuSet::new();
        set.insert(cpu);
        set
    }

    /// Returns the words with possible members.
    #[inline]
    fn words(&self) -> &[u64] {
        let words = &raw const self.words;
        // SAFETY: the first `reach` words are written by `extend` and `load`.
        unsafe { core::slice::from_raw_parts(words.cast(), self.reach) }
    }

    /// Returns the words with possible members.
    #[inline]
    fn words_mut(&mut self) -> &mut [u64] {
        let words = &raw mut self.words;
        // SAFETY: as in `words`.
        unsafe { core::slice::from_raw_parts_mut(words.cast(), self.reach) }
    }

    /// Writes the words up to, and not including, `reach`.
    #[inline]
    fn extend(&mut self, reach: usize) {
        while self.reach < reach {
            self.words[self.reach].write(0);
            self.reach += 1;
        }
    }

    /// Adds `cpu`. Returns true if `cpu` was not a member.
    #[inline]
    pub fn insert(&mut self, cpu: CpuId) -> bool {
        let (word, bit) = place(cpu);
        self.extend(word + 1);
        let members = &mut self.words_mut()[word];
        let fresh = *members & bit == 0;
        *members |= bit;
        fresh
    }

    /// Removes `cpu`. Returns true if `cpu` was a member.
    #[inline]
    pub fn remove(&mut self, cpu: CpuId) -> bool {
        let (word, bit) = place(cpu);
        let Some(members) = self.words_mut().get_mut(word) else { return false };
        let member = *members & bit != 0;
        *members &= !bit;
        member
    }

    /// Returns the members of the word numbered `word`.
    #[inline]
    fn word(&self, word: usize) -> u64 {
        self.words().get(word).copied().unwrap_or(0)
    }

    /// Returns true if `cpu` is a member.
    #[inline]
    #[must_use]
    pub fn contains(&self, cpu: CpuId) -> bool {
        let (word, bit) = place(cpu);
        self.word(word) & bit != 0
    }

    /// Returns true if the set has no members.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.words().iter().all(|&word| word == 0)
    }

    /// Returns the number of members.
    #[must_use]
    pub fn len(&self) -> usize {
        self.words().iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Returns an iterator over the members, in order of number.
    ///
    /// # Examples
    ///
    /// ```
    /// # use topomem_percpu::{CpuId, CpuSet};
    /// let set: CpuSet = CpuSet::of(CpuId::new(2).unwrap()).union(&CpuSet::of(CpuId::BOOT));
    /// assert!(set.iter().map(CpuId::index).eq([0, 2]));
    /// ```
    #[inline]
    pub fn iter(&self) -> impl Iterator<Item = CpuId> {
        let words = self.words();
        let (mut index, mut word) = (0, words.first().copied().unwrap_or(0));
        core::iter::from_fn(move || {
            while word == 0 {
                index += 1;
                word = *words.get(index)?;
            }
            // SAFETY: only CPUs' bits are ever set.
            let cpu = unsafe { CpuId::new_unchecked(index * 64 + word.trailing_zeros() as usize) };
            word &= word - 1;
            Some(cpu)
        })
    }

    /// Returns the members of either set.
    ///
    /// # Examples
    ///
    /// ```
    /// # use topomem_percpu::{CpuId, CpuSet};
    /// let both = CpuSet::of(CpuId::BOOT).union(&CpuSet::of(CpuId::new(1).unwrap()));
    /// assert_eq!(both.len(), 2);
    /// ```
    #[must_use]
    pub fn union(mut self, other: &CpuSet) -> CpuSet {
        self.extend(other.reach);
        for (word, &others) in self.words_mut().iter_mut().zip(other.words()) {
            *word |= others;
        }
        self
    }

    /// Returns the members of `self` missing from `other`.
    ///
    /// # Examples
    ///
    /// ```
    /// # use topomem_percpu::{CpuId, CpuSet};
    /// let boot = CpuSet::of(CpuId::BOOT);
    /// assert!(boot.clone().difference(&boot).is_empty());
    /// ```
    #[must_use]
    pub fn difference(mut self, other: &CpuSet) -> CpuSet {
        for (word, &others) in self.words_mut().iter_mut().zip(other.words()) {
            *word &= !others;
        }
        self
    }
}

impl Clone for CpuSet {
    fn clone(&self) -> CpuSet {
        CpuSet::new().union(self)
    }
}

impl Default for CpuSet {
    fn default() -> CpuSet {
        CpuSet::new()
    }
}

impl PartialEq for CpuSet {
    fn eq(&self, other: &CpuSet) -> bool {
        (0..self.reach.max(other.reach)).all(|word| self.word(word) == other.word(word))
    }
}

impl Eq for CpuSet {}

impl FromIterator<CpuId> for CpuSet {
    fn from_iter<I: IntoIterator<Item = CpuId>>(cpus: I) -> CpuSet {
        let mut set = CpuSet::new();
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

#[cfg(all(test, not(loom)))]
mod tests {
    use std::vec::Vec;

    use super::*;
    use crate::sync::atomic::Ordering;

    fn cpu(index: usize) -> CpuId {
        CpuId::new(index).unwrap()
    }

    /// Only written words are read, which Miri sees.
    #[test]
    fn sets_of_few_cpus() {
        let mut set = CpuSet::new();
        assert!(set.is_empty() && set == CpuSet::default() && !set.remove(cpu(3)));
        assert!(set.insert(cpu(3)) && !set.insert(cpu(3)) && set.insert(cpu(9)));
        let copy = set.clone();
        assert!(set.remove(cpu(3)));
        assert_eq!((copy.len(), set.len()), (2, 1));
        assert_eq!(copy.clone().difference(&set), CpuSet::of(cpu(3)));
        assert_eq!(CpuSet::of(cpu(3)).union(&set), copy);
        assert!(copy.iter().map(CpuId::index).eq([3, 9]));
        let atomic = AtomicCpuSet::new();
        atomic.insert(cpu(9), Ordering::Relaxed);
        assert_eq!(atomic.load(Ordering::Relaxed), set);
        assert!(atomic.others_are_in(&copy, cpu(0), Ordering::Relaxed));
        assert_eq!(atomic.find_from(0, Ordering::Relaxed, |_| true), Some(cpu(9)));
    }

    #[test]
    #[cfg_attr(miri, ignore = "of more CPUs than there are under Miri")]
    fn members_come_back_in_order() {
        let set: CpuSet = [4095, 0, 64, 63].map(cpu).into_iter().collect();
        let members: Vec<usize> = set.iter().map(CpuId::index).collect();
        assert_eq!(members, [0, 63, 64, 4095]);
        assert_eq!(set.len(), 4);
        assert!(!set.difference(&CpuSet::of(cpu(64))).contains(cpu(64)));
    }

    #[test]
    #[cfg_attr(miri, ignore = "of more CPUs than there are under Miri")]
    fn atomic_set_reports_changes() {
        let set = AtomicCpuSet::new();
        assert!(set.insert(cpu(70), Ordering::SeqCst));
        assert!(!set.insert(cpu(70), Ordering::SeqCst));
        assert_eq!(set.load(Ordering::SeqCst), CpuSet::of(cpu(70)));
        assert!(set.remove(cpu(70), Ordering::SeqCst));
        assert!(set.load(Ordering::SeqCst).is_empty());
    }

    #[test]
    #[cfg_attr(miri, ignore = "of more CPUs than there are under Miri")]
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
        set.remove(cpu(511), Ordering::Relaxed);
        set.remove(cpu(3), Ordering::Relaxed);
        assert_eq!((first_from(65), first_from(MAX_CPUS)), (None, None));
        assert_eq!(set.load(Ordering::Relaxed), CpuSet::of(cpu(64)));
    }

    #[test]
    #[cfg_attr(miri, ignore = "of more CPUs than there are under Miri")]
    fn compares_all_members_but_one() {
        let set = AtomicCpuSet::new();
        let others_are_in = |others: &[usize]| {
            let others = others.iter().copied().map(cpu).collect();
            set.others_are_in(&others, cpu(64), Ordering::Relaxed)
        };
        assert!(others_are_in(&[]), "nobody is missing where nobody is");
        for member in [64, 65, 300].map(cpu) {
            set.insert(member, Ordering::Relaxed);
        }
        for others in [&[65, 300][..], &[64, 65, 300], &[0, 65, 300, 511]] {
            assert!(others_are_in(others), "{others:?}");
        }
        for others in [&[65][..], &[300], &[64, 300], &[1, 364]] {
            assert!(!others_are_in(others), "{others:?}");
        }
    }
}
