//! Measures what Linux pays for changing mappings.
//!
//! It runs as the only process of a guest that `cargo xtask` boots: process 1, from an initial RAM file system that
//! holds nothing else. The kernel's command line gives its arguments, results go to the console as records, and in
//! the end it powers the machine off. System calls are made without a C library's wrappers, so that what is counted
//! is the kernel's work.

mod cases;
mod clock;
mod cpu;
mod error;
mod helpers;
mod interrupts;
mod machine;
mod pages;
mod record;
mod request;
mod spread;

use std::process::ExitCode;

use error::GuestError;
use record::Record;
use request::Request;

fn main() -> ExitCode {
    // Turning the machine off is for the guest's own.
    if !machine::is_ours() {
        eprintln!("this is the first process of a guest: `cargo xtask` boots it under QEMU");
        return ExitCode::from(2);
    }
    let outcome = run();
    if let Err(error) = &outcome {
        Record::Failure { what: error.to_string(), place: "the program in the Linux guest" }.write();
    }
    Record::End { ok: outcome.is_ok() }.write();
    machine::power_off()
}

fn run() -> Result<(), GuestError> {
    let request = Request::parse(std::env::args().skip(1))?;
    machine::prepare()?;
    cases::run(&request)
}
