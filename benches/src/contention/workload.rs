//! What each CPU does with the frames.

use std::cell::RefCell;
use std::rc::Rc;

use super::machine::count;
use super::subjects::Shared;
use crate::random::Random;

/// The longest burst of allocs or frees.
const BURST: usize = 64;

/// Frames that a CPU holds at most, less a burst; half as many to begin with. They lie in many more
/// words than a magazine remembers.
const HELD: usize = 4096;

/// One freed frame in so many is freed by another CPU.
const PASSED: usize = 8;

/// A CPU between two calls of [`Worker::work`].
pub(super) struct Worker {
    cpu: usize,
    random: Random,
    held: Vec<u64>,
}

/// Frames on their way to the CPU that will free them, by its number. They are handed over
/// without a step: how is the kernel's business.
pub(super) type Inboxes = Rc<RefCell<Vec<Vec<u64>>>>;

impl Worker {
    pub(super) fn new(cpu: usize, seed: u64) -> Worker {
        Worker { cpu, random: Random::new(seed << 8 | cpu as u64), held: Vec::new() }
    }

    /// Takes its first frames; no steps.
    pub(super) fn fill(&mut self, subject: &dyn Shared) {
        while self.held.len() < HELD / 2 {
            self.alloc(subject);
        }
    }

    /// `bursts` bursts of allocs, or of frees of frames drawn at random, as a coin decides. One
    /// freed frame in eight goes to a CPU drawn at random, which frees it before its next burst.
    pub(super) fn work(&mut self, subject: &dyn Shared, inboxes: &Inboxes, bursts: usize) {
        let cpus = inboxes.borrow().len();
        for _ in 0..bursts {
            let passed = std::mem::take(&mut inboxes.borrow_mut()[self.cpu]);
            passed.into_iter().for_each(|frame| self.free(subject, frame));
            let burst = 1 + self.random.below(BURST);
            if self.held.len() < HELD && (self.held.len() < BURST || self.random.below(2) == 0) {
                (0..burst).for_each(|_| self.alloc(subject));
                continue;
            }
            for _ in 0..burst.min(self.held.len()) {
                let frame = self.held.swap_remove(self.random.below(self.held.len()));
                if self.random.below(PASSED) == 0 {
                    inboxes.borrow_mut()[self.random.below(cpus)].push(frame);
                } else {
                    self.free(subject, frame);
                }
            }
        }
    }

    fn alloc(&mut self, subject: &dyn Shared) {
        count(|counts| counts.operations += 1);
        match subject.alloc(self.cpu) {
            Some(frame) => self.held.push(frame),
            None => panic!("exhausted with {} held", self.held.len()),
        }
    }

    fn free(&self, subject: &dyn Shared, frame: u64) {
        count(|counts| counts.operations += 1);
        subject.free(self.cpu, frame);
    }
}
