//! The stress scenarios: one participant on each CPU, and the oracle's verdict.

extern crate alloc;

use alloc::boxed::Box;
use alloc::vec::Vec;

use topomem_stress::{Break, Limit, Options, Run, Scenario, Truth, participate};

use super::{Request, failure};
use crate::arch::exit::Outcome;
use crate::boot::command_line::CommandLine;
use crate::executor::spawn_on;
use crate::rig::Hardware;
use crate::smp::ipi;

/// Runs `scenario` on all CPUs, with `seconds=` and `seed=` of the command line, and with
/// `fault` breaking a mechanism once the operations begin.
pub(super) async fn run(scenario: &'static Scenario, fault: Option<Break>, request: &Request) -> Outcome {
    let words = CommandLine(request.start_info.command_line());
    let limit = match words.number("seconds") {
        Some(seconds) => Limit::Milliseconds(seconds.saturating_mul(1000)),
        None => scenario.limit,
    };
    let options = Options { scenario, limit, seed: words.number("seed").unwrap_or(1) };
    let Some(truth) = Truth::from_topology(request.topology, request.memory_map) else {
        failure(format_args!("no memory for the oracle's account"), "scenario");
        return Outcome::Failures;
    };
    let run = match Run::new(Hardware, truth, options) {
        // For good: the machine ends with the run.
        Ok(run) => &*Box::leak(Box::new(with_fault(run, fault))),
        Err(error) => {
            failure(format_args!("{error}"), "scenario");
            return Outcome::Failures;
        }
    };
    let mut participants = Vec::new();
    for cpu in ipi::running().iter() {
        // SAFETY: tasks of a CPU are polled on that CPU only, by its executor, and no other
        // task switches address spaces.
        match spawn_on(cpu, move || unsafe { participate(run, cpu) }) {
            Ok(task) => participants.push(task),
            Err(error) => {
                failure(format_args!("{error}"), "scenario");
                return Outcome::Failures;
            }
        }
    }
    for participant in participants {
        participant.await;
    }
    run.conclude();
    if run.failures().is_empty() { Outcome::Success } else { Outcome::Failures }
}

#[cfg(feature = "fault-injection")]
fn with_fault(run: Run<Hardware>, fault: Option<Break>) -> Run<Hardware> {
    match fault {
        Some(fault) => run.with_fault(fault),
        None => run,
    }
}

/// Without the feature there is no fault to inject: `broken::requested` has refused it.
#[cfg(not(feature = "fault-injection"))]
fn with_fault(run: Run<Hardware>, _: Option<Break>) -> Run<Hardware> {
    run
}
