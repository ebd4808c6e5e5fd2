//! The list of all test steps.

use std::process::Command;

use crate::cli::{Levels, ScenarioOptions, Tlb};
use crate::programs;
use crate::tools::Tool;
use crate::workspace;

/// How much to test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    Full,
    /// What takes a minute or two.
    Quick,
}

/// One step.
pub(super) struct Step {
    pub(super) name: String,
    pub(super) work: Work,
}

/// What a step does.
pub(super) enum Work {
    Cargo(CargoCommand),
    Machine(MachineRun),
    Sim(MachineRun),
    /// The exact figures of the frame allocator's bench, which have bounds.
    Counts,
    /// The exact figures of the bench of shootdowns, likewise.
    ShootdownCounts,
    /// Those of programs' memory.
    VmCounts,
}

/// A cargo command whose test results count.
pub(super) struct CargoCommand {
    toolchain: Toolchain,
    arguments: Vec<&'static str>,
    variables: Vec<(&'static str, &'static str)>,
    /// Folder under cargo's own for what is built with other flags.
    target: Option<&'static str>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Toolchain {
    Default,
    Nightly,
}

/// A run of a scenario, under QEMU or simulated; it counts as one test.
pub(super) struct MachineRun {
    /// Name of one of the project's topologies.
    pub(super) topology: &'static str,
    pub(super) scenario: ScenarioOptions,
    pub(super) expected: Expected,
}

/// How a run must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expected {
    Success,
    /// With a failure that contains one of these.
    Failure(&'static [&'static str]),
    /// With a panic that contains one of these, and a backtrace that names the kernel's functions.
    Crash(&'static [&'static str]),
}

/// Machines that run the stress scenario, those for a quick test first.
const MACHINES: [&str; 12] = [
    "two-nodes",
    "uma1",
    "cpus64-nodes8",
    "uma4",
    "four-asymmetric",
    "memoryless",
    "cpuless",
    "uneven",
    "interleaved",
    "hotplug",
    "hmat",
    "cxl",
];
const QUICK_MACHINES: usize = 3;

/// Further scenarios, each on a machine that suits it.
const SCENARIOS: [(&str, &str); 10] = [
    ("two-nodes", "machine"),
    ("boot-only/no-gigabyte-pages", "machine"),
    ("tight", "pressure"),
    ("tight", "shortage"),
    ("uneven", "frames"),
    ("four-asymmetric", "shootdown"),
    ("four-asymmetric", "sizes"),
    ("two-nodes", "unresponsive"),
    ("two-nodes", "processes"),
    ("four-asymmetric", "processes"),
];

/// Machines that are simulated too.
const SIM_MACHINES: [&str; 3] = ["two-nodes", "memoryless", "interleaved"];

/// A fault, the scenario that shows it, and what the oracle must say.
type Fault = (&'static str, &'static str, &'static [&'static str]);

const FAULTS: [Fault; 11] = [
    ("shootdown", "stress", &["stale translation"]),
    ("acknowledge", "stress", &["stale translation"]),
    ("overrun", "stress", &["stale translation"]),
    ("online", "stress", &["stale translation"]),
    ("switch", "shootdown", &["stale translation"]),
    ("spurious", "stress", &["stale translation"]),
    ("announce", "shootdown", &["stale translation"]),
    ("nested", "shootdown", &["stale translation"]),
    ("magazine", "stress", &["handed out twice", "changed under"]),
    ("distance", "stress", &["wrong node"]),
    ("zeroed", "stress", &["is not zeroed"]),
];

/// Faults that are shown on simulated machines only: where everything stops, only they mend the
/// fault so that the run ends, their waiters' patience can be made short, and their idle CPUs walk
/// page tables ahead, which TCG does not.
const SIM_FAULTS: [Fault; 6] = [
    // A flag that is set for an older request ends a wait too early; a flag that a later request
    // resets ends it never.
    ("flag", "shootdown", &["in vain", "stale translation"]),
    ("poll", "shootdown", &["in vain"]),
    ("lazy", "stress", &["changed under", "changed:"]),
    ("unreported", "unresponsive", &["nobody was told"]),
    ("give-up", "unresponsive", &["stale translation"]),
    ("serial", "unresponsive", &["held up"]),
];

/// Leaks, which the account at the end must find, and what it must say. Simulated on a machine where a CPU
/// has no memory of its own.
const LEAKS: [(&str, &[&str]); 2] = [("leak-frame", &["lost"]), ("leak-object", &["objects lost"])];

/// What TLBs offer beyond the least, each simulated.
const TLBS: [Tlb; 3] = [Tlb::Pcid, Tlb::Invpcid, Tlb::Invlpgb];

