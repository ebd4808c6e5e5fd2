//! The list of all test steps.

use super::commands::{CargoCommand, Load, MIRI, counting, host, loom, miri, stepper, unchecked_heap};
use crate::cli::{Accelerator, EmulationOptions, Levels, ScenarioOptions, Tlb};
use crate::machines::matrix::PLAIN_EMULATION;
use crate::programs;
use crate::qemu::{self, Apic};
use crate::tiers::Tier;
use crate::tools::{self, Tool};
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
    /// Programs of the host on the heap, in place of C's allocator.
    Preload,
    /// The second kernel, with one tier.
    Tier(Tier),
}

/// A run of a scenario, under QEMU or simulated; it counts as one test.
pub(super) struct MachineRun {
    /// Name of one of the project's topologies.
    pub(super) topology: &'static str,
    pub(super) scenario: ScenarioOptions,
    /// Of a run under QEMU.
    pub(super) emulation: EmulationOptions,
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
const MACHINES: [&str; 14] = [
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
    "big-memory",
    "memory-66g",
];
const QUICK_MACHINES: usize = 3;

/// Further scenarios, each on a machine that suits it.
const SCENARIOS: [(&str, &str); 14] = [
    ("two-nodes", "machine"),
    ("boot-only/nodes80", "stress"),
    ("boot-only/no-gigabyte-pages", "machine"),
    ("boot-only/memory-900g", "machine"),
    ("tight", "pressure"),
    ("tight", "shortage"),
    ("uneven", "frames"),
    ("four-asymmetric", "ranges"),
    ("four-asymmetric", "shootdown"),
    ("four-asymmetric", "sizes"),
    ("four-asymmetric", "regions"),
    ("two-nodes", "unresponsive"),
    ("two-nodes", "processes"),
    ("four-asymmetric", "processes"),
];

/// Machines that are simulated too.
const SIM_MACHINES: [&str; 3] = ["two-nodes", "memoryless", "interleaved"];

/// A fault, the scenario that shows it, and what the oracle must say.
type Fault = (&'static str, &'static str, &'static [&'static str]);

/// All that the oracle may say of a translation that outlives its removal. A CPU that has such a translation may
/// first use it where the oracle looks at translations, or at tables that are reused, or at the contents of a
/// frame that another CPU has by then.
const STALE: &[&str] = &[
    "stale translation",
    "missing mapping",
    "changed under",
    "changed:",
    "is not zeroed",
    "wrong contents",
    "lost write",
];

const FAULTS: [Fault; 21] = [
    ("shootdown", "stress", STALE),
    ("acknowledge", "stress", STALE),
    ("overrun", "stress", STALE),
    ("online", "stress", STALE),
    ("switch", "shootdown", STALE),
    ("spurious", "stress", STALE),
    ("announce", "shootdown", STALE),
    ("nested", "shootdown", STALE),
    ("magazine", "stress", &["handed out twice", "changed under"]),
    ("distance", "stress", &["wrong node"]),
    ("zeroed", "stress", &["is not zeroed"]),
    ("cow-without-flush", "regions", STALE),
    ("zero-page-writable", "regions", &["wrong contents", "lost write"]),
    ("fault-after-unmap", "regions", STALE),
    // Frames that are freed twice become tables, too.
    ("reuse-with-sharer", "regions", &["wrong contents", "lost write", "missing mapping", "panic"]),
    ("fork-without-flush", "regions", STALE),
    ("dontneed-without-flush", "regions", STALE),
    ("mprotect-without-flush", "regions", STALE),
    ("mremap-flush-late", "regions", STALE),
    ("migrate-without-flush", "regions", STALE),
    ("lost-dirty-bit", "regions", &["lost write"]),
];

/// Runs by x2APIC under TCG, and one on more CPUs than xAPIC reaches: skipped where no QEMU is new enough.
const X2APIC: [(&str, &str); 3] =
    [("four-asymmetric", "shootdown"), ("two-nodes", "stress"), ("boot-only/cpus300-nodes4", "machine")];

/// Runs under KVM, where it answers: each CPU is interrupted, and changes of mappings reach all. Where KVM has no
/// hardware to run on, they take many times longer than under TCG.
const KVM: [(&str, &str); 1] = [("uma2", "machine")];

/// Faults that programs in ring 3 must notice, too: one finds what is another's.
const PROGRAM_FAULTS: [Fault; 4] = [
    ("unzeroed-memory", "processes", &["isolation"]),
    ("zero-page-writable", "processes", &["isolation"]),
    // A frame that is freed twice may also become a page of what the programs wait for: then nothing ends.
    ("reuse-with-sharer", "processes", &["isolation", "nothing was said"]),
    ("fork-without-flush", "processes", &["isolation"]),
];

