//! `cargo xtask test`: every test there is.

mod commands;
mod failures;
#[cfg(test)]
mod pages;
mod programs;
mod runners;
mod steps;
mod tally;

use std::time::{Duration, Instant};

use crate::cli::TestArgs;
use crate::error::Error;
use crate::machines::kernel::Variant;
use crate::report::Screen;
use crate::tools;

use failures::Failure;
use programs::Programs;
use runners::{bench, beside, cargo, machine, tier};
use steps::{Step, Work};
use tally::Tally;

/// What a step came to.
struct Outcome {
    tally: Tally,
    /// Everything it wrote, to show if it failed.
    output: Vec<String>,
}

impl Outcome {
    /// A step that can't run on this host.
    fn skipped(reason: String) -> Outcome {
        Outcome { tally: Tally::SKIPPED, output: vec![reason] }
    }

    /// What keeps a step from running is a failure of the step, and so is that it ran no test: a name that was
    /// changed, say, and is asked for no longer.
    fn of(outcome: Result<Outcome, Error>) -> Outcome {
        match outcome {
            Ok(Outcome { tally, mut output }) if tally == Tally::default() => {
                output.push("no test ran".to_owned());
                Outcome { tally: Tally::FAILED, output }
            }
            Ok(outcome) => outcome,
            Err(error) => Outcome { tally: Tally::FAILED, output: vec![format!("error: {error}")] },
        }
    }
}

/// Runs the steps asked for; the last line is the tally. Did all pass?
pub(crate) fn test(arguments: &TestArgs) -> Result<bool, Error> {
    let steps = selected(arguments)?;
    if arguments.list {
        steps.iter().for_each(|step| println!("{}", step.name));
        return Ok(true);
    }
    let mut needed: Vec<_> = steps.iter().flat_map(|step| step.work.tools()).copied().collect();
    needed.dedup();
    tools::ensure(&needed)?;

    let mut report = Report::new(steps.len());
    let mut programs = Programs::default();
    for group in steps.chunk_by(|step, next| step.beside_others().is_some() && next.beside_others().is_some())
    {
        if let Err(error) = tools::ensure_room_for_a_step() {
            report.end();
            return Err(error);
        }
        let beside: Vec<_> = group.iter().filter_map(|step| Some((step, step.beside_others()?))).collect();
        match &beside[..] {
            [_, _, ..] => {
                let names: Vec<_> = group.iter().map(|step| step.name.as_str()).collect();
                println!("beside each other: {}", names.join(", "));
                beside::run(&beside, |ended| {
                    report.title(ended.step);
                    ended.lines.iter().for_each(|line| println!("{line}"));
                    report.add(ended.step, &ended.outcome, ended.took);
                });
            }
            _ => group.iter().for_each(|step| {
                report.title(step);
                let start = Instant::now();
                let outcome = run(step, &mut programs);
                report.add(step, &outcome, start.elapsed());
            }),
        }
    }
    Ok(report.end())
}

/// What the steps so far came to; written as they end.
struct Report {
    start: Instant,
    steps: usize,
    titles: usize,
    total: Tally,
    failed: Vec<Failure>,
}

impl Report {
    fn new(steps: usize) -> Report {
        Report { start: Instant::now(), steps, titles: 0, total: Tally::default(), failed: Vec::new() }
    }

    fn title(&mut self, step: &Step) {
        self.titles += 1;
        println!("[{}/{}] {}", self.titles, self.steps, step.name);
    }

    fn add(&mut self, step: &Step, outcome: &Outcome, took: Duration) {
        let verdict = match outcome.tally {
            Tally { failed: 1.., .. } => "FAILED",
            Tally::SKIPPED => "skipped",
            _ => "ok",
        };
        if outcome.tally == Tally::SKIPPED {
            outcome.output.iter().for_each(|reason| println!("    {reason}"));
        }
        if outcome.tally.failed > 0 {
            println!("---- everything that {} wrote ----", step.name);
            outcome.output.iter().for_each(|line| println!("{line}"));
            println!("---- end of {} ----", step.name);
            self.failed.push(Failure::of(&step.name, &outcome.output));
        }
        println!("    {verdict}: {}, {:.1} s", outcome.tally, took.as_secs_f64());
        self.total += outcome.tally;
    }

    /// Writes the sum. Did all pass?
    fn end(self) -> bool {
        println!("{} steps in {:.0} s", self.steps, self.start.elapsed().as_secs_f64());
        if !self.failed.is_empty() {
            println!("failed:");
            self.failed.iter().for_each(|failure| print!("{failure}"));
        }
        println!("{}", self.total);
        self.total.failed == 0
    }
}

/// The steps whose name contains one of the filters.
fn selected(arguments: &TestArgs) -> Result<Vec<Step>, Error> {
    let all = steps::all(if arguments.quick { steps::Extent::Quick } else { steps::Extent::Full });
    let names: Vec<String> = all.iter().map(|step| step.name.clone()).collect();
    let wanted = |step: &Step| {
        arguments.filters.is_empty()
            || arguments.filters.iter().any(|filter| step.name.contains(filter.as_str()))
    };
    let selected: Vec<Step> = all.into_iter().filter(wanted).collect();
    if selected.is_empty() {
        return Err(Error::NoSuchStep { filters: arguments.filters.clone(), steps: names });
    }
    Ok(selected)
}

/// Runs a step.
fn run(step: &Step, programs: &mut Programs) -> Outcome {
    if let Some(obstacle) = step.work.obstacle() {
        return Outcome::skipped(obstacle);
    }
    let outcome = match &step.work {
        Work::Cargo(command) => cargo::run(command, &mut Screen::open()),
        Work::Machine(run) => {
            programs.kernel(Variant::of(&run.scenario)).and_then(|kernel| machine::boot(run, kernel))
        }
        Work::Counts => bench::frames(),
        Work::Preload => bench::preload(),
        Work::Tier(tier) => tier::run(*tier),
        Work::ShootdownCounts => programs.kernel(Variant::Plain).and_then(bench::shootdown),
        Work::VmCounts => programs.kernel(Variant::Plain).and_then(bench::vm),
        Work::Sim(run) => programs.simulation().and_then(|program| machine::simulate(run, program)),
    };
    Outcome::of(outcome)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_without_a_test_fails() {
        let outcome = |tally| Outcome::of(Ok(Outcome { tally, output: Vec::new() }));
        assert_eq!(outcome(Tally::default()).tally, Tally::FAILED);
        assert_eq!(outcome(Tally::default()).output, ["no test ran"]);
        assert_eq!(outcome(Tally::PASSED).tally, Tally::PASSED);
        assert_eq!(outcome(Tally::SKIPPED).tally, Tally::SKIPPED);
        assert_eq!(Outcome::of(Err(Error::OnlyUnderQemu("x"))).tally, Tally::FAILED);
    }
}
