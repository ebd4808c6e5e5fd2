//! Runs many random logs.

use std::time::{Duration, Instant};

use crate::compare::coverage::Coverage;
use crate::compare::system::System;
use crate::compare::{Difference, compare};
use crate::log::Log;
use crate::log::generate::Generator;
use crate::log::shrink::shrink;
use crate::model::Mutation;

/// How many logs to run.
#[derive(Debug, Clone, Copy)]
pub struct Campaign {
    /// The first log's seed; each further log has the next one.
    pub seed: u64,
    /// The most logs.
    pub logs: u64,
    /// The most time, looked at before each log.
    pub time: Duration,
    /// An error that the model makes.
    pub mutation: Option<Mutation>,
}

/// A difference that a campaign has found.
#[derive(Debug)]
pub struct Found {
    /// The seed of the log.
    pub seed: u64,
    /// The difference of the smallest log that still shows one.
    pub difference: Box<Difference>,
}

impl std::fmt::Display for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "seed {}: {}", self.seed, self.difference)
    }
}

impl Campaign {
    /// Returns the log of a seed.
    pub fn log(seed: u64) -> Log {
        // Neighbouring seeds would share most numbers of the generator.
        Generator::new(seed.wrapping_mul(0xd6e8_feb8_6659_fd93)).log()
    }

    /// Compares `system` with the model until a difference is found or the campaign is over.
    ///
    /// # Errors
    ///
    /// [`Found`], with a log that was made small.
    pub fn run(&self, system: &mut dyn System) -> Result<Coverage, Found> {
        let start = Instant::now();
        let mut coverage = Coverage::default();
        for seed in (self.seed..).take(usize::try_from(self.logs).unwrap_or(usize::MAX)) {
            if start.elapsed() > self.time {
                break;
            }
            let log = system.adapt(&Campaign::log(seed));
            if let Err(mut difference) = compare(system, &log, self.mutation, &mut coverage) {
                shrink(&log, |log| match compare(system, log, self.mutation, &mut Coverage::default()) {
                    Ok(()) => false,
                    Err(smaller) => {
                        difference = smaller;
                        true
                    }
                });
                return Err(Found { seed, difference });
            }
        }
        Ok(coverage)
    }
}
