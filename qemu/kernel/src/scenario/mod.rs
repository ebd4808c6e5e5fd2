//! What a boot is for, by the command line's `scenario=`.

pub(crate) mod broken;
mod crash;
mod first_program;
#[cfg(feature = "hardening")]
pub(crate) mod heap;
mod machine;
mod memory_back;
mod modules;
mod processes;
mod program;
mod ranges;
mod shortage;
mod stress;

use core::fmt;
use core::time::Duration;

use topomem::{CpuSet, MemoryMap, Platform as _, Topology};
use topomem_boot::{KernelScenario, Leaves, StartInfo};
use topomem_stress::{Record, Scenario};

use crate::arch::clock;
use crate::arch::exit::{self, Outcome};
use crate::arch::interrupt::apic;
use crate::boot::Booted;
use crate::boot::command_line::CommandLine;
use crate::executor::sleep;
use crate::log::Json;
use crate::memory::firmware;
use crate::memory::service::SERVICE;
use crate::smp::ipi;
use crate::{log, measure, record};

/// How long anything may take that must come to an end: a busy host may run CPUs late. The runner waits for longer,
/// so a failure has its name.
const TIMEOUT: Duration = Duration::from_secs(45);

/// What to run, and on what.
#[derive(Debug)]
pub(crate) struct Request {
    start_info: StartInfo,
    /// What the first page tables have.
    leaves: Leaves,
    /// The CPUs that were started.
    cpus: CpuSet,
    /// The machine as it is, whatever the service was told.
    topology: &'static Topology,
    /// What the service has to hand out.
    memory_map: &'static MemoryMap,
}

impl Request {
    /// As the loader was told.
    pub(crate) fn new(booted: &Booted) -> Request {
        Request {
            start_info: booted.start_info,
            leaves: booted.leaves,
            cpus: booted.areas.iter().map(|area| area.cpu).collect(),
            topology: booted.topology,
            memory_map: booted.memory_map,
        }
    }
}

/// Runs what the command line names, once all CPUs are up, and ends the run. The boot CPU's
/// first task.
pub(crate) async fn run(request: Request) {
    if let Some(topology) = SERVICE.topology() {
        record!(
            "{}",
            Record::Topology {
                topology,
                stats: &|node| SERVICE.frames().stats(node),
                bookkeeping: &|node, visit| SERVICE.frames().bookkeeping(node, visit),
                address: &|byte| SERVICE.platform().virt_to_phys(byte),
            }
        );
    }
    let is_ready = modules::are_intact(&request.start_info, "boot") && all_up(&request.cpus).await;
    let mut outcome = if is_ready { by_name(&request).await } else { Outcome::Failures };
    if !modules::are_intact(&request.start_info, "end") {
        outcome = Outcome::Failures;
    }
    end(outcome)
}

async fn by_name(request: &Request) -> Outcome {
    let words = CommandLine(request.start_info.command_line());
    #[cfg(feature = "hardening")]
    if words.value("scenario") == Some("heap") {
        return heap::run(words, request.topology).await;
    }
    let fault = match broken::requested(words) {
        Ok(fault) => fault,
        Err(error) => {
            failure(format_args!("{error}"), "command line");
            return Outcome::Failures;
        }
    };
    let name = words.value("scenario").unwrap_or(Scenario::standard().name);
    if let Some(scenario) = Scenario::named(name) {
        return stress::run(scenario, fault, request).await;
    }
    let Some(scenario) = KernelScenario::named(name) else {
        failure(format_args!("no scenario is called {name}"), "command line");
        return Outcome::Failures;
    };
    match scenario {
        KernelScenario::Machine => machine::run(&request.leaves).await,
        KernelScenario::MeasureShootdown => measure::shootdown(words).await,
        KernelScenario::MeasureVm => first_program::run(&request.start_info).await,
        KernelScenario::Acpidump => {
            firmware::dump(&firmware::tables(request.start_info.rsdp()));
            Outcome::Success
        }
        KernelScenario::Shortage => shortage::run().await,
        KernelScenario::Ranges => ranges::run(fault).await,
        KernelScenario::Processes => processes::run(&request.start_info, request.topology, fault).await,
        KernelScenario::Panic => crash::panic(),
        KernelScenario::PageFault => crash::page_fault(),
        KernelScenario::DoubleFault => crash::double_fault(),
    }
}

/// Waits for the CPUs that were started; false, and reported, where one is missing.
async fn all_up(started: &CpuSet) -> bool {
    let start = clock::now();
    while ipi::running() != *started && clock::elapsed(start) < TIMEOUT {
        sleep(Duration::from_millis(1)).await;
    }
    let missing = started.clone().difference(&ipi::running());
    for cpu in missing.iter() {
        failure(format_args!("{cpu} is not running"), "boot");
    }
    let (running, apic) = (ipi::running().len(), apic::mode().name());
    log!("{running} of {} CPUs are up, by {apic}", started.len());
    record!("{{\"t\":\"running\",\"cpus\":{running},\"apic\":\"{apic}\"}}");
    missing.is_empty()
}

/// Logs and records one failure.
pub(crate) fn failure(what: fmt::Arguments<'_>, place: &str) {
    log!("FAILURE in {place}: {what}");
    record!("{{\"t\":\"failure\",\"what\":{},\"where\":{}}}", Json(what), Json(place));
}

/// Ends a run that could not begin.
pub(crate) fn end_early(why: fmt::Arguments<'_>) -> ! {
    failure(why, "boot");
    end(Outcome::Failures)
}

fn end(outcome: Outcome) -> ! {
    record!("{{\"t\":\"end\",\"ok\":{}}}", outcome == Outcome::Success);
    exit::exit(outcome)
}
