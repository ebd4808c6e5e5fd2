//! Compares a system with the model, call by call.

pub mod answer;
pub mod campaign;
pub mod coverage;
pub mod rules;
pub mod scope;
pub mod system;

use std::fmt;

use crate::compare::answer::Answer;
use crate::compare::coverage::Coverage;
use crate::compare::rules::Rules;
use crate::compare::system::{Broken, System, Trace};
use crate::log::Log;
use crate::log::slots::Slots;
use crate::model::{Model, Mutation};

/// Why a system does not agree with the model.
#[derive(Debug, Clone)]
pub struct Difference {
    /// The system's name.
    pub system: String,
    /// The log, closed.
    pub log: Log,
    /// What differs.
    pub kind: DifferenceKind,
}

/// What differs.
#[derive(Debug, Clone)]
pub enum DifferenceKind {
    /// An answer.
    Answer {
        /// The index of the step.
        step: usize,
        /// The answers of the model from the first that differs.
        expected: Vec<Answer>,
        /// The answers of the system from the first that differs.
        seen: Vec<Answer>,
    },
    /// The system did not get to the end.
    Broken(Broken),
}

impl fmt::Display for DifferenceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DifferenceKind::Broken(broken) => broken.fmt(f),
            DifferenceKind::Answer { step, expected, seen } => {
                write!(f, "step {step} has another answer than the model's")?;
                for answer in expected.iter().take(3) {
                    write!(f, "\n  model:  {answer:?}")?;
                }
                for answer in seen.iter().take(3) {
                    write!(f, "\n  system: {answer:?}")?;
                }
                Ok(())
            }
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Difference { system, log, kind } = self;
        write!(f, "{system}: {kind}\nthe log:\n{log}")
    }
}

impl std::error::Error for Difference {}

/// Runs `log` on `system` and compares each answer with the model's. Counts what was seen.
///
/// # Errors
///
/// [`Difference`] at the first answer that the model does not permit.
pub fn compare(
    system: &mut dyn System,
    log: &Log,
    mutation: Option<Mutation>,
    coverage: &mut Coverage,
) -> Result<(), Box<Difference>> {
    let log = log.closed();
    let difference =
        |system: &dyn System, kind| Box::new(Difference { system: system.name(), log: log.clone(), kind });
    let trace = system.run(&log).map_err(|broken| difference(system, DifferenceKind::Broken(broken)))?;
    judge(system.rules(), &log, &trace, mutation).map_err(|kind| difference(system, kind))?;
    coverage.add(&log, &trace);
    Ok(())
}

/// Compares the answers of a system that follows `rules` to a closed log with the model's.
///
/// # Errors
///
/// [`DifferenceKind::Answer`] at the first answer that the model does not permit.
pub fn judge(
    rules: Rules,
    log: &Log,
    trace: &Trace,
    mutation: Option<Mutation>,
) -> Result<(), DifferenceKind> {
    let mut model = Model::new(rules, trace.layout, mutation);
    let mut slots = Slots::new(trace.layout);
    let mut answers = trace.answers.iter().peekable();
    for (index, step) in log.steps.iter().enumerate() {
        let mut seen = Vec::new();
        while let Some((_, answer)) = answers.next_if(|(step, _)| *step == index) {
            seen.push(*answer);
        }
        let expected = model.expect(step, &mut slots, seen.iter().copied());
        let equal = expected.iter().zip(&seen).take_while(|(expected, seen)| expected == seen).count();
        if equal < expected.len().max(seen.len()) {
            let (expected, seen) = (expected[equal..].to_vec(), seen[equal..].to_vec());
            return Err(DifferenceKind::Answer { step: index, expected, seen });
        }
    }
    Ok(())
}
