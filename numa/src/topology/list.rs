//! A list in order: in place for few elements, elsewhere for many.

use core::ops::{Deref, DerefMut};

use arrayvec::ArrayVec;

/// The number of elements in place. Fewer under Miri, where few tests have many.
pub(super) const BUILT_IN: usize = if cfg!(miri) { 16 } else { 256 };

/// There is no room for another element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NoRoom;

/// A list with room for [`BUILT_IN`] elements, or for as many as memory given to the list holds.
#[derive(Debug)]
pub(super) struct List<T: 'static> {
    near: ArrayVec<T, BUILT_IN>,
    /// `None` if the elements in place count.
    far: Option<&'static mut [T]>,
    /// The number of elements in `far`.
    count: usize,
}

impl<T: Copy> List<T> {
    pub(super) const fn new() -> List<T> {
        List { near: ArrayVec::new_const(), far: None, count: 0 }
    }

    /// Empties the list, which lies in `place` from now on.
    pub(super) fn move_to(&mut self, place: &'static mut [T]) {
        self.clear();
        self.far = Some(place);
    }

    pub(super) fn clear(&mut self) {
        self.near.clear();
        self.count = 0;
    }

    /// Returns how many more elements have room.
    pub(super) fn room(&self) -> usize {
        self.far.as_ref().map_or(self.near.remaining_capacity(), |far| far.len() - self.count)
    }

    /// Inserts an element before that at `index`, which is at most the length.
    pub(super) fn insert(&mut self, index: usize, element: T) -> Result<(), NoRoom> {
        let Some(far) = &mut self.far else {
            return self.near.try_insert(index, element).map_err(|_| NoRoom);
        };
        let moved = far.get_mut(index..=self.count).ok_or(NoRoom)?;
        moved.rotate_right(1);
        moved.first_mut().into_iter().for_each(|place| *place = element);
        self.count += 1;
        Ok(())
    }

    /// Removes the element at `index`.
    pub(super) fn remove(&mut self, index: usize) {
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

impl<T> Deref for List<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        self.far.as_ref().map_or(&self.near, |far| far.get(..self.count).unwrap_or(&[]))
    }
}

impl<T> DerefMut for List<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        match &mut self.far {
            None => &mut self.near,
            Some(far) => far.get_mut(..self.count).unwrap_or(&mut []),
        }
    }
}
