//! What happens in the guest.

mod cases;
mod counts;
mod error;
mod helpers;
mod pages;
mod record;
mod request;
mod shapes;
mod spread;
mod system;
mod vm;

use std::process::ExitCode;

use error::GuestError;
use record::Record;
use request::{Request, Subject, Suite};

pub(crate) use system::machine::is_ours;

/// Measures, and turns the machine off if the kernel does not.
pub(crate) fn run() -> ExitCode {
    let request = Request::parse(std::env::args().skip(1));
    let subject = request.as_ref().ok().map(|request| request.subject);
    let outcome = request.map_err(GuestError::from).and_then(measure);
    if let Err(error) = &outcome {
        Record::Failure { what: error.to_string(), place: "the first program" }.write();
    }
    if subject == Some(Subject::Topomem) {
        return if outcome.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    Record::End { ok: outcome.is_ok() }.write();
    system::machine::power_off()
}

fn measure(request: Request) -> Result<(), GuestError> {
    if request.subject == Subject::Linux {
        system::machine::prepare()?;
    }
    match request.suite {
        Suite::Shootdown(samples) => cases::run(request.subject, request.metric, samples),
        Suite::Vm { samples } => vm::run(request.subject, request.metric, samples),
    }
}