/// Each fault of what TLBs offer, what they must offer for it, and what the oracle must say: a way that should have
/// gone leads to another's memory, or nowhere.
const TLB_FAULTS: [(&str, Tlb); 4] =
    [("asid", Tlb::Pcid), ("reuse", Tlb::Pcid), ("ways", Tlb::Pcid), ("broadcast", Tlb::Invlpgb)];
const TLB_FAULT_WORDS: &[&str] = &["stale translation", "missing mapping"];

/// Each way to crash, and what the kernel must say about it.
const CRASHES: [(&str, &[&str]); 3] =
    [("panic", &["panic"]), ("pagefault", &["page fault"]), ("doublefault", &["double fault"])];

/// Packages that Miri checks, a step each: it is slow, and one failure must not hide the others.
const MIRI_PACKAGES: [&str; 4] = ["topomem-percpu", "topomem-numa", "topomem-shootdown", "topomem"];

/// All steps, in the order in which they run.
pub(super) fn all(extent: Extent) -> Vec<Step> {
    let mut steps = vec![host()];
    steps.extend(counting());
    steps.extend([Step { name: "bench counts".to_owned(), work: Work::Counts }, stepper()]);
    if extent == Extent::Full {
        steps.extend(loom());
        steps.extend(MIRI_PACKAGES.map(miri));
    }
    steps.extend(SIM_MACHINES.map(|topology| {
        let run = MachineRun { topology, scenario: scenario("stress", 3), expected: Expected::Success };
        Step { name: format!("sim {topology}"), work: Work::Sim(run) }
    }));
    steps.push({
        let scenario = scenario("unresponsive", 3);
        let run = MachineRun { topology: "two-nodes", scenario, expected: Expected::Success };
        Step { name: "sim two-nodes unresponsive".to_owned(), work: Work::Sim(run) }
    });
    steps.extend(
        FAULTS
            .iter()
            .chain(&SIM_FAULTS)
            .map(|fault| Step { name: format!("sim break {}", fault.0), work: Work::Sim(broken(fault)) }),
    );
    steps.extend(LEAKS.map(|(fault, words)| {
        // It is found at the end only.
        let scenario = ScenarioOptions { seconds: 1, ..broken(&(fault, "stress", words)).scenario };
        let run = MachineRun { topology: "memoryless", scenario, expected: Expected::Failure(words) };
        Step { name: format!("sim break {fault}"), work: Work::Sim(run) }
    }));
    steps.extend(TLBS.map(|tlb| {
        let scenario = ScenarioOptions { tlb: Some(tlb), ..scenario("shootdown", 3) };
        let run = MachineRun { topology: "two-nodes", scenario, expected: Expected::Success };
        Step { name: format!("sim two-nodes {}", tlb.name()), work: Work::Sim(run) }
    }));
    steps.extend(TLB_FAULTS.map(|(fault, tlb)| {
        let mut run = broken(&(fault, "stress", TLB_FAULT_WORDS));
        run.scenario = ScenarioOptions { tlb: Some(tlb), ..run.scenario };
        Step { name: format!("sim break {fault}"), work: Work::Sim(run) }
    }));
    let machines = match extent {
        Extent::Full => &MACHINES[..],
        Extent::Quick => &MACHINES[..QUICK_MACHINES],
    };
    steps.extend(machines.iter().map(|topology| {
        let run = MachineRun { topology, scenario: scenario("stress", 3), expected: Expected::Success };
        Step { name: format!("qemu {topology}"), work: Work::Machine(run) }
    }));
    if extent == Extent::Full {
        steps.extend(SCENARIOS.map(|(topology, name)| {
            // Where all memory is filled, what the loader put there must survive.
            let module = (name == "pressure").then(|| workspace::root().join("Cargo.lock"));
            let scenario = ScenarioOptions { module, ..scenario(name, 3) };
            let run = MachineRun { topology, scenario, expected: Expected::Success };
            Step { name: format!("qemu {topology} {name}"), work: Work::Machine(run) }
        }));
        steps.push({
            let scenario = ScenarioOptions { levels: Levels::Five, ..scenario("stress", 3) };
            let run = MachineRun { topology: "two-nodes", scenario, expected: Expected::Success };
            Step { name: "qemu two-nodes levels 5".to_owned(), work: Work::Machine(run) }
        });
    }
    steps.push(Step { name: "shootdown counts".to_owned(), work: Work::ShootdownCounts });
    steps.push(Step { name: "vm counts".to_owned(), work: Work::VmCounts });
    steps.extend(
        FAULTS.iter().map(|fault| Step {
            name: format!("qemu break {}", fault.0),
            work: Work::Machine(broken(fault)),
        }),
    );
    steps.extend(CRASHES.map(|(name, words)| {
        let run = MachineRun {
            topology: "two-nodes",
            scenario: scenario(name, 1),
            expected: Expected::Crash(words),
        };
        Step { name: format!("qemu crash {name}"), work: Work::Machine(run) }
    }));
    steps
}