/// Faults that are shown on simulated machines only: where everything stops, only they mend the
/// fault so that the run ends, their waiters' timeout can be made short, and their idle CPUs walk
/// page tables ahead, which TCG does not.
const SIM_FAULTS: [Fault; 6] = [
    // A flag that is set for an older request ends a wait too early; a flag that a later request
    // resets ends it never.
    ("flag", "shootdown", &["in vain", "stale translation", "changed under", "missing mapping"]),
    ("poll", "shootdown", &["in vain"]),
    ("lazy", "stress", STALE),
    ("unreported", "unresponsive", &["nobody was told"]),
    ("give-up", "unresponsive", STALE),
    ("serial", "unresponsive", &["held up"]),
];

/// What a CPU that answers no interrupt must notice of ranges of kernel addresses.
const RANGES_FAULT: Fault = ("ranges-reused-early", "ranges", &["stale translation"]);

/// Leaks, which the account at the end must find, and what it must say. Simulated on a machine where a CPU
/// has no memory of its own.
const LEAKS: [(&str, &[&str]); 2] = [("leak-frame", &["lost"]), ("leak-object", &["objects lost"])];

/// Wrong uses of memory that the hardened heap must find, and what it must say.
const HEAP_FAULTS: [Fault; 8] = [
    ("write-after-free", "heap", &["write after free"]),
    ("broken-link", "heap", &["broken link"]),
    ("overflow", "heap", &["was overwritten"]),
    ("double-free", "heap", &["double free"]),
    ("wild-free", "heap", &["no slab of"]),
    ("other-layout", "heap", &["with another layout"]),
    ("leak", "heap", &["heap: leak of 64 bytes"]),
    ("leak-box", "heap", &["heap: leak of 136 bytes, allocated by topomem_kernel::scenario::heap::leak_box"]),
];

/// What TLBs offer beyond the least, each simulated.
const TLBS: [Tlb; 3] = [Tlb::Pcid, Tlb::Invpcid, Tlb::Invlpgb];

/// Each fault of what TLBs offer, and what they must offer for it: a translation stays.
const TLB_FAULTS: [(&str, Tlb); 4] =
    [("asid", Tlb::Pcid), ("reuse", Tlb::Pcid), ("ways", Tlb::Pcid), ("broadcast", Tlb::Invlpgb)];

/// Each way to crash, and what the kernel must say about it.
const CRASHES: [(&str, &[&str]); 3] =
    [("panic", &["panic"]), ("pagefault", &["page fault"]), ("doublefault", &["double fault"])];

