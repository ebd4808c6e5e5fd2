//! Which machines are booted, how often, and how much is measured in a boot.

use serde_json::json;

use crate::bench::kernels::{Measuring, Round, machine};
use crate::bench::metric::Metric;
use crate::bench::samples::Samples;
use crate::error::Error;

/// topomem's scenario that measures.
const SCENARIO: &str = "measure-shootdown";

/// How much to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    Full,
    Quick,
}

impl From<bool> for Extent {
    /// By the option `--quick`.
    fn from(quick: bool) -> Self {
        if quick { Self::Quick } else { Self::Full }
    }
}

/// The boots that give one table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) metric: Metric,
    extent: Extent,
    /// How many CPUs topomem's machines have.
    pub(super) cpus: &'static [u32],
    /// Those on which Linux boots too.
    shared: &'static [u32],
    /// Boots of each subject on each machine.
    boots: u32,
}

impl Plan {
    pub(super) fn new(metric: Metric, extent: Extent) -> Self {
        let is_quick = extent == Extent::Quick;
        match metric {
            // What is exact needs to be seen once. With several CPUs it counts how they wait for each other, which
            // Linux does in other ways.
            Metric::Instructions => Self { metric, extent, cpus: &[1, 2, 8, 64], shared: &[1], boots: 1 },
            Metric::Time => Self {
                metric,
                extent,
                // One CPU alone tells where many single flushes become dearer than a full one.
                cpus: &[1, 2, 4, 8],
                shared: &[2, 4, 8],
                boots: if is_quick { 1 } else { 5 },
            },
        }
    }

    /// The boots, machine by machine.
    pub(super) fn rounds(&self) -> Result<Vec<Round<'static>>, Error> {
        let round = |&cpus: &u32| {
            let samples = self.samples(cpus);
            let linux = self
                .shared
                .contains(&cpus)
                .then(|| format!("suite=shootdown subject=linux {} {}", self.metric.word(), samples.words()));
            Ok(Round {
                spec: machine(cpus)?,
                metric: self.metric,
                boots: self.boots,
                samples: json!(samples),
                topomem: self.topomem(cpus),
                linux,
            })
        };
        self.cpus.iter().map(round).collect()
    }

    /// What topomem's kernel is asked for on `cpus` CPUs.
    pub(super) fn topomem(&self, cpus: u32) -> Measuring<'static> {
        Measuring { scenario: SCENARIO, words: self.samples(cpus).words(), module: None }
    }

    /// How much each subject is asked for on `cpus` CPUs.
    fn samples(&self, cpus: u32) -> Samples {
        let none = Samples { changes: 0, bursts: 0, in_flight: 0, idle: 0 };
        match (self.metric, cpus) {
            // Enough for a median.
            (Metric::Instructions, 2) => Samples { changes: 60, idle: 10, ..none },
            (Metric::Instructions, _) => Samples { changes: 60, bursts: 60, ..none },
            (Metric::Time, _) => {
                let full = match cpus {
                    1 => Samples { changes: 200, bursts: 200, ..none },
                    2 => Samples { changes: 2000, bursts: 1000, in_flight: 300, idle: 100 },
                    // Each change may take Linux so many of the host's time slices that a few must do: the times
                    // say little there, and the counts vary little.
                    4 => Samples { changes: 60, bursts: 30, in_flight: 30, ..none },
                    _ => Samples { changes: 30, bursts: 15, in_flight: 15, ..none },
                };
                if self.extent == Extent::Full { full } else { a_fifth(full) }
            }
        }
    }
}

fn a_fifth(Samples { changes, bursts, in_flight, idle }: Samples) -> Samples {
    let fifth = |samples: u64| samples.div_ceil(5);
    Samples { changes: fifth(changes), bursts: fifth(bursts), in_flight: fifth(in_flight), idle: fifth(idle) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_are_asked_for_as_much() {
        let rounds = Plan::new(Metric::Instructions, Extent::Full).rounds().unwrap();
        let linux = rounds[0].linux.as_deref().unwrap();
        let samples = linux.strip_prefix("suite=shootdown subject=linux metric=instructions ").unwrap();
        assert_eq!(samples, rounds[0].topomem.words);
        assert_eq!(rounds[1].linux, None);
    }

    #[test]
    fn a_quick_run_measures_the_same_cases() {
        for cpus in [1, 2, 4, 8] {
            let [full, quick] =
                [Extent::Full, Extent::Quick].map(|extent| Plan::new(Metric::Time, extent).samples(cpus));
            let measured = |samples: Samples| {
                [samples.changes, samples.bursts, samples.in_flight, samples.idle].map(|samples| samples > 0)
            };
            assert_eq!(measured(full), measured(quick), "{cpus} CPUs");
            assert!(quick.changes < full.changes);
        }
    }
}