/// A run with a fault, which must be seen; that ends it, long before its time. The time is what a busy host may
/// need for it.
fn broken(&(fault, name, words): &Fault) -> MachineRun {
    let scenario = ScenarioOptions { fault: Some(fault.to_owned()), ..scenario(name, 90) };
    MachineRun { topology: "two-nodes", scenario, expected: Expected::Failure(words) }
}

fn scenario(name: &str, seconds: u32) -> ScenarioOptions {
    ScenarioOptions {
        scenario: name.to_owned(),
        seconds,
        seed: 1,
        fault: None,
        levels: Levels::Four,
        tlb: None,
        module: None,
    }
}

/// Unit, property, sim and doc tests of everything that runs on the host.
fn host() -> Step {
    let command = CargoCommand {
        toolchain: Toolchain::Default,
        arguments: vec!["test", "--all-features", "--no-fail-fast"],
        variables: Vec::new(),
        target: None,
    };
    Step { name: "host".to_owned(), work: Work::Cargo(command) }
}

/// Operations stopped after each of their instructions, with other contexts there. Each program
/// prints what it did, in lines that begin with `stepped `.
fn stepper() -> Step {
    let command = CargoCommand {
        toolchain: Toolchain::Default,
        arguments: vec![
            "test",
            "--release",
            "--no-fail-fast",
            "--workspace",
            "--exclude",
            "topomem-kernel",
            "--features",
            "topomem/sim",
            "--test",
            "step*",
            "--",
            "--nocapture",
        ],
        variables: Vec::new(),
        target: None,
    };
    Step { name: "stepper".to_owned(), work: Work::Cargo(command) }
}

/// Unit tests of the program that counts what CPUs cost each other, and what CPUs write that change page
/// tables.
fn counting() -> [Step; 2] {
    let step = |name: &str, selection: &[&'static str]| {
        let command = CargoCommand {
            toolchain: Toolchain::Default,
            arguments: [&["test", "--release", "--no-fail-fast"], selection].concat(),
            variables: vec![("RUSTFLAGS", "--cfg topomem_count")],
            target: Some("count"),
        };
        Step { name: name.to_owned(), work: Work::Cargo(command) }
    };
    [
        step("bench units", &["--package", "topomem-benches", "--lib"]),
        step("lines of page tables", &["--package", "topomem", "--lib", "shared_lines"]),
    ]
}

/// Models of the protocols: the programs for loom, and the unit tests that are models.
fn loom() -> [Step; 3] {
    let step = |name: &str, selection: &[&'static str]| {
        let command = CargoCommand {
            toolchain: Toolchain::Default,
            arguments: [&["test", "--release", "--no-fail-fast"], selection].concat(),
            variables: vec![("RUSTFLAGS", "--cfg loom")],
            target: Some("loom"),
        };
        Step { name: name.to_owned(), work: Work::Cargo(command) }
    };
    [
        step("loom units", &["--package", "topomem-percpu", "--lib"]),
        step("loom page tables", &["--package", "topomem", "--lib", "--", "page_table", "references"]),
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

/// The tests of a package under Miri, which finds undefined behaviour.
fn miri(package: &'static str) -> Step {
    let flags = match package {
        // A simulated machine is there until the process ends.
        "topomem" => "-Zmiri-strict-provenance -Zmiri-ignore-leaks",
        _ => "-Zmiri-strict-provenance",
    };
    let command = CargoCommand {
        toolchain: Toolchain::Nightly,
        arguments: vec!["miri", "test", "--no-fail-fast", "--package", package],
        variables: vec![("MIRIFLAGS", flags)],
        target: None,
    };
    Step { name: format!("miri {package}"), work: Work::Cargo(command) }
}

impl Work {
    /// What has to be installed for it.
    pub(super) fn tools(&self) -> &'static [Tool] {
        match self {
            Self::Cargo(CargoCommand { toolchain: Toolchain::Default, .. }) => &[],
            Self::Cargo(CargoCommand { toolchain: Toolchain::Nightly, .. }) => &[Tool::Miri],
            Self::Sim(_) => &[],
            Self::Counts => &[Tool::Valgrind],
            Self::Machine(run) if programs::are_needed(&run.scenario.scenario) => {
                &[Tool::KernelTarget, Tool::LinuxTarget, Tool::Qemu]
            }
            Self::VmCounts => &[Tool::KernelTarget, Tool::LinuxTarget, Tool::Qemu],
            Self::Machine(_) | Self::ShootdownCounts => &[Tool::KernelTarget, Tool::Qemu],
        }
    }
}

impl CargoCommand {
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
