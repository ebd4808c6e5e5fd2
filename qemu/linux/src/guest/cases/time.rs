//! Some CPUs, what one of them waits for counted in microseconds, and the interrupts that it takes.
//!
//! Before each change every other CPU has read the pages, so that its TLB holds them. All that Linux offers waits
//! until the others have forgotten a page before it returns.

use super::{Bench, SMALL_BURST};
use crate::guest::clock::ticks_per_microsecond;
use crate::guest::cpu::CpuNumber;
use crate::guest::error::GuestError;
use crate::guest::helpers::{Afterwards, Helpers};
use crate::guest::interrupts::Interrupts;
use crate::guest::pages::{Layout, Pages};

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

/// Times each case, with helpers on `others`, and counts its interrupts. Microseconds are per page, interrupts per
/// execution: per burst.
pub(super) fn run(bench: &Bench, others: &[CpuNumber]) -> Result<(), GuestError> {
    let per_microsecond = ticks_per_microsecond();
    let helpers = Helpers::start(others)?;
    let mut interrupts = Interrupts::open()?;
    for case in &CASES {
        let each = per_microsecond * case.count as f64;
        let ticks = case.execute(bench, &helpers, |work| {
            let (result, ticks) = bench.stopwatch.time(work);
            result.map(|()| ticks)
        })?;
        let times = || ticks.iter().map(|ticks| ticks.count() as f64 / each);
        bench.report(case.name, "us", times());
        if case.name == "protect_wait" {
            bench.report("unmap_issue", "us", times());
        }
        // Apart from the times: reading the counters leaves the CPU's caches and TLB cold.
        let counts = case.execute(&bench.briefly(), &helpers, |work| {
            let before = interrupts.received()?;
            work()?;
            Ok(interrupts.received()?.saturating_sub(before))
        })?;
        bench.report(case.name, "ipis", counts.into_iter().map(|count| count as f64));
    }
    Ok(())
}

impl Case {
    /// Does the case's work over and over, on pages that all CPUs have read. `measure` is handed the work, and does
    /// nothing else that maps memory.
    fn execute<T>(
        &self,
        bench: &Bench,
        helpers: &Helpers,
        mut measure: impl FnMut(&dyn Fn() -> Result<(), GuestError>) -> Result<T, GuestError>,
    ) -> Result<Vec<T>, GuestError> {
        let pages = Pages::reserve(self.count, Layout::Apart)?;
        bench.sample(|| {
            pages.map()?;
            helpers.read(&pages, self.afterwards);
            let measured = measure(&|| (self.work)(&pages));
            pages.clear()?;
            measured
        })
    }
}
