//! What happens in the guest.

mod cases;
mod clock;
mod counts;
mod cpu;
mod error;
mod helpers;
mod interrupts;
mod machine;
mod pages;
mod pseudo_file;
mod record;
mod request;
mod spread;
mod traces;

use std::process::ExitCode;

use error::GuestError;
use record::Record;
use request::Request;

pub(crate) use machine::is_ours;

/// Measures, and turns the machine off.
pub(crate) fn run() -> ExitCode {
    let outcome = measure();
    if let Err(error) = &outcome {
        Record::Failure { what: error.to_string(), place: "the program in the Linux guest" }.write();
    }
    Record::End { ok: outcome.is_ok() }.write();
    machine::power_off()
}

fn measure() -> Result<(), GuestError> {
    let request = Request::parse(std::env::args().skip(1))?;
    machine::prepare()?;
    cases::run(&request)
}
