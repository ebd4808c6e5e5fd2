//! Counts what logs have reached.

use std::collections::BTreeMap;
use std::fmt;

use crate::compare::answer::{Answer, Errno, Fault};
use crate::compare::system::Trace;
use crate::log::operation::{Access, Call, Operation};
use crate::log::{Log, Step};

/// What was seen, and how often.
#[derive(Debug, Clone, Default)]
pub struct Coverage {
    /// Logs.
    pub logs: u64,
    /// Steps.
    pub steps: u64,
    /// Answers that were compared.
    pub answers: u64,
    /// Calls and what they returned; `None` is success.
    pub calls: BTreeMap<(&'static str, Option<Errno>), u64>,
    /// Accesses and how they ended; `None` is success.
    pub accesses: BTreeMap<(&'static str, Option<Fault>), u64>,
    /// Advice that was taken, and the refusals.
    pub advice: BTreeMap<(crate::log::operation::Advice, Option<Errno>), u64>,
    /// Forks.
    pub forks: u64,
    /// Pages that inspections have read.
    pub pages: u64,
    /// Mappings that inspections have listed.
    pub mappings: u64,
}

impl Coverage {
    /// Adds a run.
    pub fn add(&mut self, log: &Log, trace: &Trace) {
        self.logs += 1;
        self.steps += log.steps.len() as u64;
        self.answers += trace.answers.len() as u64;
        for (index, answer) in &trace.answers {
            let Some(Step(_, operation)) = log.steps.get(*index) else { continue };
            match (operation, answer) {
                (Operation::Call(call), Answer::Returned(result)) => {
                    *self.calls.entry((call.name(), result.err())).or_default() += 1;
                    if let Call::Advise { advice, .. } = call {
                        *self.advice.entry((*advice, result.err())).or_default() += 1;
                    }
                }
                (Operation::Touch { access, .. }, Answer::Touched(result)) => {
                    let access = match access {
                        Access::Read => "read",
                        Access::Write(_) => "write",
                        Access::Execute => "execute",
                    };
                    *self.accesses.entry((access, result.err())).or_default() += 1;
                }
                (_, Answer::Mapping(_)) => self.mappings += 1,
                (_, Answer::Page { .. }) => self.pages += 1,
                (Operation::Fork(_), _) => self.forks += 1,
                _ => {}
            }
        }
    }

    /// Adds what another coverage has counted.
    pub fn merge(&mut self, other: &Coverage) {
        self.logs += other.logs;
        self.steps += other.steps;
        self.answers += other.answers;
        self.forks += other.forks;
        self.pages += other.pages;
        self.mappings += other.mappings;
        for (&key, count) in &other.calls {
            *self.calls.entry(key).or_default() += count;
        }
        for (&key, count) in &other.accesses {
            *self.accesses.entry(key).or_default() += count;
        }
        for (&key, count) in &other.advice {
            *self.advice.entry(key).or_default() += count;
        }
    }

    /// Returns how often a call returned this.
    pub fn of_call(&self, name: &'static str, error: Option<Errno>) -> u64 {
        self.calls.get(&(name, error)).copied().unwrap_or(0)
    }

    /// Returns how often an access ended like this.
    pub fn of_access(&self, name: &'static str, fault: Option<Fault>) -> u64 {
        self.accesses.get(&(name, fault)).copied().unwrap_or(0)
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Coverage { logs, steps, answers, forks, pages, mappings, .. } = self;
        writeln!(f, "{logs} logs, {steps} steps, {answers} answers compared")?;
        writeln!(f, "{forks} forks, {mappings} mappings listed, {pages} pages read")?;
        for ((name, error), count) in &self.calls {
            match error {
                None => writeln!(f, "{name:>10} {:<12} {count:>9}", "ok")?,
                Some(error) => writeln!(f, "{name:>10} {:<12} {count:>9}", format!("{error:?}"))?,
            }
        }
        for ((name, fault), count) in &self.accesses {
            match fault {
                None => writeln!(f, "{name:>10} {:<12} {count:>9}", "ok")?,
                Some(fault) => writeln!(f, "{name:>10} {:<12} {count:>9}", format!("{fault:?}"))?,
            }
        }
        for ((advice, error), count) in &self.advice {
            let result = error.map_or("ok".to_owned(), |error| format!("{error:?}"));
            writeln!(f, "{:>16} {result:<12} {count:>9}", format!("{advice:?}"))?;
        }
        Ok(())
    }
}
