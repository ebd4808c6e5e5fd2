//! The division of slabs into objects.

use super::class::{CLASS_COUNT, SizeClass};
use crate::Order;

/// The division of a class's slabs into objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SlabShape {
    /// The run of pages.
    pub order: Order,
    /// Bytes from the slab's base to its first object.
    pub first: usize,
    /// The number of objects of a slab.
    pub capacity: usize,
    /// The number of slabs without a live object kept by a shelf: as many as hold a magazine of
    /// objects, or one.
    pub spares: usize,
}

impl SlabShape {
    /// The order of the largest slabs: the record of all runs searches this many pages for a slab.
    const MAX_ORDER: u8 = 5;

    /// Returns the smallest run that holds two objects and loses at most a sixteenth of itself to
    /// the header and behind the last object, or else the largest run.
    pub(crate) const fn of(class: SizeClass) -> SlabShape {
        let header = crate::slab::header::HEADER_BYTES;
        let first = (header + class.align() - 1) & !(class.align() - 1);
        let mut order = 0;
        loop {
            let bytes = 4096usize << order;
            let capacity = bytes.saturating_sub(first) / class.size();
            let little_lost = (bytes - capacity * class.size()) * 16 <= bytes;
            if order == SlabShape::MAX_ORDER || (capacity >= 2 && little_lost) {
                break;
            }
            order += 1;
        }
        let capacity = ((4096usize << order) - first) / class.size();
        let order = match Order::new(order) {
            Some(order) => order,
            None => Order::GIANT,
        };
        let magazine = class.rounds() * class.size();
        let spares = match magazine / order.bytes() as usize {
            0 => 1,
            spares => spares,
        };
        SlabShape { order, first, capacity, spares }
    }

    /// Returns the index of the object `offset` bytes behind the slab's base, if an object starts
    /// there.
    pub(crate) fn index_of(&self, class: SizeClass, offset: usize) -> Option<usize> {
        let behind = offset.checked_sub(self.first)?;
        let index = behind / class.size();
        (behind % class.size() == 0 && index < self.capacity).then_some(index)
    }

    /// Returns a mask that clears the bits of an address inside a slab.
    #[inline]
    pub(crate) const fn mask(&self) -> usize {
        !(self.order.bytes() as usize - 1)
    }

    /// The shape of each class.
    pub(crate) const ALL: [SlabShape; CLASS_COUNT] = {
        let mut shapes = [SlabShape { order: Order::FRAME, first: 0, capacity: 0, spares: 0 }; CLASS_COUNT];
        let mut index = 0;
        while index < CLASS_COUNT {
            shapes[index] = SlabShape::of(SizeClass::numbered(index));
            index += 1;
        }
        shapes
    };
}

#[cfg(all(test, not(loom)))]
mod tests {
    use core::alloc::Layout;

    use super::*;
    use crate::MAX_CLASS_SIZE;

    #[test]
    fn a_slab_of_larger_objects_has_few() {
        let cut = |size| {
            let class = SizeClass::of(Layout::from_size_align(size, 8).unwrap()).unwrap();
            let shape = SlabShape::ALL[class.index()];
            (class.size(), shape.order.frames(), shape.capacity)
        };
        assert_eq!(cut(64), (64, 1, 62));
        assert_eq!(cut(1900), (1984, 1, 2));
        assert_eq!(cut(2600), (2688, 2, 3));
        assert_eq!(cut(3000), (3248, 4, 5));
        assert_eq!(cut(4000), (4032, 2, 2));
        assert_eq!(cut(4096), (4096, 16, 15));
    }

    #[test]
    fn little_of_a_slab_is_lost() {
        for class in SizeClass::all() {
            let shape = SlabShape::ALL[class.index()];
            let bytes = shape.order.bytes() as usize;
            let share = if class.size() == MAX_CLASS_SIZE { 8 } else { 16 };
            assert!((bytes - shape.capacity * class.size()) * share <= bytes, "{class}: {shape:?}");
            assert!(shape.first + shape.capacity * class.size() <= bytes);
            assert!(shape.capacity >= 2);
            assert_eq!(shape.index_of(class, shape.first + class.size()), Some(1));
            assert_eq!(shape.index_of(class, shape.first + 1), None);
            assert_eq!(shape.index_of(class, shape.first + shape.capacity * class.size()), None);
        }
    }
}
