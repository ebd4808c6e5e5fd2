//! Slabs of which some objects are free and some in use, ordered by how much of them is free.
//!
//! An allocation takes from a slab of which the least is free. So objects gather in the slabs that are full
//! anyway, and the others become free as a whole. There are eight lists, each for slabs of which another eighth
//! is free. A word has a bit for each list that is not empty, so nothing is searched.

use super::header::Slab;
use super::list::SlabList;

/// How many lists there are.
const LISTS: usize = 8;

/// How much of a slab is free, in eighths, rounded down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Vacancy(u8);

/// Slabs with a free object and one in use, of one shelf. Used under the shelf's lock only.
pub(super) struct Partial {
    lists: [SlabList; LISTS],
    /// A bit for each list that has a slab.
    filled: u8,
    /// Vacancies for each free object, in units of 2^-16.
    scale: u32,
}

impl Partial {
    const SCALE_BITS: u32 = 16;

    /// No slabs, of `capacity` objects each.
    pub(super) const fn new(capacity: usize) -> Partial {
        let scale = ((LISTS as u32) << Partial::SCALE_BITS) / capacity as u32;
        Partial { lists: [const { SlabList::EMPTY }; LISTS], filled: 0, scale }
    }

    /// The vacancy of a slab with `free` free objects, fewer than it has.
    #[inline]
    pub(super) fn vacancy(&self, free: usize) -> Vacancy {
        Vacancy(((free as u32 * self.scale) >> Partial::SCALE_BITS) as u8)
    }

    /// A slab of which no more is free than of any other, within an eighth.
    #[inline]
    pub(super) fn fullest(&self) -> Option<Slab> {
        self.lists.get(self.filled.trailing_zeros() as usize)?.head()
    }

    /// Puts `slab` in.
    ///
    /// # Safety
    ///
    /// The caller holds the shelf's lock; the slab is the shelf's, and on no list.
    pub(super) unsafe fn push(&mut self, slab: Slab, vacancy: Vacancy) {
        self.filled |= 1 << vacancy.0;
        // SAFETY: the caller's promise.
        unsafe { self.lists[usize::from(vacancy.0)].push(slab) };
    }

    /// Takes `slab` out.
    ///
    /// # Safety
    ///
    /// The caller holds the shelf's lock; the slab was put in with this vacancy, and not taken out since.
    pub(super) unsafe fn remove(&mut self, slab: Slab, vacancy: Vacancy) {
        let list = &mut self.lists[usize::from(vacancy.0)];
        // SAFETY: the caller's promise.
        unsafe { list.remove(slab) };
        if list.head().is_none() {
            self.filled &= !(1 << vacancy.0);
        }
    }

    /// The lists, each with the vacancy of its slabs.
    pub(super) fn lists(&self) -> impl Iterator<Item = (Vacancy, &SlabList)> {
        self.lists.iter().enumerate().map(|(eighths, list)| (Vacancy(eighths as u8), list))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::slab::class::{SizeClass, SlabShape};

    #[test]
    fn a_slab_with_more_free_objects_is_never_on_an_earlier_list() {
        for class in SizeClass::all() {
            let capacity = SlabShape::ALL[class.index()].capacity;
            let partial = Partial::new(capacity);
            let vacancies: std::vec::Vec<_> = (1..capacity).map(|free| partial.vacancy(free).0).collect();
            assert!(vacancies.is_sorted() && vacancies.iter().all(|&vacancy| usize::from(vacancy) < LISTS));
            // Up to eight objects, each number has a list of its own.
            assert!(capacity > LISTS || vacancies.windows(2).all(|pair| pair[0] < pair[1]), "{class}");
        }
    }
}
