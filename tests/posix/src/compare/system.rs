//! What a system under comparison implements, and how an operation is done on it.

use std::fmt;
use std::ops::Range;

use crate::compare::answer::{Answer, Errno, Fault, Listed, View};
use crate::compare::rules::Rules;
use crate::log::Log;
use crate::log::operation::{Access, Call, Operation, PAGE};
use crate::log::slots::{Layout, Slots, WINDOW_PAGES};

/// What runs logs: the host's Linux, the model, topomem on a simulated machine.
pub trait System {
    /// Returns the name for messages.
    fn name(&self) -> String;

    /// Returns the rules that the system follows where systems may differ.
    fn rules(&self) -> Rules;

    /// Returns `log` with operations that the system has in place of others.
    fn adapt(&self, log: &Log) -> Log {
        log.clone()
    }

    /// Runs `log`, which is [closed](Log::closed), in an empty process.
    ///
    /// # Errors
    ///
    /// [`Broken`] if the system did not get to the end.
    fn run(&mut self, log: &Log) -> Result<Trace, Broken>;
}

/// A process of a system.
pub trait Process {
    /// Calls the system. Breaks are distances from the heap's start.
    fn call(&mut self, call: &Call<u64>, slots: &Slots) -> Result<u64, Errno>;

    /// Accesses one byte. Returns the byte if it is read, else 0.
    fn touch(&mut self, address: u64, access: Access) -> Result<u8, Fault>;

    /// Reads a page.
    fn look(&mut self, page: u64) -> Result<View, Fault>;

    /// Reports the mappings within a range, clipped to it, in order of address. They need not be joined.
    fn list(&mut self, within: Range<u64>, report: &mut dyn FnMut(Listed));
}

/// The answers to a log.
#[derive(Debug, Clone)]
pub struct Trace {
    /// Where the system had its window and heap.
    pub layout: Layout,
    /// The answers in order, each with the index of its step.
    pub answers: Vec<(usize, Answer)>,
}

/// A run that did not get to its end.
#[derive(Debug, Clone)]
pub struct Broken {
    /// The step at which the run ended.
    pub step: usize,
    /// What happened.
    pub reason: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the run ended at step {}: {}", self.step, self.reason)
    }
}

/// Does `operation` in `process`, and reports the answers. Forks and exits are the system's own business.
pub fn execute(
    process: &mut impl Process,
    operation: &Operation,
    slots: &mut Slots,
    report: &mut dyn FnMut(Answer),
) {
    match operation {
        Operation::Call(call) => {
            let call = slots.resolve(call);
            let answer = process.call(&call, slots);
            if let Ok(address) = answer {
                slots.adopt(&call, address);
            }
            report(Answer::Returned(answer));
        }
        Operation::Touch { at, sample, access } => {
            report(Answer::Touched(process.touch(slots.address(*at) + sample.offset(), *access)));
        }
        Operation::Inspect => {
            for range in slots.ranges() {
                inspect(process, range, report);
            }
        }
        Operation::Fork(_) | Operation::Exit => report(Answer::Done),
    }
}

fn inspect(process: &mut impl Process, range: Range<u64>, report: &mut dyn FnMut(Answer)) {
    let mut run: Option<Listed> = None;
    // The pages are read after the listing: a process must not fault while it lists. No memory is
    // allocated, since the process may be one whose memory is under test.
    let mut mapped = [0_u64; (WINDOW_PAGES / 64) as usize];
    process.list(range.clone(), &mut |mapping| {
        for page in (mapping.start - range.start) / PAGE..(mapping.end - range.start) / PAGE {
            if let Some(word) = mapped.get_mut((page / 64) as usize) {
                *word |= 1 << (page % 64);
            }
        }
        let is_joined = run.as_mut().is_some_and(|run| run.join(&mapping));
        if !is_joined && let Some(run) = run.replace(mapping) {
            report(Answer::Mapping(run));
        }
    });
    if let Some(run) = run {
        report(Answer::Mapping(run));
    }
    for (index, word) in mapped.into_iter().enumerate() {
        for bit in (0..64).filter(|bit| word >> bit & 1 != 0) {
            let address = range.start + (index as u64 * 64 + bit) * PAGE;
            report(Answer::Page { address, view: process.look(address) });
        }
    }
}
