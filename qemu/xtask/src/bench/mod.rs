//! `cargo xtask bench`: topomem measured beside its peers.

mod comparison;
mod contention;
mod counts;
mod figures;
mod frames;
mod hardening;
mod heap;
mod instructions;
mod kernels;
mod limits;
pub(crate) mod linux;
mod metric;
mod program;
mod samples;
mod shootdown;
mod vm;

use std::path::Path;

use serde_json::Map;

use crate::cli::BenchCommand;
use crate::error::Error;
use crate::report::{self, Document};
use crate::run::description;
use crate::run::record::{Failure, Measurement};

pub(crate) use counts::failures as counts_failures;
pub(crate) use shootdown::counts_failures as shootdown_counts_failures;
pub(crate) use vm::counts_failures as vm_counts_failures;

/// Runs a benchmark and prints what came of it.
pub(crate) fn bench(command: &BenchCommand) -> Result<bool, Error> {
    match command {
        BenchCommand::Frames(arguments) => frames::frames(arguments),
        BenchCommand::Heap(arguments) => heap::heap(arguments),
        BenchCommand::Hardening => hardening::hardening(),
        BenchCommand::Contention(arguments) => contention::contention(&contention::FRAMES, arguments),
        BenchCommand::HeapContention(arguments) => contention::contention(&contention::HEAP, arguments),
        BenchCommand::Spaces(arguments) => contention::contention(&contention::SPACES, arguments),
        BenchCommand::Shootdown(arguments) => shootdown::shootdown(arguments),
        BenchCommand::Vm(arguments) => vm::vm(arguments),
    }
}

/// Writes the report where `path` asks for one.
fn write(
    path: Option<&Path>,
    command: &str,
    options: Map<String, serde_json::Value>,
    results: Vec<Measurement>,
    failures: Vec<Failure>,
) -> Result<(), Error> {
    let Some(path) = path else { return Ok(()) };
    let mut run = description::environment(command);
    run.insert("options".to_owned(), options.into());
    report::write(path, &Document::of_results(run, results, failures))
}