/// All steps, in the order in which they run.
pub(super) fn all(extent: Extent) -> Vec<Step> {
    let mut steps = vec![host(), unchecked_heap()];
    steps.extend(counting());
    steps.push(Step { name: "bench counts".to_owned(), work: Work::Counts });
    steps.push(Step { name: "programs on the heap".to_owned(), work: Work::Preload });
    if extent == Extent::Full {
        steps.extend(MIRI.map(miri));
        steps.extend(loom());
    }
    steps.extend(stepper());
    steps.extend(SIM_MACHINES.map(|topology| {
        let run = succeeding(topology, scenario("stress", 3));
        Step { name: format!("sim {topology}"), work: Work::Sim(run) }
    }));
    steps.push({
        let scenario = scenario("unresponsive", 3);
        let run = succeeding("two-nodes", scenario);
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
        let run = MachineRun { expected: Expected::Failure(words), ..succeeding("memoryless", scenario) };
        Step { name: format!("sim break {fault}"), work: Work::Sim(run) }
    }));
    steps.extend(TLBS.map(|tlb| {
        let scenario = ScenarioOptions { tlb: Some(tlb), ..scenario("shootdown", 3) };
        let run = succeeding("two-nodes", scenario);
        Step { name: format!("sim two-nodes {}", tlb.name()), work: Work::Sim(run) }
    }));
    steps.extend(TLB_FAULTS.map(|(fault, tlb)| {
        let mut run = broken(&(fault, "stress", STALE));
        run.scenario = ScenarioOptions { tlb: Some(tlb), ..run.scenario };
        Step { name: format!("sim break {fault}"), work: Work::Sim(run) }
    }));
    steps.push({
        let scenario = scenario("regions", 3);
        let run = succeeding("two-nodes", scenario);
        Step { name: "sim two-nodes regions".to_owned(), work: Work::Sim(run) }
    });
    steps.extend(
        Tier::ALL.map(|tier| Step { name: format!("second kernel {}", tier.name()), work: Work::Tier(tier) }),
    );
    let machines = match extent {
        Extent::Full => &MACHINES[..],
        Extent::Quick => &MACHINES[..QUICK_MACHINES],
    };
    steps.extend(machines.iter().map(|topology| {
        let run = succeeding(topology, scenario("stress", 3));
        Step { name: format!("qemu {topology}"), work: Work::Machine(run) }
    }));
    if extent == Extent::Full {
        steps.extend(SCENARIOS.map(|(topology, name)| {
            // Where all memory is filled, what the loader put there must survive.
            let module = (name == "pressure").then(|| workspace::root().join("Cargo.lock"));
            // Programs end by themselves; the time is what a busy host may need for them.
            let seconds = if name == "processes" { 30 } else { 3 };
            let scenario = ScenarioOptions { module, ..scenario(name, seconds) };
            let run = succeeding(topology, scenario);
            Step { name: format!("qemu {topology} {name}"), work: Work::Machine(run) }
        }));
        steps.push({
            let scenario = ScenarioOptions { levels: Levels::Five, ..scenario("stress", 3) };
            let run = succeeding("two-nodes", scenario);
            Step { name: "qemu two-nodes levels 5".to_owned(), work: Work::Machine(run) }
        });
    }
    if extent == Extent::Full {
        steps.extend(X2APIC.map(|(topology, name)| {
            let emulation = EmulationOptions { apic: Some(Apic::X2apic), ..PLAIN_EMULATION };
            let run = MachineRun { emulation, ..succeeding(topology, scenario(name, 3)) };
            Step { name: format!("qemu {topology} {name} x2apic"), work: Work::Machine(run) }
        }));
        steps.extend(KVM.map(|(topology, name)| {
            let emulation =
                EmulationOptions { accel: Accelerator::Kvm, apic: Some(Apic::X2apic), ..PLAIN_EMULATION };
            let run = MachineRun { emulation, ..succeeding(topology, scenario(name, 1)) };
            Step { name: format!("qemu {topology} {name} kvm"), work: Work::Machine(run) }
        }));
    }
    steps.push(Step { name: "shootdown counts".to_owned(), work: Work::ShootdownCounts });
    steps.push(Step { name: "vm counts".to_owned(), work: Work::VmCounts });
    steps.extend(
        FAULTS.iter().map(|fault| Step {
            name: format!("qemu break {}", fault.0),
            work: Work::Machine(broken(fault)),
        }),
    );
    steps.extend(PROGRAM_FAULTS.iter().map(|fault| Step {
        name: format!("qemu break {} for programs", fault.0),
        work: Work::Machine(broken(fault)),
    }));
    steps.extend(["two-nodes", "four-asymmetric"].map(|topology| {
        let run = succeeding(topology, scenario("heap", 1));
        Step { name: format!("qemu {topology} heap"), work: Work::Machine(run) }
    }));
    steps.extend(HEAP_FAULTS.iter().map(|fault| Step {
        name: format!("qemu heap misuse {}", fault.0),
        work: Work::Machine(broken(fault)),
    }));
    steps.push(Step {
        name: format!("qemu break {}", RANGES_FAULT.0),
        work: Work::Machine(broken(&RANGES_FAULT)),
    });
    steps.extend(CRASHES.map(|(name, words)| {
        let run =
            MachineRun { expected: Expected::Crash(words), ..succeeding("two-nodes", scenario(name, 1)) };
        Step { name: format!("qemu crash {name}"), work: Work::Machine(run) }
    }));
    steps
}

/// A run with a fault, which must be seen; that ends it, long before its time. The time is what a busy host may
/// need for it.
fn broken(&(fault, name, words): &Fault) -> MachineRun {
    let scenario = ScenarioOptions { fault: Some(fault.to_owned()), ..scenario(name, 90) };
    MachineRun { expected: Expected::Failure(words), ..succeeding("two-nodes", scenario) }
}

/// A run of the machine that must succeed.
fn succeeding(topology: &'static str, scenario: ScenarioOptions) -> MachineRun {
    MachineRun { topology, scenario, emulation: PLAIN_EMULATION, expected: Expected::Success }
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

impl Step {
    /// Its command, if it may run beside other steps.
    pub(super) fn beside_others(&self) -> Option<&CargoCommand> {
        match &self.work {
            Work::Cargo(command) if command.load == Load::Cpu => Some(command),
            _ => None,
        }
    }
}

impl Work {
    /// What keeps it from running on this host though all tools are there, if something does.
    pub(super) fn obstacle(&self) -> Option<String> {
        let Self::Machine(MachineRun { emulation, .. }) = self else { return None };
        match (emulation.accel, emulation.apic) {
            (Accelerator::Kvm, _) => qemu::kvm_obstacle(),
            (Accelerator::Tcg, Some(Apic::X2apic)) => tools::obstacle_to_newer_qemu().map(str::to_owned),
            (Accelerator::Tcg, _) => None,
        }
    }

    /// What has to be installed for it.
    pub(super) fn tools(&self) -> &'static [Tool] {
        match self {
            Self::Cargo(command) => command.tools(),
            Self::Sim(_) => &[],
            Self::Counts => &[Tool::Valgrind],
            Self::Preload => &[Tool::Preloaded],
            Self::Machine(run) if programs::are_needed(&run.scenario.scenario) => {
                &[Tool::KernelTarget, Tool::LinuxTarget, Tool::Qemu]
            }
            Self::VmCounts => &[Tool::KernelTarget, Tool::LinuxTarget, Tool::Qemu],
            Self::Machine(_) | Self::ShootdownCounts | Self::Tier(_) => &[Tool::KernelTarget, Tool::Qemu],
        }
    }
}
