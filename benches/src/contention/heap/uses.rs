//! What each CPU does with the heap.

use std::alloc::Layout;
use std::cell::RefCell;
use std::ptr::NonNull;
use std::rc::Rc;

use topomem_percpu::sync::observed::Access;

use super::super::machine::{count, step};
use super::subjects::Objects;
use crate::random::Random;

/// A use of the heap, as all CPUs make it.
pub(super) struct Use {
    pub(super) name: &'static str,
    /// Turns of each CPU before the count begins, and in it.
    pub(super) turns: usize,
    pub(super) work: fn(&mut Worker, usize),
}

/// An object of 64 bytes is allocated and freed.
pub(super) const OWN: Use = Use { name: "own", turns: 400, work: Worker::use_own };

/// A burst of objects of 64 bytes goes to the next CPU, which is of another node and frees it.
pub(super) const PASSED: Use = Use { name: "passed", turns: 30, work: Worker::pass_on };

/// One of a few large objects is freed, in one case of eight by the next CPU, and another one allocated.
pub(super) const LARGE: Use = Use { name: "large", turns: 300, work: Worker::use_large };

/// Objects that are passed on at a time.
const BURST: usize = 32;

/// Large objects that a CPU holds.
const HELD: usize = 8;

/// Bytes of large objects.
const SIZES: [usize; 3] = [20 << 10, 32 << 10, 64 << 10];

/// One freed large object in so many is freed by another CPU.
const PASSED_LARGE: usize = 8;

/// An object and its size.
type Object = (NonNull<u8>, usize);

/// Objects on their way to the CPU that will free them, by its number. They are handed over without a step: how
/// is the program's business.
type Inboxes = Rc<RefCell<Vec<Vec<Object>>>>;

/// A CPU.
pub(super) struct Worker {
    heap: Rc<dyn Objects>,
    cpu: usize,
    inboxes: Inboxes,
    held: Vec<Object>,
    random: Random,
}

pub(super) type Shared = Rc<RefCell<Worker>>;

/// The CPUs that use `heap`.
pub(super) fn workers(heap: &Rc<dyn Objects>, cpus: usize, seed: u64) -> Vec<Shared> {
    let inboxes: Inboxes = Rc::new(RefCell::new(vec![Vec::new(); cpus]));
    let worker = |cpu| Worker {
        heap: heap.clone(),
        cpu,
        inboxes: inboxes.clone(),
        held: Vec::new(),
        random: Random::new(seed << 8 | cpu as u64),
    };
    (0..cpus).map(|cpu| Rc::new(RefCell::new(worker(cpu)))).collect()
}

impl Worker {
    fn use_own(&mut self, turns: usize) {
        for _ in 0..turns {
            let object = self.alloc(64);
            self.free(object);
        }
    }

    fn pass_on(&mut self, turns: usize) {
        for _ in 0..turns {
            for _ in 0..BURST {
                let object = self.alloc(64);
                self.pass(object);
            }
            self.free_passed();
        }
    }

    fn use_large(&mut self, turns: usize) {
        for _ in 0..turns {
            self.free_passed();
            if self.held.len() == HELD {
                let object = self.held.swap_remove(self.random.below(HELD));
                if self.random.below(PASSED_LARGE) == 0 { self.pass(object) } else { self.free(object) }
            }
            let size = SIZES[self.random.below(SIZES.len())];
            let object = self.alloc(size);
            self.held.push(object);
        }
    }

    fn alloc(&self, size: usize) -> Object {
        count(|counts| counts.operations += 1);
        let memory = self.heap.alloc(self.cpu, layout(size));
        step(Access::Store(memory.addr().get()));
        (memory, size)
    }

    fn free(&self, (memory, size): Object) {
        count(|counts| counts.operations += 1);
        step(Access::Store(memory.addr().get()));
        self.heap.free(self.cpu, memory, layout(size));
    }

    fn pass(&self, object: Object) {
        let mut inboxes = self.inboxes.borrow_mut();
        let next = (self.cpu + 1) % inboxes.len();
        inboxes[next].push(object);
    }

    fn free_passed(&self) {
        let passed = std::mem::take(&mut self.inboxes.borrow_mut()[self.cpu]);
        passed.into_iter().for_each(|object| self.free(object));
    }
}

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, 8).unwrap_or(Layout::new::<u64>())
}
