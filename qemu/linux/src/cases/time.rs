//! Some CPUs, what one of them waits for counted in microseconds, and the interrupts that it takes.
//!
//! Before each change every other CPU has read the pages, so that its TLB holds them. All that Linux offers waits
//! until the others have forgotten a page before it returns.

use super::{Bench, SMALL_BURST};
use crate::clock::{Ticks, ticks_per_microsecond};
use crate::cpu::CpuNumber;
use crate::error::GuestError;
use crate::helpers::{Afterwards, Helpers};
use crate::interrupts::Interrupts;
use crate::pages::{Layout, Pages};

/// Pages of the larger burst.
const LARGE_BURST: usize = 64;

/// A case: what is done to how many pages, while the other CPUs do what.
struct Case {
    name: &'static str,
    count: usize,
    afterwards: Afterwards,
    work: fn(&Pages) -> Result<(), GuestError>,
}

/// `protect_wait` comes again as `unmap_issue`: a change that isn't waited for doesn't exist in Linux, and its
/// cheapest one with a wait is what a program has to pay instead.
const CASES: [Case; 5] = [
    Case { name: "protect_wait", count: 1, afterwards: Afterwards::Spin, work: |pages| pages.protect(0) },
    Case { name: "unmap_wait", count: 1, afterwards: Afterwards::Spin, work: Pages::unmap_each },
    Case { name: "burst16_wait", count: SMALL_BURST, afterwards: Afterwards::Spin, work: Pages::unmap_each },
    Case { name: "inflight64", count: LARGE_BURST, afterwards: Afterwards::Spin, work: Pages::unmap_each },
    Case { name: "idle_ipis", count: LARGE_BURST, afterwards: Afterwards::Sleep, work: Pages::unmap_each },
];

/// One execution of a case.
struct Sample {
    ticks: Ticks,
    /// Received by all CPUs together.
    interrupts: u64,
}

/// Times each case, with helpers on `others`. Microseconds are per page, interrupts per execution: per burst.
pub(super) fn run(bench: &Bench, others: &[CpuNumber]) -> Result<(), GuestError> {
    let per_microsecond = ticks_per_microsecond();
    let helpers = Helpers::start(others)?;
    let mut interrupts = Interrupts::open()?;
    for case in &CASES {
        let samples = execute(bench, case, &helpers, &mut interrupts)?;
        let each = per_microsecond * case.count as f64;
        let times = || samples.iter().map(|sample| sample.ticks.count() as f64 / each);
        bench.report(case.name, "us", times());
        bench.report(case.name, "ipis", samples.iter().map(|sample| sample.interrupts as f64));
        if case.name == "protect_wait" {
            bench.report("unmap_issue", "us", times());
        }
    }
    Ok(())
}

fn execute(
    bench: &Bench,
    case: &Case,
    helpers: &Helpers,
    interrupts: &mut Interrupts,
) -> Result<Vec<Sample>, GuestError> {
    let pages = Pages::reserve(case.count, Layout::Apart)?;
    bench.sample(|| {
        pages.map()?;
        helpers.read(&pages, case.afterwards);
        let before = interrupts.received()?;
        let (result, ticks) = bench.stopwatch.time(|| (case.work)(&pages));
        let after = interrupts.received()?;
        pages.clear()?;
        result.map(|()| Sample { ticks, interrupts: after.saturating_sub(before) })
    })
}
