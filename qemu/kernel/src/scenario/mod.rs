//! What a boot is for, by the command line's `scenario=`.

mod crash;
mod machine;

use core::fmt;
use core::time::Duration;

use arrayvec::ArrayString;
use topomem::CpuSet;
use x86_64::PhysAddr;

use crate::arch::clock;
use crate::arch::exit::{self, Outcome};
use crate::boot::command_line::CommandLine;
use crate::boot::start_info::{MAX_COMMAND_LINE, StartInfo};
use crate::executor::sleep;
use crate::log::Json;
use crate::memory::firmware;
use crate::memory::service::SERVICE;
use crate::smp::ipi;
use crate::{log, record};

/// How long CPUs may take to come up; the host may run them late.
const PATIENCE: Duration = Duration::from_secs(5);

/// What to run.
#[derive(Debug)]
pub struct Request {
    command_line: ArrayString<MAX_COMMAND_LINE>,
    rsdp: Option<PhysAddr>,
}

impl Request {
    /// As the loader was told.
    pub fn new(start_info: &StartInfo) -> Request {
        Request { command_line: start_info.command_line, rsdp: start_info.rsdp }
    }
}

/// Runs what the command line names, once all CPUs are up, and ends the run. The boot CPU's
/// first task.
pub async fn run(request: Request) {
    let words = CommandLine(&request.command_line);
    let name = words.value("scenario").unwrap_or("stress");
    let outcome = if all_up().await { by_name(name, words, request.rsdp).await } else { Outcome::Failures };
    end(outcome)
}

async fn by_name(name: &str, words: CommandLine<'_>, rsdp: Option<PhysAddr>) -> Outcome {
    match name {
        "machine" => machine::run().await,
        "acpidump" => {
            firmware::dump(&firmware::tables(rsdp));
            Outcome::Success
        }
        "panic" => crash::panic(),
        "pagefault" => crash::page_fault(),
        "doublefault" => crash::double_fault(),
        unknown => {
            failure(format_args!("no scenario is called {unknown}"), "command line");
            let _ = words;
            Outcome::Failures
        }
    }
}

/// Waits for the CPUs that the firmware lists; false, and reported, where one is missing.
async fn all_up() -> bool {
    let listed = SERVICE.topology().map_or(&[][..], |topology| topology.cpus());
    let listed: CpuSet = listed.iter().map(|entry| entry.cpu).collect();
    let start = clock::now();
    while ipi::running() != listed && clock::elapsed(start) < PATIENCE {
        sleep(Duration::from_millis(1)).await;
    }
    let missing = listed.difference(&ipi::running());
    for cpu in missing.iter() {
        failure(format_args!("{cpu} is not running"), "boot");
    }
    log!("{} of {} CPUs are up", ipi::running().len(), listed.len());
    missing.is_empty()
}

/// Logs and records one failure.
pub fn failure(what: fmt::Arguments<'_>, place: &str) {
    log!("FAILURE in {place}: {what}");
    record!("{{\"t\":\"failure\",\"what\":{},\"where\":{}}}", Json(what), Json(place));
}

/// Ends a run that could not begin.
pub fn end_early(why: fmt::Arguments<'_>) -> ! {
    failure(why, "boot");
    end(Outcome::Failures)
}

fn end(outcome: Outcome) -> ! {
    record!("{{\"t\":\"end\",\"ok\":{}}}", outcome == Outcome::Success);
    exit::exit(outcome)
}
