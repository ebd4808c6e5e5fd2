//! The cases: what is done, how often, and what is reported.

mod instructions;
mod time;

use std::time::Instant;

use crate::guest::clock::Stopwatch;
use crate::guest::cpu::{self, CpuNumber};
use crate::guest::error::GuestError;
use crate::guest::record::{Distributed, Measured, Record};
use crate::guest::request::{Budget, Metric, Request};
use crate::guest::spread::{self, Spread};

/// Pages of the smaller burst: 16 unmaps, one wait where there is one to choose.
const SMALL_BURST: usize = 16;

/// Runs all cases of a metric, and writes their results.
pub(crate) fn run(request: &Request) -> Result<(), GuestError> {
    let cpus = cpu::allowed()?;
    cpu::pin(CpuNumber::FIRST)?;
    let bench = Bench { cpus: cpus.len(), budget: request.budget, stopwatch: Stopwatch::new() };
    match request.metric {
        Metric::Instructions => instructions::run(&bench),
        Metric::Time => {
            let others: Vec<_> = cpus.into_iter().filter(|&cpu| cpu != CpuNumber::FIRST).collect();
            time::run(&bench, &others)
        }
    }
}

/// What all cases share.
struct Bench {
    /// CPUs of the machine.
    cpus: usize,
    budget: Budget,
    stopwatch: Stopwatch,
}

impl Bench {
    /// The same with a quarter of the samples, for what varies little.
    fn briefly(&self) -> Self {
        let Budget { samples, time } = self.budget;
        Self { budget: Budget { samples: samples.div_ceil(4), time: time / 4 }, ..*self }
    }

    /// As many samples as the budget allows.
    fn sample<T>(&self, mut one: impl FnMut() -> Result<T, GuestError>) -> Result<Vec<T>, GuestError> {
        let start = Instant::now();
        let mut samples = Vec::new();
        for number in 0..self.budget.samples {
            if number >= Budget::FEWEST && start.elapsed() >= self.budget.time {
                break;
            }
            samples.push(one()?);
        }
        Ok(samples)
    }

    /// Writes a result, and how its samples are spread.
    fn report_whole(&self, case: &str, unit: &str, samples: Vec<f64>) {
        if let Some(percentiles) = spread::percentiles(samples.iter().copied()) {
            Record::Distribution(Distributed::new(case, self.cpus, unit, percentiles)).write();
        }
        self.report(case, unit, samples);
    }

    /// Writes a result.
    fn report(&self, case: &str, unit: &str, samples: impl IntoIterator<Item = f64>) {
        if let Some(spread) = Spread::of(samples) {
            Record::Result(Measured::new(case, self.cpus, unit, spread)).write();
        }
    }
}
