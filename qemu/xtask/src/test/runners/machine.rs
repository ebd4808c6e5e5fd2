//! A step that is a run of a scenario: of the kernel under QEMU, or simulated.

use crate::test::Outcome;
use std::path::Path;

use crate::error::Error;
use crate::machines::kernel::Kernel;
use crate::machines::matrix::{outcome_line, run_one};
use crate::machines::sim;
use crate::report::{self, Finished, Screen};
use crate::test::steps::{Expected, MachineRun};
use crate::test::tally::Tally;
use crate::topology::{self, TopologySpec};
use crate::workspace;

/// Boots the kernel on the machine; it passes if the run ends as expected.
pub(in crate::test) fn boot(step: &MachineRun, kernel: &Kernel) -> Result<Outcome, Error> {
    let spec = topology::load(workspace::root(), step.topology.as_ref())?;
    let (finished, output) = run_one(kernel, &spec, &step.scenario, step.emulation)?;
    Ok(judge(step, &spec, &finished, output))
}

/// Simulates the machine; it passes if the run ends as expected.
pub(in crate::test) fn simulate(step: &MachineRun, program: &Path) -> Result<Outcome, Error> {
    let spec = topology::load(workspace::root(), step.topology.as_ref())?;
    let mut screen = Screen::capturing(format!("{:<18}", spec.name));
    let finished = sim::run(program, &spec, &step.scenario, &mut screen)?;
    Ok(judge(step, &spec, &finished, screen.into_lines()))
}

fn judge(step: &MachineRun, spec: &TopologySpec, finished: &Finished, mut output: Vec<String>) -> Outcome {
    output.extend(report::summary(finished));
    if step.expected == Expected::Success {
        println!("    {}", outcome_line(spec, finished));
    }
    for failure in &finished.failures {
        println!("    seen: {}; {}", failure.what, failure.place);
    }
    match objection(step.expected, finished) {
        None => Outcome { tally: Tally::PASSED, output },
        Some(objection) => {
            output.push(objection);
            Outcome { tally: Tally::FAILED, output }
        }
    }
}

/// What is wrong with the way in which the run ended.
fn objection(expected: Expected, run: &Finished) -> Option<String> {
    let says = |words: &[&str]| {
        run.failures.iter().any(|failure| words.iter().any(|word| failure.what.to_lowercase().contains(word)))
    };
    match expected {
        Expected::Success if run.succeeded() => None,
        Expected::Success => Some("the run failed".to_owned()),
        Expected::Failure(words) | Expected::Crash(words) if !says(words) => {
            Some(format!("no failure that says any of: {}", words.join(", ")))
        }
        Expected::Failure(_) => None,
        Expected::Crash(_) => {
            let symbolised = |line: &String| line.contains("(qemu/kernel/src/");
            let found = run.backtraces.iter().flatten().any(symbolised);
            (!found).then(|| "no backtrace that names a function of the kernel".to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::run::record::Failure;

    fn finished(what: &[&str], backtrace: &[&str]) -> Finished {
        Finished {
            topology: None,
            nodes: Vec::new(),
            cpus: Vec::new(),
            results: Vec::new(),
            distributions: Vec::new(),
            absent: Vec::new(),
            left_out: Vec::new(),
            failures: what.iter().map(|what| Failure::new(*what, "CPU 0")).collect(),
            backtraces: vec![backtrace.iter().map(|&line| line.to_owned()).collect()],
            tables: Vec::new(),
            command: None,
            duration: Duration::ZERO,
        }
    }

    #[test]
    fn a_run_must_end_as_expected() {
        let (stale, none) = (finished(&["Stale translation"], &[]), finished(&[], &[]));
        assert_eq!(objection(Expected::Success, &none), None);
        assert!(objection(Expected::Success, &stale).is_some());
        assert_eq!(objection(Expected::Failure(&["stale"]), &stale), None);
        assert!(objection(Expected::Failure(&["twice"]), &stale).is_some());
        assert!(objection(Expected::Failure(&["stale"]), &none).is_some());
    }

    #[test]
    fn a_crash_must_come_with_a_symbolised_backtrace() {
        let crash = Expected::Crash(&["page fault"]);
        let symbolised = "  0: 0xffffffff80001000 kernel::main (qemu/kernel/src/main.rs:10)";
        assert_eq!(objection(crash, &finished(&["panic: page fault at 0x0"], &[symbolised])), None);
        assert!(
            objection(crash, &finished(&["panic: page fault at 0x0"], &["  0: 0xffffffff80001000 ?"]))
                .is_some()
        );
        assert!(objection(crash, &finished(&["panic: other"], &[symbolised])).is_some());
    }
}
