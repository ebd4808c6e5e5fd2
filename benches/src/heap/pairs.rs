//! Work that holds nothing from turn to turn.

use std::alloc::Layout;
use std::hint::black_box;

use super::subject::Subject;
use super::work::{Object, Work};

/// A pair: an allocation of `SIZE` bytes, a write to the memory, and the free. The layout is not known when
/// the allocator is compiled, as that of a `Box` is not known to a global allocator.
pub(super) struct Pair<const SIZE: usize>;

impl<A: Subject, const SIZE: usize> Work<A> for Pair<SIZE> {
    const OPERATIONS: usize = 1;
    const WARM_UP: usize = 1000;

    fn new(_: &A, _: usize, _: usize) -> Self {
        Pair
    }

    #[inline(always)]
    fn turn(&mut self, heap: &A) {
        // SAFETY: no size here is near the largest, and the alignment is a power of two.
        let layout = black_box(unsafe { Layout::from_size_align_unchecked(SIZE, size_of::<u64>()) });
        // SAFETY: the layout has a size.
        let memory = unsafe { heap.alloc(layout) };
        assert!(!memory.is_null(), "no memory for a pair");
        // SAFETY: the memory is ours, and aligned for words; it is freed once, with its layout.
        unsafe {
            memory.cast::<u64>().write(1);
            heap.dealloc(black_box(memory), layout);
        }
    }

    fn end(self, _: &A) {}
}

/// Objects in a batch.
const BATCH: usize = 512;

/// A batch of 64 bytes each: all are allocated and written to, then all are freed in the same order.
pub(super) struct Batch([Option<Object>; BATCH]);

impl<A: Subject> Work<A> for Batch {
    const OPERATIONS: usize = BATCH;
    const WARM_UP: usize = 16;

    fn new(_: &A, _: usize, _: usize) -> Self {
        Batch([None; BATCH])
    }

    #[inline(always)]
    fn turn(&mut self, heap: &A) {
        for place in &mut self.0 {
            *place = Some(Object::new(heap, black_box(64)));
        }
        for object in black_box(&mut self.0).iter_mut().filter_map(Option::take) {
            object.free(heap);
        }
    }

    fn end(self, _: &A) {}
}

/// A vector that grows from 64 bytes to 1 MiB by doubling, written to at its end, and is freed.
pub(super) struct Growth;

impl<A: Subject> Work<A> for Growth {
    const OPERATIONS: usize = 1;
    const WARM_UP: usize = 4;

    fn new(_: &A, _: usize, _: usize) -> Self {
        Growth
    }

    #[inline(always)]
    fn turn(&mut self, heap: &A) {
        let Object { mut memory, mut layout } = Object::new(heap, 64);
        while layout.size() < 1 << 20 {
            let size = 2 * layout.size();
            // SAFETY: the memory is ours, with this layout, and the size is far from the largest.
            unsafe {
                memory = heap.realloc(memory, layout, size);
                assert!(!memory.is_null(), "{}: no memory to grow", A::NAME);
                layout = Layout::from_size_align_unchecked(size, layout.align());
                memory.add(size - 1).write(1);
            }
        }
        Object { memory, layout }.free(heap);
    }

    fn end(self, _: &A) {}
}

/// A zeroed allocation of `SIZE` bytes, a write to each of its pages, and the free.
pub(super) struct Zeroed<const SIZE: usize>;

impl<A: Subject, const SIZE: usize> Work<A> for Zeroed<SIZE> {
    const OPERATIONS: usize = 1;
    const WARM_UP: usize = 16;

    fn new(_: &A, _: usize, _: usize) -> Self {
        Zeroed
    }

    #[inline(always)]
    fn turn(&mut self, heap: &A) {
        // SAFETY: as in `Pair`.
        let layout = black_box(unsafe { Layout::from_size_align_unchecked(SIZE, size_of::<u64>()) });
        // SAFETY: the layout has a size.
        let memory = unsafe { heap.alloc_zeroed(layout) };
        assert!(!memory.is_null(), "no zeroed memory");
        for page in (0..SIZE).step_by(4096) {
            // SAFETY: the byte is inside the memory, which is ours.
            unsafe { memory.add(page).write(1) };
        }
        Object { memory: black_box(memory), layout }.free(heap);
    }

    fn end(self, _: &A) {}
}
