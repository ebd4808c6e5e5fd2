//! Work over many live objects.

use super::subject::Subject;
use super::work::{Object, Work};
use crate::random::Random;

/// Objects of all threads that live at a time.
pub(super) const LIVE: usize = 100_000;

/// A size from 16 bytes to 4 KiB, each as likely as another, by 16 random bits.
#[inline(always)]
pub(super) fn mixed(bits: u64) -> usize {
    16 + ((((bits & 0xffff) * 4081) >> 16) as usize)
}

/// Objects of a thread, of which random ones are replaced.
pub(super) struct Live {
    pub objects: Vec<Object>,
    random: Random,
}

impl Live {
    /// As many objects as `objects` has room for, of sizes by `size`, just allocated.
    pub(super) fn fill<A: Subject>(
        heap: &A,
        cpu: usize,
        mut objects: Vec<Object>,
        size: impl Fn(u64) -> usize,
    ) -> Live {
        let mut random = Random::new(3 + cpu as u64);
        let count = objects.capacity();
        objects.extend((0..count).map(|_| Object::new(heap, size(random.next_u64()))));
        Live { objects, random }
    }

    /// Frees an object, and allocates another, which it returns.
    #[inline(always)]
    pub(super) fn replace<A: Subject>(&mut self, heap: &A, size: impl Fn(u64) -> usize) -> Object {
        let bits = self.random.next_u64();
        // The upper half says which, the lower half how large; no division.
        let index = ((bits >> 32) * self.objects.len() as u64) >> 32;
        let place = &mut self.objects[index as usize];
        place.free(heap);
        *place = Object::new(heap, size(bits & 0xffff_ffff));
        *place
    }

    /// Frees all objects from the one numbered `first` on, in an order that has nothing to do with where
    /// they are.
    pub(super) fn free_from<A: Subject>(&mut self, heap: &A, first: usize) {
        self.random.shuffle(&mut self.objects);
        self.objects.drain(first..).for_each(|object| object.free(heap));
    }
}

/// A free and an allocation among [`LIVE`] objects of mixed sizes.
pub(super) struct Churn(Live);

impl<A: Subject> Work<A> for Churn {
    const OPERATIONS: usize = 1;
    const WARM_UP: usize = LIVE;

    fn new(heap: &A, cpu: usize, cpus: usize) -> Self {
        Churn(Live::fill(heap, cpu, Vec::with_capacity(LIVE / cpus), mixed))
    }

    #[inline(always)]
    fn turn(&mut self, heap: &A) {
        self.0.replace(heap, mixed);
    }

    fn end(mut self, heap: &A) {
        self.0.free_from(heap, 0);
    }
}

/// Large objects of a thread that live at a time.
const LARGE: usize = 64;

/// A free and an allocation of 32 KiB among [`LARGE`] objects of that size on each thread.
pub(super) struct LargeChurn(Live);

impl<A: Subject> Work<A> for LargeChurn {
    const OPERATIONS: usize = 1;
    const WARM_UP: usize = 16 * LARGE;

    fn new(heap: &A, cpu: usize, _: usize) -> Self {
        LargeChurn(Live::fill(heap, cpu, Vec::with_capacity(LARGE), |_| 32 << 10))
    }

    #[inline(always)]
    fn turn(&mut self, heap: &A) {
        self.0.replace(heap, |_| 32 << 10);
    }

    fn end(mut self, heap: &A) {
        self.0.free_from(heap, 0);
    }
}
