//! Booting the subjects, one after the other.

use serde::Serialize;

use super::host;
use super::plan::{self, Plan};
use crate::bench::figures::Figures;
use crate::bench::linux::{Linux, Request};
use crate::bench::metric::Metric;
use crate::bench::samples::Samples;
use crate::cli::{Levels, ScenarioOptions};
use crate::error::Error;
use crate::kernel::Kernel;
use crate::qemu::{self, Job};
use crate::record::{Distribution, Failure, Measurement};
use crate::report::Screen;
use crate::topology::TopologySpec;

/// topomem's scenario that measures, and how long it may take.
const SCENARIO: &str = "measure-shootdown";
const SECONDS: u32 = 60;
/// For the kernel, which measures nothing at random.
const SEED: u64 = 1;

/// What boots.
#[derive(Clone, Copy, Debug)]
pub(super) struct Subjects<'a> {
    pub(super) kernel: &'a Kernel,
    pub(super) linux: Option<&'a Linux>,
}

/// One boot, and all that came of it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Boot {
    subject: &'static str,
    machine: String,
    cpus: u32,
    /// Which of the boots on this machine, from 1 on.
    number: u32,
    icount: bool,
    samples: Samples,
    /// Did other programs use the host just before?
    disturbed: bool,
    command: Option<String>,
    pub(super) results: Vec<Measurement>,
    pub(super) distributions: Vec<Distribution>,
}

/// Boots so far, in the order in which they were.
#[derive(Debug, Default)]
pub(super) struct Boots {
    pub(super) boots: Vec<Boot>,
    pub(super) failures: Vec<Failure>,
}

impl Boots {
    /// The plan's boots. One that fails is a failure, and the others go on.
    pub(super) fn run(&mut self, plan: &Plan, subjects: Subjects<'_>) -> Result<(), Error> {
        for &cpus in plan.cpus {
            let spec = plan::machine(cpus)?;
            let linux = subjects.linux.filter(|_| plan.shared.contains(&cpus));
            let samples = plan.samples(cpus);
            for number in 1..=plan.boots {
                println!("{}, boot {number} of {}", spec.name, plan.boots);
                let boot = |subject, disturbed, figures: Figures| Boot {
                    subject,
                    machine: spec.name.clone(),
                    cpus,
                    number,
                    icount: plan.metric == Metric::Instructions,
                    samples,
                    disturbed,
                    command: figures.command,
                    results: figures.results,
                    distributions: figures.distributions,
                };
                let is_disturbed = || plan.metric == Metric::Time && host::is_busy();
                // In turn, so that a host that becomes slower does so for both.
                let disturbed = is_disturbed();
                let (figures, failures) = topomem(subjects.kernel, &spec, plan.metric, samples)?;
                self.boots.push(boot("topomem", disturbed, figures));
                self.failures.extend(failures);
                let Some(linux) = linux else { continue };
                let disturbed = is_disturbed();
                match linux.measure(&spec, Request { metric: plan.metric, samples }) {
                    Ok(figures) => self.boots.push(boot("linux", disturbed, figures)),
                    Err(Error::Linux(error)) => {
                        let place = format!("Linux, {}", spec.name);
                        self.failures.push(Failure::new(error.to_string(), place));
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// Timed ones that began while other programs used the host.
    pub(super) fn disturbed(&self) -> usize {
        self.boots.iter().filter(|boot| boot.disturbed).count()
    }
}

/// One boot of topomem's kernel.
pub(super) fn topomem(
    kernel: &Kernel,
    spec: &TopologySpec,
    metric: Metric,
    samples: Samples,
) -> Result<(Figures, Vec<Failure>), Error> {
    let scenario = ScenarioOptions {
        scenario: SCENARIO.to_owned(),
        seconds: SECONDS,
        seed: SEED,
        fault: None,
        levels: Levels::Four,
        tlb: None,
        module: None,
    };
    let words = samples.words();
    let job = Job { kernel, spec, scenario: &scenario, words: &words, emulation: metric.emulation() };
    let run = qemu::run(job, &mut Screen::capturing(""))?;
    let place = |failure: Failure| Failure::new(failure.what, format!("{}, {}", failure.place, spec.name));
    let failures = run.failures.into_iter().map(place).collect();
    let figures = Figures { results: run.results, distributions: run.distributions, command: run.command };
    Ok((figures, failures))
}
