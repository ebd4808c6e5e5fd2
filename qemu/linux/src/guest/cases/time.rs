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
    /// Pages that one figure of interrupts is for.
    counted: usize,
    work: fn(&Pages) -> Result<(), GuestError>,
}

/// `protect_wait` comes again as `unmap_issue`: a change that isn't waited for doesn't exist in Linux, and its
/// cheapest one with a wait is what a program has to pay instead.
const CASES: [Case; 5] = [
    Case { work: |pages| pages.protect(0), ..Case::unmaps("protect_wait", 1) },
    Case::unmaps("unmap_wait", 1),
    Case { counted: SMALL_BURST, ..Case::unmaps("burst16_wait", SMALL_BURST) },
    Case::unmaps("inflight64", LARGE_BURST),
    Case { afterwards: Afterwards::Sleep, ..Case::unmaps("idle_ipis", LARGE_BURST) },
];

/// Times each case, with helpers on `others`, and counts its interrupts. Microseconds are per page, and so are
/// interrupts, except those of a burst that topomem waits for once.
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
        let times: Vec<f64> = ticks.iter().map(|ticks| ticks.count() as f64 / each).collect();
        if case.name == "protect_wait" {
            bench.report("unmap_issue", "us", times.iter().copied());
        }
        bench.report_whole(case.name, "us", times);
        // Apart from the times: reading the counters leaves the CPU's caches and TLB cold.
        let counts = case.execute(&bench.briefly(), &helpers, |work| {
            let before = interrupts.received()?;
            work()?;
            Ok(interrupts.received()?.saturating_sub(before))
        })?;
        let parts = case.count as f64 / case.counted as f64;
        bench.report(case.name, "IPIs", counts.into_iter().map(|count| count as f64 / parts));
    }
    Ok(())
}

impl Case {
    /// `count` pages are unmapped one by one beside helpers that spin.
    const fn unmaps(name: &'static str, count: usize) -> Self {
        Self { name, count, afterwards: Afterwards::Spin, counted: 1, work: Pages::unmap_each }
    }

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
