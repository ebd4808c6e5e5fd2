//! One CPU, its work counted in instructions: exact, and the same each time.
//!
//! All counts include the system call, as a program has no other way to change a mapping. A sample that a timer
//! interrupt falls into is larger.

use rustix::process::getppid;

use super::{Bench, SMALL_BURST, sample};
use crate::guest::error::GuestError;
use crate::guest::pages::{Layout, Pages};

const UNIT: &str = "instructions";

/// Something done to mapped pages.
type Change = fn(&Pages) -> Result<(), GuestError>;

/// Counts each case.
pub(super) fn run(bench: &Bench) -> Result<(), GuestError> {
    let empty = sample(bench.samples.changes, || Ok(bench.stopwatch.time(getppid).1.count() as f64))?;
    bench.report("empty_syscall", UNIT, empty);
    change(bench, "protect_1", (1, Layout::Together), 1, |pages| pages.protect(0))?;
    change(bench, "unmap_1", (1, Layout::Together), 1, Pages::unmap_all)?;
    change(bench, "unmap_64", (64, Layout::Together), 1, Pages::unmap_all)?;
    change(bench, "unmap_512", (512, Layout::Together), 1, Pages::unmap_all)?;
    // Each of the 16: as holes in one mapping, and as what is cheaper here, mappings of their own.
    change(bench, "unmap_burst16", (SMALL_BURST, Layout::Holes), SMALL_BURST, Pages::unmap_each)?;
    change(bench, "unmap_burst16_apart", (SMALL_BURST, Layout::Apart), SMALL_BURST, Pages::unmap_each)
}

/// Counts the instructions of `work` on newly mapped and touched pages, divided by `parts`.
fn change(
    bench: &Bench,
    case: &str,
    (count, layout): (usize, Layout),
    parts: usize,
    work: Change,
) -> Result<(), GuestError> {
    let pages = Pages::reserve(count, layout)?;
    let samples = sample(bench.samples.changes, || {
        pages.map()?;
        let (result, ticks) = bench.stopwatch.time(|| work(&pages));
        pages.clear()?;
        result.map(|()| ticks.count() as f64 / parts as f64)
    })?;
    bench.report(case, UNIT, samples);
    Ok(())
}
