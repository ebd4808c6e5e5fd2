//! `cargo xtask sim`: the same scenario on the host, on a simulated machine.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::boot::conclude;
use crate::cli::{Accelerator, Levels, RunArgs, ScenarioOptions};
use crate::error::Error;
use crate::report::{Finished, Report, Screen};
use crate::run::session::{self, Limits};
use crate::run::verdict;
use crate::shell;
use crate::sim_job::{SimJob, SimNode};
use crate::topology::{TopologySpec, physical_ranges};
use crate::workspace;

const PROGRAM: &str = "topomem-sim";

/// Runs the scenario on a simulated machine, and shows what came of it. Did it succeed?
pub(crate) fn sim(arguments: &RunArgs) -> Result<bool, Error> {
    let emulation = arguments.emulation;
    for (option, given) in [
        ("--gdb", emulation.gdb),
        ("--icount", emulation.icount),
        ("--apic", emulation.apic.is_some()),
        ("--accel kvm", emulation.accel == Accelerator::Kvm),
        ("--module", arguments.scenario.module.is_some()),
        ("--levels 5", arguments.scenario.levels == Levels::Five),
    ] {
        if given {
            return Err(Error::OnlyUnderQemu(option));
        }
    }
    let spec = arguments.machine.spec(workspace::root())?;
    let program = build()?;
    let mut screen = Screen::open();
    screen.line(&format!("simulated machine: {}", spec.name));
    for left_out in left_out(&spec) {
        screen.line(&format!("left out, as the simulation has none: {left_out}"));
    }
    let finished = run(&program, &spec, &arguments.scenario, &mut screen)?;
    conclude("sim", arguments, &spec, finished, &mut screen)
}

/// Builds the program that simulates, optimised.
pub(crate) fn build() -> Result<PathBuf, Error> {
    let folder = workspace::target_folder();
    let mut command = Command::new("cargo");
    command.current_dir(workspace::root()).args(["build", "--release", "--package", PROGRAM]);
    command.arg("--target-dir").arg(&folder);
    shell::run(&mut command)?;
    Ok(folder.join("release").join(PROGRAM))
}

/// Runs the program and follows it to its end.
pub(crate) fn run(
    program: &Path,
    spec: &TopologySpec,
    scenario: &ScenarioOptions,
    screen: &mut Screen,
) -> Result<Finished, Error> {
    let mut command = Command::new(program);
    command.arg(serde_json::to_string(&job(spec, scenario)).map_err(Error::Json)?);
    let typed = shell::typed(&command);
    let total = Duration::from_secs(u64::from(scenario.seconds)) * 4 + Duration::from_secs(120);
    let limits = Limits { silence: Duration::from_secs(30), total };
    let mut report = Report::new(None);
    let end = session::run(command, Some(limits), &mut |line| report.line(line, screen), &mut || {})?;
    end.complaints.iter().for_each(|complaint| screen.line(complaint));
    // The simulated machine has less than the description.
    let simulated = TopologySpec { hmat: None, hotplug: None, cxl: Vec::new(), ..spec.clone() };
    let failures = verdict::failures(&simulated, scenario, None, &report, &end);
    Ok(Finished { command: Some(typed), ..report.finish(failures, end.duration) })
}

fn job(spec: &TopologySpec, scenario: &ScenarioOptions) -> SimJob {
    let mut nodes: Vec<SimNode> =
        spec.nodes.iter().map(|node| SimNode { cpus: node.cpus.clone(), ranges: Vec::new() }).collect();
    for (node, start, end) in physical_ranges(spec) {
        nodes[node].ranges.push((start, end));
    }
    SimJob {
        nodes,
        distances: spec.distances.clone(),
        scenario: scenario.scenario.clone(),
        milliseconds: u64::from(scenario.seconds) * 1000,
        seed: scenario.seed,
        fault: scenario.fault.clone(),
        tlb: scenario.tlb.map(|tlb| tlb.name().to_owned()),
    }
}

fn left_out(spec: &TopologySpec) -> Vec<&'static str> {
    let parts = [
        ("memory attributes (HMAT)", spec.hmat.is_some()),
        ("hot-pluggable memory", spec.hotplug.is_some()),
        ("CXL windows", !spec.cxl.is_empty()),
    ];
    parts.into_iter().filter(|(_, there)| *there).map(|(part, _)| part).collect()
}
