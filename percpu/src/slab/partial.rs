//! Slabs with free and live objects, ordered by their share of free objects.
//!
//! An allocation takes from a slab with the smallest share of free objects. So live objects gather
//! in slabs that are nearly full, and the remaining slabs become free as a whole. There are eight
//! lists, one for each eighth of free objects. A word has a bit for each list that is not empty, so
//! no search is needed.

use super::header::Slab;
use super::list::SlabList;

/// The number of lists.
const LISTS: usize = 8;

/// The share of a slab's free objects, in eighths, rounded down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Vacancy(u8);

/// Slabs of one shelf with at least one free object and at least one live object. Used under the
/// shelf's lock only.
pub(super) struct Partial {
    lists: [SlabList; LISTS],
    /// A bit for each list that has a slab.
    filled: u8,
    /// Vacancies for each free object, in units of 2^-16.
    scale: u32,
}

impl Partial {
    const SCALE_BITS: u32 = 16;

    /// Creates empty lists for slabs of `capacity` objects each.
    pub(super) const fn new(capacity: usize) -> Partial {
        let scale = ((LISTS as u32) << Partial::SCALE_BITS) / capacity as u32;
        Partial { lists: [const { SlabList::EMPTY }; LISTS], filled: 0, scale }
    }

    /// Returns the vacancy of a slab with `free` free objects, fewer than its capacity.
    #[inline]
    pub(super) fn vacancy(&self, free: usize) -> Vacancy {
        Vacancy(((free as u32 * self.scale) >> Partial::SCALE_BITS) as u8)
    }

    /// Returns a slab with the smallest share of free objects, within an eighth.
    #[inline]
    pub(super) fn fullest(&self) -> Option<Slab> {
        self.lists.get(self.filled.trailing_zeros() as usize)?.head()
    }

    /// Puts `slab` in.
    ///
    /// # Safety
    ///
    /// The caller holds the shelf's lock; the slab belongs to the shelf, and is on no list.
    pub(super) unsafe fn push(&mut self, slab: Slab, vacancy: Vacancy) {
        self.filled |= 1 << vacancy.0;
        // SAFETY: the caller's promise.
        unsafe { self.lists[usize::from(vacancy.0)].push(slab) };
    }

    /// Takes `slab` out.
    ///
    /// # Safety
    ///
    /// The caller holds the shelf's lock; the slab was put in with this vacancy, and not taken out
    /// since.
    pub(super) unsafe fn remove(&mut self, slab: Slab, vacancy: Vacancy) {
        let list = &mut self.lists[usize::from(vacancy.0)];
        // SAFETY: the caller's promise.
        unsafe { list.remove(slab) };
        if list.head().is_none() {
            self.filled &= !(1 << vacancy.0);
        }
    }

    /// Returns the lists, each with the vacancy of its slabs.
    pub(super) fn lists(&self) -> impl Iterator<Item = (Vacancy, &SlabList)> {
        self.lists.iter().enumerate().map(|(eighths, list)| (Vacancy(eighths as u8), list))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::slab::{SizeClass, SlabShape};

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
