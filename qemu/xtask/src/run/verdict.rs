//! Did the run succeed? The last record and the status must both say so, and agree.

mod machine;

use super::record::Failure;
use crate::cli::ScenarioOptions;
use crate::qemu::Apic;
use crate::report::Report;
use crate::topology::TopologySpec;

use super::session::{Ended, SessionEnd};

const SUCCESS: i32 = crate::sim_job::SUCCESS as i32;
const FAILURES_FOUND: i32 = crate::sim_job::FAILURES_FOUND as i32;
/// The kernel wrote 0x12 to `isa-debug-exit`.
const PANICKED: i32 = 2 * 0x12 + 1;

/// Failures that the kernel didn't report itself. `apic` is how the machine's local APICs are driven; a simulated
/// machine has none.
pub(crate) fn failures(
    spec: &TopologySpec,
    scenario: &ScenarioOptions,
    apic: Option<Apic>,
    report: &Report<'_>,
    end: &SessionEnd,
) -> Vec<Failure> {
    let last_line = || match &end.last_line {
        Some(line) => format!("last line: {line}"),
        None => "no output at all".to_owned(),
    };
    let mut failures = Vec::new();
    let status = match end.ended {
        Ended::Silent(limit) => {
            failures.push(Failure::new(format!("nothing was said for {} s", limit.as_secs()), last_line()));
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
            failures.push(Failure::new("it ended without its last record", last_line()));
        }
        (Some(SUCCESS), Some(false)) => {
            failures.push(Failure::new("it reported failure, but exited with success", last_line()));
        }
        (Some(FAILURES_FOUND | PANICKED), _) => {
            failures.push(Failure::new("it failed without saying at what", last_line()));
        }
        _ => {
            let complaint = end.complaints.last().cloned();
            failures
                .push(Failure::new(format!("it ended with {status}"), complaint.unwrap_or_else(last_line)));
        }
    }
    // A fault may be in the very tables; whether it is seen is up to the oracle.
    if scenario.fault.is_none() {
        failures.extend(topology_failures(spec, report));
    }
    if let Some(apic) = apic {
        failures.extend(running_failures(spec, apic, report));
    }
    failures
}

/// All CPUs of the machine must run, and their local APICs be driven as the machine's are.
fn running_failures(spec: &TopologySpec, apic: Apic, report: &Report<'_>) -> Vec<Failure> {
    let mut found = Vec::new();
    match report.running() {
        Some(running) => {
            if running.cpus != spec.cpu_count() {
                found.push(format!("{} CPUs run, of {}", running.cpus, spec.cpu_count()));
            }
            if running.apic != apic.name() {
                found.push(format!("the local APICs are driven by {}, not {}", running.apic, apic.name()));
            }
        }
        // A kernel that failed may have had no time to.
        None if report.ended_ok() == Some(true) => found.push("it did not tell what runs".to_owned()),
        None => {}
    }
    found.into_iter().map(|what| Failure::new(what, "boot")).collect()
}

