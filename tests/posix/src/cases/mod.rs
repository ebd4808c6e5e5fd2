//! Cases with known answers.
//!
//! A case is a short log, and what each of its steps must answer. The answers are Linux's, as asked on
//! 6.18; where an older version answers otherwise, the case depends on the [`Rules`].

mod advice;
mod bugs;
mod build;
mod corners;
mod files;

use std::fmt;

pub use bugs::bug_cases;
pub use build::Expected;
use build::Line;
pub use corners::corner_cases;

use crate::compare::answer::Answer;
use crate::compare::rules::Rules;
use crate::compare::system::{Broken, System};
use crate::log::operation::ProcessId;
use crate::log::{Log, Step};

/// A log whose answers are known.
#[derive(Debug, Clone)]
pub struct Case {
    /// What it shows.
    pub name: &'static str,
    /// The steps.
    pub log: Log,
    /// What each step must answer.
    pub expected: Vec<Expected>,
}

/// Why a system does not answer as a case expects.
#[derive(Debug)]
pub enum Wrong {
    /// A step has another answer.
    Answer {
        /// The case.
        case: &'static str,
        /// The step.
        step: Step,
        /// What was expected.
        expected: Expected,
        /// What came instead.
        seen: Option<Answer>,
    },
    /// The system did not get to the end.
    Broken(&'static str, Broken),
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Wrong::Answer { case, step, expected, seen } => {
                write!(f, "{case}: {step:?} must give {expected:?}, not {seen:?}")
            }
            Wrong::Broken(case, broken) => write!(f, "{case}: {broken}"),
        }
    }
}

impl Case {
    fn new(name: &'static str, lines: impl IntoIterator<Item = Line>) -> Case {
        let (steps, expected) = lines
            .into_iter()
            .map(|Line(process, operation, expected)| (Step(ProcessId(process), operation), expected))
            .unzip();
        Case { name, log: Log { steps }, expected }
    }

    /// Runs the case on a system.
    ///
    /// # Errors
    ///
    /// [`Wrong`] at the first step that has another answer than expected.
    pub fn check(&self, system: &mut dyn System) -> Result<(), Box<Wrong>> {
        let trace =
            system.run(&self.log.closed()).map_err(|broken| Box::new(Wrong::Broken(self.name, broken)))?;
        for (index, (&step, &expected)) in self.log.steps.iter().zip(&self.expected).enumerate() {
            let seen = trace.answers.iter().find(|(step, _)| *step == index).map(|(_, answer)| *answer);
            if !seen.is_some_and(|answer| expected.allows(answer, trace.layout)) {
                return Err(Box::new(Wrong::Answer { case: self.name, step, expected, seen }));
            }
        }
        Ok(())
    }
}

/// Returns all cases, for a system that follows `rules`.
pub fn all(rules: &Rules) -> Vec<Case> {
    let mut cases = corner_cases(rules);
    cases.extend(bug_cases(rules));
    cases
}
