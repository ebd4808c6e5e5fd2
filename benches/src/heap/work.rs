//! What a thread does over and over, for times and for counts alike.

use std::alloc::Layout;

use super::subject::Subject;
use crate::threads::timed;

/// The work of one thread, with what it holds.
pub(super) trait Work<A: Subject>: Sized {
    /// How many operations a turn is.
    const OPERATIONS: usize;

    /// Turns before anything is measured: caches and magazines are then as in the middle of a long run.
    const WARM_UP: usize;

    /// The work of thread `cpu` of `cpus`.
    fn new(heap: &A, cpu: usize, cpus: usize) -> Self;

    /// Does it once.
    fn turn(&mut self, heap: &A);

    /// Frees what is held.
    fn end(self, heap: &A);
}

/// Memory and its layout.
#[derive(Debug, Clone, Copy)]
pub(super) struct Object {
    pub memory: *mut u8,
    pub layout: Layout,
}

// SAFETY: the memory is whose the object is.
unsafe impl Send for Object {}

impl Object {
    /// Allocates `size` bytes, and writes to the first ones.
    #[inline(always)]
    pub(super) fn new<A: Subject>(heap: &A, size: usize) -> Object {
        // SAFETY: no size here is near the largest, and the alignment is a power of two.
        let layout = unsafe { Layout::from_size_align_unchecked(size, size_of::<u64>()) };
        // SAFETY: no size here is zero.
        let memory = unsafe { heap.alloc(layout) };
        assert!(!memory.is_null(), "{}: no memory", A::NAME);
        // SAFETY: the memory is ours, a word at least, and aligned for words.
        unsafe { memory.cast::<u64>().write(1) };
        Object { memory, layout }
    }

    /// Writes to its end, too: then every page of an object of no more than a page is the process's.
    pub(super) fn touch(self) {
        // SAFETY: the byte is the last of memory that is ours.
        unsafe { self.memory.add(self.layout.size() - 1).write(1) };
    }

    /// Frees it.
    #[inline(always)]
    pub(super) fn free<A: Subject>(self, heap: &A) {
        // SAFETY: allocated by `new`; whoever frees an object forgets it.
        unsafe { heap.dealloc(self.memory, self.layout) };
    }
}

/// Nanoseconds per operation, by the slower thread.
pub(super) fn nanoseconds<A: Subject, W: Work<A>>(heap: &A, cpus: usize, turns: usize) -> f64 {
    let elapsed = timed(
        cpus,
        |cpu| {
            heap.enter(cpu);
            let mut work = W::new(heap, cpu, cpus);
            (0..W::WARM_UP).for_each(|_| work.turn(heap));
            work
        },
        |work| (0..turns).for_each(|_| work.turn(heap)),
        |work| work.end(heap),
    );
    elapsed.as_nanos() as f64 / (turns * W::OPERATIONS) as f64
}
