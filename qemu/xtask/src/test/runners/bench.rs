//! Steps whose work tells what failed: counts that are compared with their bounds, each a test, and programs that
//! run on the heap, each a test.

use crate::bench;
use crate::error::Error;
use crate::machines::kernel::Kernel;
use crate::preload;
use crate::test::Outcome;
use crate::test::tally::Tally;

/// The frame allocator's.
pub(in crate::test) fn frames() -> Result<Outcome, Error> {
    bench::counts_failures().map(outcome)
}

/// Those of changes of mappings.
pub(in crate::test) fn shootdown(kernel: &Kernel) -> Result<Outcome, Error> {
    bench::shootdown_counts_failures(kernel).map(outcome)
}

/// Those of programs' memory.
pub(in crate::test) fn vm(kernel: &Kernel) -> Result<Outcome, Error> {
    bench::vm_counts_failures(kernel).map(outcome)
}

/// Runs of the host's programs on the heap.
pub(in crate::test) fn preload() -> Result<Outcome, Error> {
    preload::failures().map(outcome)
}

fn outcome((output, failed): (Vec<String>, u64)) -> Outcome {
    output.iter().for_each(|line| println!("    {line}"));
    let passed = output.len() as u64 - failed;
    Outcome { tally: Tally { passed, failed, skipped: 0 }, output }
}