/// What the kernel discovered must be the machine that was asked for.
fn topology_failures(spec: &TopologySpec, report: &Report<'_>) -> Vec<Failure> {
    let Some(topology) = report.topology() else {
        let untold = Failure::new("it did not tell the topology", "topology");
        // A kernel that failed may have had no time to.
        return if report.ended_ok() == Some(true) { vec![untold] } else { Vec::new() };
    };
    machine::differences(spec, topology).into_iter().map(|what| Failure::new(what, "topology")).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;
    use std::time::Duration;

    use super::*;
    use crate::cli::Levels;
    use crate::report::Screen;

    const TOPOLOGY: &str = concat!(
        r#"@@{"t":"topology","nodes":["#,
        r#"{"node":0,"cpus":[0,1],"ranges":[[0,655360],[1048576,67108864]],"kinds":["Conventional","Conventional"],"#,
        r#""zones":[3000,11000,0],"bookkeeping":[["node",1048576,1052672]]},"#,
        r#"{"node":1,"cpus":[2],"ranges":[[67108864,134217728]],"kinds":["Conventional"],"zones":[0,16000,0],"#,
        r#""bookkeeping":[["node",67108864,67112960]]}"#,
        r#"],"distances":[[10,20],[20,10]]}"#,
    );
    const RUNNING: &str = r#"@@{"t":"running","cpus":3,"apic":"xapic"}"#;
    const OK: &str = r#"@@{"t":"end","ok":true}"#;
    const NOT_OK: &str = r#"@@{"t":"end","ok":false}"#;
    const STALE: &str = r#"@@{"t":"failure","what":"stale translation","where":"cpu 1"}"#;
    const PANIC: &str = r#"@@{"t":"panic","message":"no","location":"a.rs:1","cpu":0}"#;

    fn ended(ended: Ended) -> SessionEnd {
        let complaints = vec!["could not do it".to_owned()];
        SessionEnd { ended, last_line: Some("the last".to_owned()), complaints, duration: Duration::ZERO }
    }

    fn exited(code: i32) -> SessionEnd {
        ended(Ended::Exited(ExitStatus::from_raw(code << 8)))
    }

    fn machine() -> TopologySpec {
        crate::topology::parse("node = [{ cpus = [0, 1], memory = '64M' }, { cpus = [2], memory = '64M' }]")
            .unwrap()
    }

    fn scenario(fault: Option<&str>) -> ScenarioOptions {
        let fault = fault.map(str::to_owned);
        ScenarioOptions {
            scenario: "stress".to_owned(),
            seconds: 1,
            seed: 1,
            fault,
            levels: Levels::Four,
            tlb: None,
            module: None,
        }
    }

    /// What was seen from outside, besides what the kernel said.
    fn seen(lines: &[&str], end: &SessionEnd) -> Vec<String> {
        let mut report = Report::new(None);
        lines.iter().for_each(|line| report.line(line, &mut Screen::capturing("")));
        failures(&machine(), &scenario(None), Some(Apic::Xapic), &report, end)
            .into_iter()
            .map(|failure| failure.what)
            .collect()
    }

    #[test]
    fn success_needs_the_last_record_and_the_status() {
        let none: [&str; 0] = [];
        assert_eq!(seen(&[TOPOLOGY, RUNNING, OK], &exited(33)), none);
        assert_eq!(seen(&[TOPOLOGY], &exited(33)), ["it ended without its last record"]);
        assert_eq!(seen(&[RUNNING, OK], &exited(33)), ["it did not tell the topology"]);
        for status in [0, 1, 35, 37] {
            assert_eq!(seen(&[TOPOLOGY, RUNNING, OK], &exited(status)).len(), 1, "{status}");
        }
        assert_eq!(seen(&[TOPOLOGY, NOT_OK], &exited(33)).len(), 1);
    }

    #[test]
    fn all_cpus_must_run_by_the_local_apics_that_the_machine_has() {
        let fewer = RUNNING.replace("3", "2");
        assert_eq!(seen(&[TOPOLOGY, &fewer, OK], &exited(33)), ["2 CPUs run, of 3"]);
        let other = RUNNING.replace("xapic", "x2apic");
        let wrong = "the local APICs are driven by x2apic, not xapic";
        assert_eq!(seen(&[TOPOLOGY, &other, OK], &exited(33)), [wrong]);
        assert_eq!(seen(&[TOPOLOGY, OK], &exited(33)), ["it did not tell what runs"]);
    }

    #[test]
    fn what_the_kernel_reported_is_not_reported_again() {
        let none: [&str; 0] = [];
        assert_eq!(seen(&[TOPOLOGY, STALE, NOT_OK], &exited(35)), none);
        assert_eq!(seen(&[TOPOLOGY, PANIC], &exited(37)), none);
        assert_eq!(seen(&[TOPOLOGY, NOT_OK], &exited(35)), ["it failed without saying at what"]);
    }

    #[test]
    fn the_watchdog_names_the_last_line() {
        let mut report = Report::new(None);
        report.line("booting", &mut Screen::capturing(""));
        let silent = failures(
            &machine(),
            &scenario(None),
            Some(Apic::Xapic),
            &report,
            &ended(Ended::Silent(Duration::from_secs(30))),
        );
        assert_eq!(silent, [Failure::new("nothing was said for 30 s", "last line: the last")]);
    }

    #[test]
    fn the_machine_must_be_discovered_as_it_is() {
        let farther = TOPOLOGY.replace("[10,20]", "[10,21]");
        assert_eq!(
            seen(&[&farther, RUNNING, OK], &exited(33)),
            ["distance 21 from node 0 to node 1, not 20"]
        );
    }
}
