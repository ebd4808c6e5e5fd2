//! What each CPU pays while all of them do the same: in threads of one process, and in processes of their own.
//!
//! The operations are those that will-it-scale's tests of the same names repeat; mappings whose pages are written
//! to are smaller here, so that an emulated machine gets through. On one CPU there is one worker.

mod board;
mod operation;
mod workers;

use super::system::clock::Stopwatch;
use crate::guest::error::GuestError;
use operation::Operation;
pub(crate) use workers::Party;

/// Samples that are not counted: they bring what stays from then on.
const WARM_UP: u64 = 2;

/// A shape: what every worker repeats.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) name: &'static str,
    /// Gets ready what a worker needs.
    prepare: fn() -> Result<Operation, GuestError>,
    /// Operations of each worker in a sample.
    repeated: usize,
    /// Figures that an operation is the sum of.
    parts: usize,
    /// Of so many samples of a small case, one is taken.
    rarity: u64,
}

impl Shape {
    /// Pages of one mapping, each written to.
    const fn faults(name: &'static str, prepare: fn() -> Result<Operation, GuestError>) -> Self {
        Self { name, prepare, repeated: 1, parts: operation::TOUCHED, rarity: 3 }
    }

    /// A mapping that comes and goes.
    const fn mappings(name: &'static str, prepare: fn() -> Result<Operation, GuestError>) -> Self {
        Self { name, prepare, repeated: 16, parts: 1, rarity: 1 }
    }

    /// The figures that a sample is the sum of.
    pub(crate) const fn parts(&self) -> usize {
        self.repeated * self.parts
    }

    /// Takes about `samples` samples on `cpus` CPUs: of each the ticks of the worker that took longest.
    pub(crate) fn sample(
        &self,
        party: Party,
        cpus: usize,
        samples: u64,
        stopwatch: Stopwatch,
    ) -> Result<Vec<u64>, GuestError> {
        let samples = samples.div_ceil(self.rarity);
        let rounds = (WARM_UP + samples) as usize;
        let mut longest = workers::run(party, cpus, rounds, stopwatch, self)?;
        longest.drain(..WARM_UP as usize);
        Ok(longest)
    }
}

/// All shapes.
pub(crate) const SHAPES: [Shape; 7] = [
    Shape::faults("page_fault1", || Ok(Operation::TouchAnonymous)),
    Shape::faults("page_fault2", Operation::touch_private),
    Shape::faults("page_fault3", Operation::touch_shared),
    Shape::mappings("mmap1", || Ok(Operation::MapAnonymous)),
    Shape::mappings("mmap1_touch", || Ok(Operation::MapAndTouchOne)),
    Shape::mappings("mmap2", Operation::map_file),
    Shape { parts: 2, ..Shape::mappings("brk1", Operation::move_break) },
];
