//! The cases: what is done, how often, and what is reported.

mod instructions;
mod time;

use super::system::clock::Stopwatch;
use super::system::cpu::{self, CpuNumber};
use crate::guest::error::GuestError;
use crate::guest::record::{Distributed, Measured, Origin, Record};
use crate::guest::request::{Metric, Samples, Subject};
use crate::guest::spread::{self, Spread};

/// Pages of the smaller burst: 16 unmaps, one wait where there is one to choose.
const SMALL_BURST: usize = 16;

/// Runs all cases of a metric, and writes their results.
pub(crate) fn run(subject: Subject, metric: Metric, samples: Samples) -> Result<(), GuestError> {
    let cpus = cpu::allowed()?;
    cpu::pin(CpuNumber::FIRST)?;
    let origin = Origin { suite: "shootdown", subject: subject.name(), cpus: cpus.len() };
    let bench = Bench { origin, samples, stopwatch: Stopwatch::new() };
    match metric {
        Metric::Instructions => instructions::run(&bench),
        Metric::Time => {
            let others: Vec<_> = cpus.into_iter().filter(|&cpu| cpu != CpuNumber::FIRST).collect();
            time::run(&bench, &others)
        }
    }
}

/// What all cases share.
struct Bench {
    origin: Origin,
    samples: Samples,
    stopwatch: Stopwatch,
}

impl Bench {
    /// Writes a result, and how its samples are spread.
    fn report_whole(&self, case: &str, unit: &str, samples: Vec<f64>) {
        if let Some(percentiles) = spread::percentiles(samples.iter().copied()) {
            Record::Distribution(Distributed::new(self.origin, case, unit, samples.len(), percentiles))
                .write();
        }
        self.report(case, unit, samples);
    }

    /// Writes a result.
    fn report(&self, case: &str, unit: &str, samples: impl IntoIterator<Item = f64>) {
        if let Some(spread) = Spread::of(samples) {
            Record::Result(Measured::new(self.origin, case, unit, spread)).write();
        }
    }

    /// Writes the mean of `n` figures.
    fn report_mean(&self, case: &str, unit: &str, mean: f64, n: u64) {
        let spread = Spread { median: mean, low: mean, high: mean, n };
        Record::Result(Measured::new(self.origin, case, unit, spread)).write();
    }
}

/// So many samples.
fn sample<T>(samples: u64, mut one: impl FnMut() -> Result<T, GuestError>) -> Result<Vec<T>, GuestError> {
    (0..samples).map(|_| one()).collect()
}
