//! The instructions of an operation, and how each is reached at the least cost.

use std::cell::Cell;
use std::collections::HashMap;
use std::fmt;

use crate::run::{self, Ahead, Stop};

/// Longer operations are known up to here.
const LONGEST: usize = 1 << 20;

/// An operation, and the course of one undisturbed run of it.
///
/// That makes stops cheap: most are reached by a breakpoint of the CPU's instead of step by step.
pub struct Trace<'o> {
    /// One object for all runs: the compiler may make several copies of a closure's code.
    operation: Box<dyn FnMut() + 'o>,
    stops: Vec<Reach>,
}

/// A stop point, and the way to it.
#[derive(Debug, Clone, Copy)]
struct Reach {
    /// Address of the next instruction.
    address: usize,
    /// How often the operation has come to that address, with this time.
    hits: u64,
    /// The stop point whose breakpoint to wait for; the rest of the way is stepped.
    from: usize,
    /// How many traps that takes.
    traps: u64,
}

/// The addresses that a run has passed; the handler appends to it.
pub(crate) struct Recorder {
    addresses: Cell<Vec<usize>>,
}

impl Recorder {
    fn new() -> Recorder {
        Recorder { addresses: Cell::new(Vec::with_capacity(LONGEST)) }
    }

    /// Allocates nothing: the handler may have interrupted the host's allocator.
    pub(crate) fn record(&self, address: usize) {
        let mut addresses = self.addresses.take();
        if addresses.len() < LONGEST {
            addresses.push(address);
        }
        self.addresses.set(addresses);
    }
}

impl<'o> Trace<'o> {
    /// Runs `operation` and records its course.
    pub fn of(operation: impl FnMut() + 'o) -> Trace<'o> {
        let mut trace = Trace { operation: Box::new(operation), stops: Vec::new() };
        trace.renew();
        trace
    }

    /// Runs the operation and records its course anew.
    pub fn renew(&mut self) {
        let recorder = Recorder::new();
        run::record(&mut *self.operation, &recorder);
        let mut hits = HashMap::new();
        let mut stops: Vec<Reach> = Vec::new();
        for (index, address) in recorder.addresses.take().into_iter().enumerate() {
            let hits: &mut u64 = hits.entry(address).or_default();
            *hits += 1;
            let direct = Reach { address, hits: *hits, from: index, traps: *hits };
            let stepped = stops.last().map(|last| Reach { from: last.from, traps: last.traps + 1, ..direct });
            stops.push(stepped.filter(|stepped| stepped.traps < direct.traps).unwrap_or(direct));
        }
        self.stops = stops;
    }

    /// How many stop points there are, which is the number of instructions. A repeated string
    /// instruction counts once.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.stops.len() as u64
    }

    /// Has the operation no stop points?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.stops.is_empty()
    }

    /// How many traps it takes to reach all stop points, one after the other.
    #[must_use]
    pub fn traps(&self) -> u64 {
        self.stops.iter().map(|stop| stop.traps).sum()
    }

    /// Runs the operation again, and `nested` after its instruction number `at` (from 0).
    ///
    /// Returns where that was. The answer is `None` if the operation took another course this
    /// time and did not come there, in which case `nested` was not called.
    ///
    /// # Panics
    ///
    /// As [`stop_after`](crate::stop_after).
    pub fn stop_after(&mut self, at: u64, nested: impl FnOnce(Stop) + Send) -> Option<Stop> {
        let ahead = self.stops.get(at as usize).map(|stop| {
            let from = &self.stops[stop.from];
            Ahead { at: stop.from as u64, address: from.address, hits: from.hits }
        });
        run::stop(at, ahead, &mut *self.operation, nested)
    }
}

impl fmt::Debug for Trace<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trace").field("stops", &self.stops.len()).finish_non_exhaustive()
    }
}
