//! Some CPUs: what one of them waits for counted in microseconds, and then what it costs the machine.
//!
//! Before each change every other CPU has read the pages, so that its TLB holds them. All that Linux offers waits
//! until the others have forgotten a page before it returns.

use rustix::process::getppid;

use super::{Bench, SMALL_BURST, sample};
use crate::guest::counts::{Counters, Counts};
use crate::guest::error::GuestError;
use crate::guest::helpers::{Afterwards, Helpers};
use crate::guest::pages::{Layout, Pages};
use crate::guest::request::Samples;
use crate::guest::system::clock::ticks_per_microsecond;
use crate::guest::system::cpu::CpuNumber;

/// Pages of the larger burst.
const LARGE_BURST: usize = 64;
/// Of so many samples that are timed, one is taken again to be counted.
const TIMED_PER_COUNTED: u64 = 10;

/// A case: what is done to how many pages, while the other CPUs do what.
struct Case {
    name: &'static str,
    count: usize,
    afterwards: Afterwards,
    /// Pages that one figure of the counts is for.
    counted: usize,
    samples: fn(&Samples) -> u64,
    work: fn(&Pages) -> Result<(), GuestError>,
}

/// Comes again as [`ISSUE`]: a change that isn't waited for doesn't exist in Linux, and its cheapest one with a wait is
/// what a program has to pay instead.
const PROTECT: &str = "protect_wait";
const ISSUE: &str = "unmap_issue";

const CASES: [Case; 5] = [
    Case { work: |pages| pages.protect(0), ..Case::unmaps(PROTECT, 1) },
    Case::unmaps("unmap_wait", 1),
    Case {
        counted: SMALL_BURST,
        samples: |samples| samples.bursts,
        ..Case::unmaps("burst16_wait", SMALL_BURST)
    },
    Case { samples: |samples| samples.in_flight, ..Case::unmaps("inflight64", LARGE_BURST) },
    Case {
        afterwards: Afterwards::Sleep,
        samples: |samples| samples.idle,
        ..Case::unmaps("idle_ipis", LARGE_BURST)
    },
];

/// Times each case, with helpers on `others`, and then counts each. Microseconds are per page, and so are counts,
/// except those of a burst that topomem waits for once.
pub(super) fn run(bench: &Bench, others: &[CpuNumber]) -> Result<(), GuestError> {
    let per_microsecond = ticks_per_microsecond();
    let helpers = Helpers::start(others)?;
    let empty = sample(bench.samples.changes, || {
        Ok(bench.stopwatch.time(getppid).1.count() as f64 / per_microsecond)
    })?;
    bench.report("empty_syscall", "us", empty);
    for case in &CASES {
        let each = per_microsecond * case.count as f64;
        let ticks = case.try_out((case.samples)(&bench.samples), &helpers, |trial| {
            trial.let_others_read();
            let (result, ticks) = bench.stopwatch.time(|| trial.change());
            result.map(|()| ticks)
        })?;
        let times: Vec<f64> = ticks.iter().map(|ticks| ticks.count() as f64 / each).collect();
        if case.name == PROTECT {
            bench.report(ISSUE, "us", times.iter().copied());
        }
        bench.report_whole(case.name, "us", times);
    }
    let mut counters = Counters::start()?;
    for case in &CASES {
        let samples = (case.samples)(&bench.samples).div_ceil(TIMED_PER_COUNTED);
        let counts = case.try_out(samples, &helpers, |trial| {
            let before = counters.traced()?;
            trial.let_others_read();
            counters.across(before, || trial.change())
        })?;
        let figures = samples * (case.count / case.counted) as u64;
        let sum = counts.into_iter().fold(Counts::default(), Counts::plus);
        for (name, count) in sum.named().filter(|_| figures > 0) {
            let mean = count as f64 / figures as f64;
            bench.report_mean(case.name, name, mean, figures);
            if case.name == PROTECT {
                bench.report_mean(ISSUE, name, mean, figures);
            }
        }
    }
    Ok(())
}

impl Case {
    /// `count` pages are unmapped one by one beside helpers that spin.
    const fn unmaps(name: &'static str, count: usize) -> Self {
        Self {
            name,
            count,
            afterwards: Afterwards::Spin,
            counted: 1,
            samples: |samples| samples.changes,
            work: Pages::unmap_each,
        }
    }

    /// Maps the case's pages over and over. Each time `measure` has the others read them and makes the change; it
    /// does nothing else that maps memory.
    fn try_out<T>(
        &self,
        samples: u64,
        helpers: &Helpers,
        mut measure: impl FnMut(Trial<'_>) -> Result<T, GuestError>,
    ) -> Result<Vec<T>, GuestError> {
        let pages = Pages::reserve(self.count, Layout::Apart)?;
        sample(samples, || {
            pages.map()?;
            let measured = measure(Trial { case: self, pages: &pages, helpers });
            pages.clear()?;
            measured
        })
    }
}

/// One sample of a case: pages that are mapped.
#[derive(Clone, Copy)]
struct Trial<'t> {
    case: &'t Case,
    pages: &'t Pages,
    helpers: &'t Helpers,
}

impl Trial<'_> {
    /// Every other CPU runs, reads the pages, and then does what the case says.
    fn let_others_read(self) {
        self.helpers.read(self.pages, self.case.afterwards);
    }

    /// Changes the pages' mappings.
    fn change(self) -> Result<(), GuestError> {
        (self.case.work)(self.pages)
    }
}
