//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::qemu::Apic;
use crate::topology::MachineOptions;

/// Builds, runs and tests topomem.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Boot the reference kernel on a NUMA machine under QEMU and run a scenario on all its CPUs
    Qemu(RunArgs),
    /// Run the same scenario on the host: threads as CPUs, a software MMU; needs no QEMU
    Sim(RunArgs),
    /// Run a list of machines under QEMU
    Matrix(MatrixArgs),
    /// Run every test there is
    Test(TestArgs),
    /// Say what each tier costs a kernel that takes it alone: lines of wiring, bytes of its image
    Tiers,
    /// Run a program of the host on the heap, in place of C's allocator
    Preload(PreloadArgs),
    /// Measure topomem beside its peers
    #[command(subcommand)]
    Bench(BenchCommand),
    /// Say what is installed and what is missing
    Doctor,
    /// Install what is missing for building, running and testing
    Prepare,
    /// Save the firmware tables of a machine, as acpidump writes them
    Acpidump(AcpidumpArgs),
    /// Say what the kernel makes of a machine's firmware tables: nodes, CPUs, memory, distances
    Topology(TopologyArgs),
    /// Measure the comments of the library crates, and hold them to bounds
    Words,
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) machine: MachineOptions,
    #[command(flatten)]
    pub(crate) scenario: ScenarioOptions,
    #[command(flatten)]
    pub(crate) emulation: EmulationOptions,
    /// Write all results to FILE, machine-readable
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

/// What the kernel is to do.
#[derive(Clone, Debug, Args)]
pub(crate) struct ScenarioOptions {
    /// What to run on the CPUs
    #[arg(long, value_name = "NAME", default_value = "stress", value_parser = word)]
    pub(crate) scenario: String,
    /// How long to run it
    #[arg(long, value_name = "S", default_value_t = 5)]
    pub(crate) seconds: u32,
    /// Seed of its random choices, and of the random numbers that emulated CPUs draw
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
    /// Disable or corrupt one mechanism (shootdown, acknowledge, overrun, online, switch, spurious, magazine,
    /// distance, zeroed, leak-frame, leak-object; simulated also asid, reuse, ways, broadcast, flag, poll, lazy, unreported, give-up, serial; of the scenario heap
    /// write-after-free, broken-link, overflow, double-free, wild-free, other-layout, leak, leak-box); the run must then fail
    #[arg(long = "break", value_name = "FAULT", value_parser = word)]
    pub(crate) fault: Option<String>,
    /// How many levels of page tables the kernel is built for
    #[arg(long, value_enum, default_value_t = Levels::Four, conflicts_with = "fault")]
    pub(crate) levels: Levels,
    /// What TLBs offer: the simulated machine has that, by default nothing; under QEMU, of what there is, the kernel uses that, by default all
    #[arg(long, value_enum, value_name = "FEATURES")]
    pub(crate) tlb: Option<Tlb>,
    /// Have the loader put FILE into memory beside the kernel, which checks at the end that it is intact
    #[arg(long, value_name = "FILE")]
    pub(crate) module: Option<PathBuf>,
}

/// Levels of page tables: 48-bit or 57-bit addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Levels {
    #[value(name = "4")]
    Four,
    #[value(name = "5")]
    Five,
}

/// Features of TLBs, each with those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Tlb {
    None,
    /// Translations tagged by address space
    Pcid,
    /// Single pages removed from an address space that is not active
    Invpcid,
    /// Pages removed on all CPUs at once
    Invlpgb,
}

impl Tlb {
    /// What the kernel and the simulation call it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Pcid => "pcid",
            Self::Invpcid => "invpcid",
            Self::Invlpgb => "invlpgb",
        }
    }
}

/// How QEMU is to run the machine.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct EmulationOptions {
    /// Wait for gdb before the first instruction
    #[arg(long)]
    pub(crate) gdb: bool,
    /// Count instructions exactly: the same run every time, on one host thread
    #[arg(long)]
    pub(crate) icount: bool,
    /// QEMU's accelerator
    #[arg(long, value_enum, default_value_t = Accelerator::Tcg)]
    pub(crate) accel: Accelerator,
    /// How the local APICs are driven; by default x2APIC where there are more than 255 CPUs. TCG has x2APIC in QEMU 9
    /// and later, which is downloaded if need be
    #[arg(long, value_enum)]
    pub(crate) apic: Option<Apic>,
}

/// What executes the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Accelerator {
    Tcg,
    Kvm,
}

