//! Did the run succeed? The kernel's word and QEMU's status must both say so, and agree.

use crate::record::Failure;
use crate::report::Report;
use crate::topology::TopologySpec;

use super::session::{Ended, SessionEnd};

/// QEMU's status is `2 * value + 1` for what the kernel writes to `isa-debug-exit`.
const SUCCESS: i32 = 2 * 0x10 + 1;
const FAILURES_FOUND: i32 = 2 * 0x11 + 1;
const PANICKED: i32 = 2 * 0x12 + 1;

/// Failures that the kernel didn't report itself.
pub(super) fn failures(spec: &TopologySpec, report: &Report, end: &SessionEnd) -> Vec<Failure> {
    let last_line = || match &end.last_line {
        Some(line) => format!("last line: {line}"),
        None => "no output at all".to_owned(),
    };
    let mut failures = Vec::new();
    let status = match end.ended {
        Ended::Silent(limit) => {
            failures.push(Failure::new(
                format!("the kernel said nothing for {} s", limit.as_secs()),
                last_line(),
            ));
            return failures;
        }
        Ended::Overran(limit) => {
            failures.push(Failure::new(format!("no end after {} s", limit.as_secs()), last_line()));
            return failures;
        }
        Ended::Exited(status) => status,
    };
    let found_some = report.failures().next().is_some();
    match (status.code(), report.ended_ok()) {
        (Some(SUCCESS), Some(true)) => {}
        (Some(FAILURES_FOUND), Some(false)) | (Some(PANICKED), _) if found_some => {}
        (Some(SUCCESS | FAILURES_FOUND | PANICKED), None) => {
            failures.push(Failure::new("the kernel ended without its last record", last_line()));
        }
        (Some(SUCCESS), Some(false)) => {
            failures.push(Failure::new("the kernel reported failure, but exited with success", last_line()));
        }
        (Some(FAILURES_FOUND | PANICKED), _) => {
            failures.push(Failure::new("the kernel failed without saying at what", last_line()));
        }
        _ => {
            let complaint = end.complaints.last().map(|line| format!("QEMU: {line}"));
            failures
                .push(Failure::new(format!("QEMU ended with {status}"), complaint.unwrap_or_else(last_line)));
        }
    }
    failures.extend(topology_failures(spec, report));
    failures
}

/// What the kernel discovered must be the machine that was asked for.
fn topology_failures(spec: &TopologySpec, report: &Report) -> Vec<Failure> {
    let Some(topology) = report.topology() else {
        let untold = Failure::new("the kernel did not tell the topology", "topology");
        // A kernel that failed may have had no time to.
        return if report.ended_ok() == Some(true) { vec![untold] } else { Vec::new() };
    };
    let mut failures = Vec::new();
    // Windows for CXL memory are nodes that the machine's own nodes don't include.
    let windows = spec.cxl.len();
    let (found, there) = (topology.nodes.len(), spec.nodes.len());
    if found < there || found > there + windows {
        failures
            .push(Failure::new(format!("{found} nodes discovered, but the machine has {there}"), "topology"));
        return failures;
    }
    for (index, node) in spec.nodes.iter().enumerate() {
        let Some(discovered) = topology.nodes.get(index) else { continue };
        if discovered.cpus.len() != node.cpus.len() {
            let what =
                format!("{} CPUs discovered on node {index}, not {}", discovered.cpus.len(), node.cpus.len());
            failures.push(Failure::new(what, "topology"));
        }
    }
    for (from, row) in spec.distances.iter().enumerate() {
        for (to, &distance) in row.iter().enumerate() {
            let discovered = topology.distances.get(from).and_then(|row| row.get(to));
            if discovered.is_some_and(|&discovered| discovered != distance) {
                let what = format!("distance {discovered:?} from node {from} to node {to}, not {distance}");
                failures.push(Failure::new(what, "topology"));
            }
        }
    }
    failures
}
