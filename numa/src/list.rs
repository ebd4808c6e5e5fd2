//! A list in order: in place for few elements, elsewhere for many.

use core::ops::{Deref, DerefMut, Range};

use arrayvec::ArrayVec;

/// There is no room for another element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NoRoom;

/// A list with room for `BUILT_IN` elements, or for as many as memory given to the list holds.
#[derive(Debug)]
pub(crate) struct List<T: 'static, const BUILT_IN: usize> {
    near: ArrayVec<T, BUILT_IN>,
    /// `None` if the elements in place count.
    far: Option<&'static mut [T]>,
    /// The number of elements in `far`.
    count: usize,
}

impl<T: Copy, const BUILT_IN: usize> List<T, BUILT_IN> {
    pub(crate) const fn new() -> List<T, BUILT_IN> {
        List { near: ArrayVec::new_const(), far: None, count: 0 }
    }

    /// Empties the list, which lies in `place` from now on.
    pub(crate) fn move_to(&mut self, place: &'static mut [T]) {
        self.clear();
        self.far = Some(place);
    }

    /// Moves the list, with its elements, to `place`, if that has more room. Returns whether it has.
    pub(crate) fn grow_to(&mut self, place: &'static mut [T]) -> bool {
        let count = self.len();
        if place.len() <= count + self.room() {
            return false;
        }
        let Some(start) = place.get_mut(..count) else { return false };
        start.copy_from_slice(self);
        (self.far, self.count) = (Some(place), count);
        true
    }

    pub(crate) fn clear(&mut self) {
        self.near.clear();
        self.count = 0;
    }

    /// Returns how many more elements have room.
    pub(crate) fn room(&self) -> usize {
        self.far.as_ref().map_or(self.near.remaining_capacity(), |far| far.len() - self.count)
    }

    /// Adds an element behind the last.
    pub(crate) fn push(&mut self, element: T) -> Result<(), NoRoom> {
        self.insert(self.len(), element)
    }

    /// Inserts an element before that at `index`, which is at most the length.
    pub(crate) fn insert(&mut self, index: usize, element: T) -> Result<(), NoRoom> {
        let Some(far) = &mut self.far else {
            return self.near.try_insert(index, element).map_err(|_| NoRoom);
        };
        let moved = far.get_mut(index..=self.count).ok_or(NoRoom)?;
        moved.rotate_right(1);
        moved.first_mut().into_iter().for_each(|place| *place = element);
        self.count += 1;
        Ok(())
    }

    /// Removes the elements of `range`.
    pub(crate) fn remove_range(&mut self, range: Range<usize>) {
        range.rev().for_each(|index| self.remove(index));
    }

    /// Removes the element at `index`.
    pub(crate) fn remove(&mut self, index: usize) {
        match &mut self.far {
            None => {
                self.near.remove(index);
            }
            Some(far) => {
                far[index..self.count].rotate_left(1);
                self.count -= 1;
            }
        }
    }
}

impl<T: Copy, const BUILT_IN: usize> Default for List<T, BUILT_IN> {
    fn default() -> List<T, BUILT_IN> {
        List::new()
    }
}

impl<T, const BUILT_IN: usize> Deref for List<T, BUILT_IN> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        self.far.as_ref().map_or(&self.near, |far| far.get(..self.count).unwrap_or(&[]))
    }
}

impl<T, const BUILT_IN: usize> DerefMut for List<T, BUILT_IN> {
    fn deref_mut(&mut self) -> &mut [T] {
        match &mut self.far {
            None => &mut self.near,
            Some(far) => far.get_mut(..self.count).unwrap_or(&mut []),
        }
    }
}