#[derive(Debug, Args)]
pub(crate) struct MatrixArgs {
    /// Machines: TOML files, or names of ones in qemu/topologies; all of those when none is given
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub(crate) topologies: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) scenario: ScenarioOptions,
    /// Write all runs' results to FILE, machine-readable
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct TestArgs {
    /// Only steps whose name contains one of these
    pub(crate) filters: Vec<String>,
    /// Leave out the slow steps: loom, Miri, and most machines
    #[arg(long)]
    pub(crate) quick: bool,
    /// List the steps and stop
    #[arg(long)]
    pub(crate) list: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PreloadArgs {
    /// The program, or the name of one in tests/preload/programs, and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) program: Vec<OsString>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Times and counts of the frame allocator, beside bitmap-allocator and buddy_system_allocator
    Frames(BenchTimesArgs),
    /// Times, counts and memory of the heap, beside mimalloc, snmalloc, jemalloc and others; compiling them takes minutes
    Heap(BenchTimesArgs),
    /// What CPUs cost each other: locks, failed compare-and-swaps, cache lines
    Contention(BenchContentionArgs),
    /// What CPUs cost each other that make, use and remove regions of one address space, counted
    Spaces(BenchContentionArgs),
    /// What CPUs cost each other that use one heap, counted
    HeapContention(BenchContentionArgs),
    /// What the heap's measures against wrong uses cost: instructions and bytes
    Hardening,
    /// What changes of mappings cost until every CPU has forgotten the old ones, under QEMU
    Shootdown(BenchShootdownArgs),
    /// What memory costs a program, from user mode to user mode, under QEMU
    Vm(BenchVmArgs),
}

#[derive(Debug, Args)]
pub(crate) struct BenchTimesArgs {
    /// A few rounds: less than a minute, and wide spreads
    #[arg(long)]
    pub(crate) quick: bool,
    /// Write all results to FILE, machine-readable
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct BenchContentionArgs {
    /// Draw the plot to FILE; by default benches/contention.svg, benches/spaces.svg or benches/heap-contention.svg
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
    /// Write all results to FILE, machine-readable
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct BenchShootdownArgs {
    /// Boot Debian's Linux in turn with topomem's kernel, on the same machines; downloaded once, never installed
    #[arg(long, value_enum)]
    pub(crate) vs: Option<Peer>,
    /// Only what is counted in instructions: exact, and the same each time
    #[arg(long)]
    pub(crate) icount: bool,
    /// One boot of each, and fewer samples
    #[arg(long)]
    pub(crate) quick: bool,
    /// Draw the latencies to FILE; benches/shootdown.svg when none is given, unless quick
    #[arg(long, value_name = "FILE", conflicts_with = "icount")]
    pub(crate) svg: Option<PathBuf>,
    /// Write all results to FILE, machine-readable
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct BenchVmArgs {
    /// Run the same program on Debian's Linux, in turn with topomem's kernel, on the same machines; downloaded once,
    /// never installed
    #[arg(long, value_enum)]
    pub(crate) vs: Option<Peer>,
    /// Only what is counted in instructions: exact, and the same each time
    #[arg(long)]
    pub(crate) icount: bool,
    /// One boot of each, and fewer samples
    #[arg(long)]
    pub(crate) quick: bool,
    /// Write all results to FILE, machine-readable
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

/// What topomem's kernel is measured beside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Peer {
    Linux,
}

#[derive(Debug, Args)]
pub(crate) struct AcpidumpArgs {
    #[command(flatten)]
    pub(crate) machine: MachineOptions,
    /// Folder for the files, one per table
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct TopologyArgs {
    /// Files of one machine: tables as acpidump's text or as bytes, and a memory map as Linux's log has it; or folders
    /// of such files, as /sys/firmware/acpi/tables
    #[arg(required = true, value_name = "PATH")]
    pub(crate) paths: Vec<PathBuf>,
    /// Write the topology to FILE, machine-readable
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

/// One word of the kernel's command line.
fn word(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if !text.is_empty() && text.chars().all(fits) {
        Ok(text.to_owned())
    } else {
        Err("must be a word of letters, digits, - and _".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn knows_every_option_of_a_run() {
        let line = "xtask qemu --nodes 4 --cpus 8 --memory 4G --distance 0,1=21 1,0=31 --distance 0,2=40 --scenario stress \
                    --seconds 3 --seed 7 --break shootdown --tlb pcid --json out.json --gdb --icount --accel kvm --apic x2apic";
        let Command::Qemu(run) = Cli::parse_from(line.split_whitespace()).command else { panic!() };
        assert_eq!((run.machine.nodes, run.machine.cpus, run.machine.distance.len()), (4, 8, 3));
        assert_eq!((run.scenario.seconds, run.scenario.seed), (3, 7));
        assert_eq!(run.scenario.fault.as_deref(), Some("shootdown"));
        assert_eq!(run.scenario.tlb.map(Tlb::name), Some("pcid"));
        assert!(run.emulation.gdb && run.emulation.icount && run.emulation.accel == Accelerator::Kvm);
        assert_eq!(run.emulation.apic, Some(Apic::X2apic));
    }

    #[test]
    fn refuses_words_that_would_break_the_kernel_command_line() {
        for scenario in ["", "a b", "a=b"] {
            assert!(Cli::try_parse_from(["xtask", "qemu", "--scenario", scenario]).is_err(), "{scenario:?}");
        }
    }

    #[test]
    fn a_topology_file_excludes_the_options_it_replaces() {
        assert!(Cli::try_parse_from(["xtask", "qemu", "--topology", "uma1", "--nodes", "3"]).is_err());
    }
}
