//! `cargo xtask test`: every test there is.

mod bench_step;
mod cargo_step;
mod machine_step;
mod programs;
mod stepped;
mod steps;
mod tally;

use std::time::Instant;

use crate::cli::TestArgs;
use crate::error::Error;
use crate::kernel::Variant;
use crate::tools;

use programs::Programs;
use steps::{Step, Work};
use tally::Tally;

/// What a step came to.
struct Outcome {
    tally: Tally,
    /// Everything it wrote, to show if it failed.
    output: Vec<String>,
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

    let start = Instant::now();
    let mut total = Tally::default();
    let mut failed = Vec::new();
    let mut programs = Programs::default();
    for (index, step) in steps.iter().enumerate() {
        println!("[{}/{}] {}", index + 1, steps.len(), step.name);
        let step_start = Instant::now();
        let outcome = run(step, &mut programs);
        let verdict = if outcome.tally.failed == 0 { "ok" } else { "FAILED" };
        if outcome.tally.failed > 0 {
            println!("---- everything that {} wrote ----", step.name);
            outcome.output.iter().for_each(|line| println!("{line}"));
            println!("---- end of {} ----", step.name);
            failed.push(step.name.as_str());
        }
        println!("    {verdict}: {}, {:.1} s", outcome.tally, step_start.elapsed().as_secs_f64());
        total += outcome.tally;
    }
    println!("{} steps in {:.0} s", steps.len(), start.elapsed().as_secs_f64());
    if !failed.is_empty() {
        println!("failed: {}", failed.join(", "));
    }
    println!("{total}");
    Ok(total.failed == 0)
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

/// Runs a step; what keeps it from running is a failure of it.
fn run(step: &Step, programs: &mut Programs) -> Outcome {
    let outcome = match &step.work {
        Work::Cargo(command) => cargo_step::run(command),
        Work::Machine(run) => {
            programs.kernel(Variant::of(&run.scenario)).and_then(|kernel| machine_step::boot(run, kernel))
        }
        Work::Counts => bench_step::frames(),
        Work::ShootdownCounts => programs.kernel(Variant::Plain).and_then(bench_step::shootdown),
        Work::VmCounts => programs.kernel(Variant::Plain).and_then(bench_step::vm),
        Work::Sim(run) => programs.simulation().and_then(|program| machine_step::simulate(run, program)),
    };
    outcome.unwrap_or_else(|error| Outcome { tally: Tally::FAILED, output: vec![format!("error: {error}")] })
}
