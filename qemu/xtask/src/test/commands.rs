//! The steps that are cargo commands.

use std::process::Command;

use super::steps::{Step, Work};
use crate::tools::Tool;
use crate::workspace;

/// A cargo command whose test results count.
pub(super) struct CargoCommand {
    toolchain: Toolchain,
    arguments: Vec<&'static str>,
    variables: Vec<(&'static str, &'static str)>,
    /// Folder under cargo's own for what is built with other flags.
    target: Option<&'static str>,
    pub(super) load: Load,
}

/// What the tests of a command ask of the host.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Load {
    /// All its CPUs, or that nothing else runs, since they time something.
    Host,
    /// A CPU for most of the time: they may run beside others.
    Cpu,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Toolchain {
    Default,
    Nightly,
}

/// What Miri checks, a step each: it is slow, and one failure must not hide the others. What takes longest comes
/// first, since they run beside each other.
pub(super) const MIRI: [MiriRun; 6] = [
    MiriRun {
        name: "topomem page tables",
        selection: &["topomem", "--lib", "--", "page_table", "--skip", "concurrent", "--skip", "promote"],
    },
    MiriRun {
        name: "topomem page tables, concurrent and promoted",
        selection: &["topomem", "--lib", "--", "page_table::tests::concurrent", "page_table::tests::promote"],
    },
    MiriRun { name: "topomem-percpu", selection: &["topomem-percpu"] },
    MiriRun { name: "topomem-numa", selection: &["topomem-numa"] },
    // Without the examples, most of which boot a simulated machine each.
    MiriRun { name: "topomem", selection: &["topomem", "--lib", "--tests", "--", "--skip", "page_table"] },
    MiriRun { name: "topomem-shootdown", selection: &["topomem-shootdown"] },
];

/// Tests that Miri checks.
pub(super) struct MiriRun {
    name: &'static str,
    /// A package, and what else Cargo is told.
    selection: &'static [&'static str],
}

/// Unit, property, sim and doc tests of everything that runs on the host.
pub(super) fn host() -> Step {
    let command = CargoCommand {
        toolchain: Toolchain::Default,
        arguments: vec!["test", "--all-features", "--no-fail-fast"],
        variables: Vec::new(),
        target: None,
        load: Load::Host,
    };
    Step { name: "host".to_owned(), work: Work::Cargo(command) }
}

/// The heap's tests in a build without checks: there a free goes straight into the loaded magazine, where the
/// builds of [`host`] look for double frees first.
pub(super) fn unchecked_heap() -> Step {
    let command = CargoCommand {
        toolchain: Toolchain::Default,
        arguments: vec![
            "test",
            "--release",
            "--no-fail-fast",
            "--package",
            "topomem-percpu",
            "--lib",
            "--test",
            "heap*",
        ],
        variables: Vec::new(),
        target: None,
        load: Load::Host,
    };
    Step { name: "heap without checks".to_owned(), work: Work::Cargo(command) }
}

/// Operations stopped after each of their instructions, with other contexts there. Each program
/// prints what it did, in lines that begin with `stepped `.
pub(super) fn stepper() -> [Step; 2] {
    let step = |name: &str, selection: &[&'static str]| {
        let command = CargoCommand {
            toolchain: Toolchain::Default,
            arguments: [&["test", "--release", "--no-fail-fast"], selection, &["--", "--nocapture"]].concat(),
            variables: Vec::new(),
            target: None,
            load: Load::Cpu,
        };
        Step { name: name.to_owned(), work: Work::Cargo(command) }
    };
    let all = ["--workspace", "--exclude", "topomem-kernel", "--features", "topomem/sim", "--test", "step*"];
    let hardened = ["--package", "topomem-percpu", "--all-features", "--test", "step_heap"];
    [step("stepper", &all), step("stepper hardened heap", &hardened)]
}

/// Unit tests of the program that counts what CPUs cost each other, and what CPUs write that change page
/// tables.
pub(super) fn counting() -> [Step; 2] {
    let step = |name: &str, selection: &[&'static str]| {
        let command = CargoCommand {
            toolchain: Toolchain::Default,
            arguments: [&["test", "--release", "--no-fail-fast"], selection].concat(),
            variables: vec![("RUSTFLAGS", "--cfg topomem_count")],
            target: Some("count"),
            load: Load::Host,
        };
        Step { name: name.to_owned(), work: Work::Cargo(command) }
    };
    [
        step("bench units", &["--package", "topomem-benches", "--lib"]),
        step("lines of page tables", &["--package", "topomem", "--lib", "shared_lines"]),
    ]
}

/// Models of the protocols: the programs for loom, and the unit tests that are models.
pub(super) fn loom() -> [Step; 3] {
    let step = |name: &str, selection: &[&'static str]| {
        let command = CargoCommand {
            toolchain: Toolchain::Default,
            arguments: [&["test", "--release", "--no-fail-fast"], selection].concat(),
            variables: vec![("RUSTFLAGS", "--cfg loom")],
            target: Some("loom"),
            load: Load::Cpu,
        };
        Step { name: name.to_owned(), work: Work::Cargo(command) }
    };
    [
        step("loom units", &["--package", "topomem-percpu", "--lib", "--features", "leak-tracking"]),
        step(
            "loom page tables",
            &["--package", "topomem", "--lib", "--", "page_table", "references", "ranges"],
        ),
        step(
            "loom",
            &[
                "--package",
                "topomem-percpu",
                "--package",
                "topomem-numa",
                "--package",
                "topomem-shootdown",
                "--features",
                "topomem-shootdown/fault-injection",
                "--test",
                "loom*",
            ],
        ),
    ]
}

/// Tests under Miri, which finds undefined behaviour.
pub(super) fn miri(run: MiriRun) -> Step {
    let flags = match run.selection.first() {
        // A simulated machine is there until the process ends.
        Some(&"topomem") => "-Zmiri-strict-provenance -Zmiri-ignore-leaks",
        _ => "-Zmiri-strict-provenance",
    };
    let command = CargoCommand {
        toolchain: Toolchain::Nightly,
        arguments: [&["miri", "test", "--no-fail-fast", "--package"], run.selection].concat(),
        variables: vec![("MIRIFLAGS", flags)],
        target: None,
        load: Load::Cpu,
    };
    Step { name: format!("miri {}", run.name), work: Work::Cargo(command) }
}

impl CargoCommand {
    /// What has to be installed for it.
    pub(super) fn tools(&self) -> &'static [Tool] {
        match self.toolchain {
            Toolchain::Default => &[],
            Toolchain::Nightly => &[Tool::Miri],
        }
    }

    /// The command to start.
    pub(super) fn command(&self) -> Command {
        let mut command = match self.toolchain {
            Toolchain::Default => Command::new("cargo"),
            // Not `cargo +nightly`: the cargo that runs this one may come first in the PATH.
            Toolchain::Nightly => {
                let mut command = Command::new("rustup");
                command.args(["run", "nightly", "cargo"]);
                command
            }
        };
        // What stands behind `--` is the test programs', not Cargo's.
        let behind = self.arguments.iter().position(|argument| *argument == "--");
        let (own, programs) = self.arguments.split_at(behind.unwrap_or(self.arguments.len()));
        command.args(own).current_dir(workspace::root());
        command.envs(self.variables.iter().copied());
        if self.variables.iter().any(|(name, _)| *name == "RUSTFLAGS") {
            command.env_remove("CARGO_ENCODED_RUSTFLAGS");
        }
        if let Some(folder) = self.target {
            command.arg("--target-dir").arg(workspace::target_folder().join(folder));
        }
        command.args(programs);
        command
    }
}
