//! Logs of operations, and their text form.

mod at;
pub mod generate;
pub mod operation;
pub mod shrink;
pub mod slots;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::log::operation::{Operation, ProcessId};

/// The most processes of a log.
pub const PROCESSES: usize = 8;

/// An operation and the process that does it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step(pub ProcessId, pub Operation);

/// Operations in the order in which they are done, whichever processes do them.
///
/// The text form has one line of JSON for each step. Lines that begin with `#` are comments.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Log {
    /// The steps.
    pub steps: Vec<Step>,
}

impl Log {
    /// Returns the log of one process that does `operations`.
    pub fn of(operations: impl IntoIterator<Item = Operation>) -> Log {
        Log { steps: operations.into_iter().map(|operation| Step(ProcessId::FIRST, operation)).collect() }
    }

    /// Returns the log without the steps of processes that do not exist when their turn comes, and
    /// with an inspection by each process that is left at the end.
    ///
    /// So any part of a log is a log.
    #[must_use]
    pub fn closed(&self) -> Log {
        let mut known = [false; PROCESSES];
        let mut alive = [false; PROCESSES];
        known[0] = true;
        alive[0] = true;
        let mut steps = Vec::with_capacity(self.steps.len() + 1);
        for &step in &self.steps {
            let Step(ProcessId(by), operation) = step;
            if !alive.get(usize::from(by)).is_some_and(|&alive| alive) {
                continue;
            }
            match operation {
                Operation::Fork(ProcessId(child)) => match known.get_mut(usize::from(child)) {
                    Some(known) if !*known => {
                        *known = true;
                        alive[usize::from(child)] = true;
                    }
                    _ => continue,
                },
                Operation::Exit => alive[usize::from(by)] = false,
                _ => {}
            }
            steps.push(step);
        }
        let left = (0..PROCESSES).filter(|&process| alive[process]);
        steps.extend(left.map(|process| Step(ProcessId(process as u8), Operation::Inspect)));
        Log { steps }
    }
}

impl fmt::Display for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.steps {
            let line = serde_json::to_string(step).map_err(|_| fmt::Error)?;
            writeln!(f, "{line}")?;
        }
        Ok(())
    }
}

impl FromStr for Log {
    type Err = serde_json::Error;

    fn from_str(text: &str) -> Result<Log, serde_json::Error> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        Ok(Log { steps: lines.map(serde_json::from_str).collect::<Result<_, _>>()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::generate::Generator;

    #[test]
    fn any_log_can_be_printed_and_given_back() {
        for seed in 0..50 {
            let log = Generator::new(seed).log();
            assert_eq!(log.to_string().parse::<Log>().unwrap(), log);
        }
    }

    #[test]
    fn steps_of_absent_processes_are_left_out() {
        let absent = Step(ProcessId(3), Operation::Inspect);
        let fork = Step(ProcessId(0), Operation::Fork(ProcessId(3)));
        let exit = Step(ProcessId(3), Operation::Exit);
        let last = Step(ProcessId(0), Operation::Inspect);
        let log = Log { steps: vec![absent, fork, fork, absent, exit, absent] };
        assert_eq!(log.closed().steps, [fork, absent, exit, last]);
    }
}
