//! Booting the subjects, one after the other.

use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use super::host;
use crate::bench::figures::Figures;
use crate::bench::linux::Linux;
use crate::bench::metric::Metric;
use crate::cli::{Levels, ScenarioOptions};
use crate::error::Error;
use crate::machines::kernel::Kernel;
use crate::qemu::{self, Job};
use crate::report::Screen;
use crate::run::record::{Absent, Distribution, Failure, Measurement};
use crate::topology::{MachineOptions, Size, TopologySpec};
use crate::workspace;

/// How long topomem's kernel may take.
const SECONDS: u32 = 60;
/// For the kernel, which places programs at random, and so decides which tables and words they meet.
const SEED: u64 = 1;

/// What boots.
#[derive(Clone, Copy, Debug)]
pub(in crate::bench) struct Subjects<'a> {
    pub(in crate::bench) kernel: &'a Kernel,
    pub(in crate::bench) linux: Option<&'a Linux>,
}

/// Boots on one machine that measure the same.
#[derive(Clone, Debug)]
pub(in crate::bench) struct Round<'a> {
    pub(in crate::bench) spec: TopologySpec,
    pub(in crate::bench) metric: Metric,
    /// Boots of each subject.
    pub(in crate::bench) boots: u32,
    /// How much each is asked for, for the report.
    pub(in crate::bench) samples: Value,
    pub(in crate::bench) topomem: Measuring<'a>,
    /// The words that Linux's program is given, if Linux boots on this machine.
    pub(in crate::bench) linux: Option<String>,
}

/// What topomem's kernel is asked for.
#[derive(Clone, Debug)]
pub(in crate::bench) struct Measuring<'a> {
    /// The scenario that measures.
    pub(in crate::bench) scenario: &'static str,
    pub(in crate::bench) words: String,
    /// What is loaded beside the kernel.
    pub(in crate::bench) module: Option<&'a Path>,
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
    samples: Value,
    /// Did other programs use the host just before?
    disturbed: bool,
    command: Option<String>,
    pub(super) results: Vec<Measurement>,
    pub(super) distributions: Vec<Distribution>,
    pub(super) absent: Vec<Absent>,
}

/// Boots so far, in the order in which they were.
#[derive(Debug, Default)]
pub(super) struct Boots {
    pub(super) boots: Vec<Boot>,
    pub(super) failures: Vec<Failure>,
}

impl Boots {
    /// The boots of a round. One that fails is a failure, and the others go on.
    pub(super) fn run(&mut self, round: &Round<'_>, subjects: Subjects<'_>) -> Result<(), Error> {
        let Round { spec, metric, boots, samples, topomem, linux } = round;
        for number in 1..=*boots {
            println!("{}, boot {number} of {boots}", spec.name);
            let boot = |subject, disturbed, figures: Figures| Boot {
                subject,
                machine: spec.name.clone(),
                cpus: spec.cpu_count(),
                number,
                icount: *metric == Metric::Instructions,
                samples: samples.clone(),
                disturbed,
                command: figures.command,
                results: figures.results,
                distributions: figures.distributions,
                absent: figures.absent,
            };
            let is_disturbed = || *metric == Metric::Time && host::is_busy();
            // In turn, so that a host that becomes slower does so for both.
            let disturbed = is_disturbed();
            let (figures, failures) = self::topomem(subjects.kernel, spec, *metric, topomem)?;
            self.boots.push(boot("topomem", disturbed, figures));
            self.failures.extend(failures);
            let (Some(linux), Some(words)) = (subjects.linux, linux) else { continue };
            let disturbed = is_disturbed();
            match linux.measure(spec, *metric, words) {
                Ok(figures) => self.boots.push(boot("linux", disturbed, figures)),
                Err(Error::Linux(error)) => {
                    let place = format!("Linux, {}", spec.name);
                    self.failures.push(Failure::new(error.to_string(), place));
                }
                Err(error) => return Err(error),
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
pub(in crate::bench) fn topomem(
    kernel: &Kernel,
    spec: &TopologySpec,
    metric: Metric,
    measuring: &Measuring<'_>,
) -> Result<(Figures, Vec<Failure>), Error> {
    let scenario = ScenarioOptions {
        scenario: measuring.scenario.to_owned(),
        seconds: SECONDS,
        seed: SEED,
        fault: None,
        levels: Levels::Four,
        tlb: None,
        module: measuring.module.map(Path::to_owned),
    };
    let job =
        Job { kernel, spec, scenario: &scenario, words: &measuring.words, emulation: metric.emulation() };
    let run = qemu::run(job, &mut Screen::capturing(""))?;
    let place = |failure: Failure| Failure::new(failure.what, format!("{}, {}", failure.place, spec.name));
    let failures = run.failures.into_iter().map(place).collect();
    let figures = Figures {
        results: run.results,
        distributions: run.distributions,
        absent: run.absent,
        command: run.command,
    };
    Ok((figures, failures))
}

/// The machine with so many CPUs, over two nodes.
pub(in crate::bench) fn machine(cpus: u32) -> Result<TopologySpec, Error> {
    let memory = Size::from_mib(1024);
    let options = MachineOptions { nodes: 2, cpus, memory, distance: Vec::new(), topology: None };
    options.spec(workspace::root())
}
