//! `cargo xtask`: builds, runs and tests topomem.

mod acpidump;
mod bench;
mod checks;
mod cli;
mod error;
mod firmware;
mod machines;
mod preload;
mod programs;
mod qemu;
mod report;
mod run;
mod shell;
/// Shared with the program that simulates, which is a package of its own, without a library.
#[path = "../../sim/src/job.rs"]
mod sim_job;
mod test;
mod tiers;
mod tools;
mod topology;
mod words;
mod workspace;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command};
use error::Error;

fn main() -> ExitCode {
    let command = Cli::parse().command;
    match checks::check(&command).and_then(|()| run(command)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

/// Did what the command ran succeed?
fn run(command: Command) -> Result<bool, Error> {
    match command {
        Command::Qemu(arguments) => machines::boot::boot(&arguments),
        Command::Doctor => Ok(tools::doctor()),
        Command::Prepare => tools::prepare().map(|()| true),
        Command::Sim(arguments) => machines::sim::sim(&arguments),
        Command::Matrix(arguments) => machines::matrix::matrix(&arguments),
        Command::Test(arguments) => test::test(&arguments),
        Command::Tiers => tiers::tiers(),
        Command::Preload(arguments) => preload::preload(&arguments),
        Command::Bench(command) => bench::bench(&command),
        Command::Acpidump(arguments) => acpidump::acpidump(&arguments),
        Command::Topology(arguments) => firmware::topology(&arguments),
        Command::Words => words::words(),
    }
}
