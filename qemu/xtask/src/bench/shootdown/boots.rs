//! Booting the subjects, one after the other.

use super::host;
use super::plan::{self, Plan};
use crate::bench::figures::Figures;
use crate::bench::linux::Linux;
use crate::bench::metric::Metric;
use crate::cli::{Levels, ScenarioOptions};
use crate::error::Error;
use crate::kernel::Kernel;
use crate::qemu::{self, Job};
use crate::record::Failure;
use crate::report::Screen;
use crate::topology::TopologySpec;

/// topomem's scenario that measures, and how long it may take.
const SCENARIO: &str = "measure-shootdown";
const SECONDS: u32 = 60;

/// What boots.
#[derive(Clone, Copy, Debug)]
pub(super) struct Subjects<'a> {
    pub(super) kernel: &'a Kernel,
    pub(super) linux: Option<&'a Linux>,
}

/// Boots so far: what went wrong in them.
#[derive(Debug, Default)]
pub(super) struct Boots {
    /// Timed ones that began while other programs used the host.
    pub(super) disturbed: u32,
    pub(super) failures: Vec<Failure>,
}

impl Boots {
    /// Everything that the plan's boots send. One that fails is a failure, and the others go on.
    pub(super) fn run(&mut self, plan: &Plan, subjects: Subjects<'_>) -> Result<Figures, Error> {
        let mut all = Figures::default();
        for &cpus in plan.cpus {
            let spec = plan::machine(cpus)?;
            let linux = subjects.linux.filter(|_| plan.shared.contains(&cpus));
            for boot in 1..=plan.boots {
                println!("{}, boot {boot} of {}", spec.name, plan.boots);
                // In turn, so that a host that becomes slower does so for both.
                self.disturbed += u32::from(plan.metric == Metric::Time && host::is_busy());
                self.keep(&mut all, topomem(subjects.kernel, &spec, plan.metric)?);
                if let Some(linux) = linux {
                    match linux.measure(&spec, plan.request) {
                        Ok(figures) => self.keep(&mut all, (figures, Vec::new())),
                        Err(Error::Linux(error)) => {
                            self.failures
                                .push(Failure::new(error.to_string(), format!("Linux, {}", spec.name)));
                        }
                        Err(error) => return Err(error),
                    }
                }
            }
        }
        Ok(all)
    }

    fn keep(&mut self, all: &mut Figures, (figures, failures): (Figures, Vec<Failure>)) {
        all.results.extend(figures.results);
        all.distributions.extend(figures.distributions);
        self.failures.extend(failures);
    }
}

/// One boot of topomem's kernel.
pub(super) fn topomem(
    kernel: &Kernel,
    spec: &TopologySpec,
    metric: Metric,
) -> Result<(Figures, Vec<Failure>), Error> {
    let scenario = ScenarioOptions {
        scenario: SCENARIO.to_owned(),
        seconds: SECONDS,
        seed: 1,
        fault: None,
        levels: Levels::Four,
    };
    let job = Job { kernel, spec, scenario: &scenario, emulation: metric.emulation() };
    let run = qemu::run(job, &mut Screen::capturing(""))?;
    let place = |failure: Failure| Failure::new(failure.what, format!("{}, {}", failure.place, spec.name));
    let failures = run.failures.into_iter().map(place).collect();
    Ok((Figures { results: run.results, distributions: run.distributions }, failures))
}
