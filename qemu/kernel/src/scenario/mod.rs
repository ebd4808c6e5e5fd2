//! What a boot is for, by the command line's `scenario=`.

mod crash;
mod smoke;

use crate::arch::exit::{self, Outcome};
use crate::boot::Booted;
use crate::boot::command_line::CommandLine;
use crate::log::Json;
use crate::memory::firmware;
use crate::{log, record};

/// Runs the scenario that the command line names (`smoke` where it names none), on the boot CPU
/// with all others up, and ends the run.
pub fn run(booted: &Booted) -> ! {
    let words = CommandLine(&booted.start_info.command_line);
    let name = words.value("scenario").unwrap_or("smoke");
    log!("scenario {name}");
    let outcome = match name {
        "smoke" => smoke::run(booted),
        "acpidump" => {
            firmware::dump(&firmware::tables(booted.start_info.rsdp));
            Outcome::Success
        }
        "panic" => crash::panic(),
        "pagefault" => crash::page_fault(),
        "doublefault" => crash::double_fault(),
        unknown => {
            failure(format_args!("no scenario is called {unknown}"), "command line");
            Outcome::Failures
        }
    };
    record!("{{\"t\":\"end\",\"ok\":{}}}", outcome == Outcome::Success);
    exit::exit(outcome)
}

/// Logs and records one failure.
pub fn failure(what: core::fmt::Arguments<'_>, place: &str) {
    log!("FAILURE in {place}: {what}");
    record!("{{\"t\":\"failure\",\"what\":{},\"where\":{}}}", Json(what), Json(place));
}
