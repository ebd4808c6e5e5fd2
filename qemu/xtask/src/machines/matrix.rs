//! `cargo xtask matrix`: one scenario on many machines.

use std::path::PathBuf;

use super::boot::unnoticed;
use super::kernel::{Kernel, Variant};
use crate::cli::{Accelerator, EmulationOptions, MatrixArgs, ScenarioOptions};
use crate::error::Error;
use crate::qemu::{self, Job};
use crate::report::{self, Document, Finished, Screen};
use crate::run::description::{describe, environment};
use crate::tools::{self, Tool};
use crate::topology::{self, TopologySpec};
use crate::workspace;

/// How machines are run when nothing else is asked for.
pub(crate) const PLAIN_EMULATION: EmulationOptions =
    EmulationOptions { gdb: false, icount: false, accel: Accelerator::Tcg, apic: None };

/// Runs all machines, one line each, and a tally. Did all succeed?
pub(crate) fn matrix(arguments: &MatrixArgs) -> Result<bool, Error> {
    let specs = specs(&arguments.topologies)?;
    tools::ensure(&[Tool::KernelTarget, Tool::Qemu])?;
    let kernel = Kernel::build(Variant::of(&arguments.scenario))?;
    let mut documents = Vec::new();
    let mut failed = 0;
    for spec in &specs {
        let (mut finished, lines) = run_one(&kernel, spec, &arguments.scenario, PLAIN_EMULATION)?;
        finished.failures.extend(unnoticed(&arguments.scenario, &finished));
        println!("{}", outcome_line(spec, &finished));
        if !finished.succeeded() {
            failed += 1;
            lines.iter().chain(&report::summary(&finished)).for_each(|line| println!("    {line}"));
        }
        let description = describe("matrix", spec, &arguments.scenario, PLAIN_EMULATION);
        documents
            .push((spec.name.clone(), Document::new(description, &arguments.scenario.scenario, &finished)?));
    }
    if let Some(path) = &arguments.json {
        report::write(path, &Document::of_runs(environment("matrix"), documents))?;
    }
    println!("{} passed, {failed} failed", specs.len() - failed);
    Ok(failed == 0)
}

/// The machines asked for, or all of the project's, by name.
fn specs(paths: &[PathBuf]) -> Result<Vec<TopologySpec>, Error> {
    let root = workspace::root();
    let mut paths = paths.to_vec();
    if paths.is_empty() {
        let folder = topology::folder(root);
        let entries = std::fs::read_dir(&folder).map_err(Error::file(&folder))?;
        paths.extend(entries.flatten().map(|entry| entry.path()));
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
        paths.sort();
    }
    paths.iter().map(|path| Ok(topology::load(root, path)?)).collect()
}

/// Runs one machine, showing only progress; the other lines come back.
pub(crate) fn run_one(
    kernel: &Kernel,
    spec: &TopologySpec,
    scenario: &ScenarioOptions,
    emulation: EmulationOptions,
) -> Result<(Finished, Vec<String>), Error> {
    let mut screen = Screen::capturing(format!("{:<18}", spec.name));
    let finished = qemu::run(Job { kernel, spec, scenario, words: "", emulation }, &mut screen)?;
    Ok((finished, screen.into_lines()))
}

/// A run in one line.
pub(crate) fn outcome_line(spec: &TopologySpec, run: &Finished) -> String {
    format!(
        "{:<18} {:<6} {:>2} nodes {:>3} CPUs {:>6}  {:>9} frames  {:>8} shootdowns  {:>5.1} s",
        spec.name,
        if run.succeeded() { "ok" } else { "FAILED" },
        spec.nodes.len(),
        spec.cpu_count(),
        spec.memory().to_string(),
        run.frames_allocated(),
        run.shootdowns(),
        run.duration.as_secs_f64(),
    )
}
