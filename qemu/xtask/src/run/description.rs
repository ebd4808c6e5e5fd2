//! What was run, with what, and where: the `run` part of the report.

use serde_json::{Map, Value, json};

use crate::cli::{Accelerator, EmulationOptions, Levels, ScenarioOptions, Tlb};
use crate::qemu::{self, Apic};
use crate::shell;
use crate::topology::TopologySpec;

/// Describes a run.
pub(crate) fn describe(
    command: &str,
    spec: &TopologySpec,
    scenario: &ScenarioOptions,
    emulation: EmulationOptions,
) -> Map<String, Value> {
    let nodes = spec.nodes.iter().map(|node| {
        let memory: Vec<u64> = node.memory.iter().map(|size| size.bytes()).collect();
        json!({"cpus": node.cpus, "memory": memory})
    });
    let mut run = environment(command);
    run.insert(
        "options".to_owned(),
        json!({
            "machine": spec.name,
            "nodes": nodes.collect::<Vec<_>>(),
            "cpus": spec.cpu_count(),
            "memory": spec.memory().bytes(),
            "distances": spec.distances,
            "scenario": scenario.scenario,
            "seconds": scenario.seconds,
            "seed": scenario.seed,
            "break": scenario.fault,
            "levels": match scenario.levels {
                Levels::Four => 4,
                Levels::Five => 5,
            },
            "tlb": scenario.tlb.map(Tlb::name),
            "icount": emulation.icount,
            "apic": emulation.apic.map(Apic::name),
            "accel": match emulation.accel {
                Accelerator::Tcg => "tcg",
                Accelerator::Kvm => "kvm",
            },
        }),
    );
    run
}

/// Describes only the command, the versions and the host.
pub(crate) fn environment(command: &str) -> Map<String, Value> {
    let changed = shell::output("git", &["status", "--porcelain", "--untracked-files=no"]);
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let mut run = Map::new();
    run.insert("command".to_owned(), command.into());
    run.insert(
        "versions".to_owned(),
        json!({
            "topomem": env!("CARGO_PKG_VERSION"),
            "commit": shell::output("git", &["rev-parse", "HEAD"]),
            "modified": changed.is_some_and(|files| !files.is_empty()),
            "rustc": shell::output("rustc", &["--version"]),
            "qemu": qemu::version_line(),
        }),
    );
    run.insert(
        "host".to_owned(),
        json!({ "system": shell::output("uname", &["-srm"]), "cpu": host_cpu(), "cpus": cpus }),
    );
    run
}

fn host_cpu() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}
