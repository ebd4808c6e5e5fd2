//! `cargo xtask bench shootdown`: what changes of mappings cost until every CPU has forgotten the old ones.
//!
//! topomem's kernel and, if asked for, Linux boot in turn on the same machines under the same emulator.

mod boots;
mod comparison;
mod counts;
mod histogram;
mod host;
mod plan;
mod pool;
mod rows;
mod standing;

use std::path::{Path, PathBuf};

use serde_json::json;

use super::limits::{Limits, Suite};
use super::linux::Linux;
use super::metric::Metric;
use crate::cli::{BenchShootdownArgs, Peer};
use crate::error::Error;
use crate::kernel::{Kernel, Variant};
use crate::qemu;
use crate::shell;
use crate::tools::{self, Tool};
use crate::workspace;

use boots::{Boots, Subjects};
use plan::Plan;
use pool::Pooled;
use rows::Row;

pub(crate) use counts::failures as counts_failures;

/// Measures what was asked for, and prints a table of each part. Did every boot give its figures?
pub(super) fn shootdown(arguments: &BenchShootdownArgs) -> Result<bool, Error> {
    tools::ensure(&[Tool::KernelTarget, Tool::Qemu])?;
    let limits = Limits::load(Suite::Shootdown)?;
    let linux = match arguments.vs {
        Some(Peer::Linux) => Some(Linux::prepare()?),
        None => None,
    };
    let kernel = Kernel::build(Variant::Plain)?;
    let subjects = Subjects { kernel: &kernel, linux: linux.as_ref() };
    if let Some(linux) = &linux {
        println!("beside Linux {}", linux.release());
    }

    let mut boots = Boots::default();
    let (mut results, mut rows) = (Vec::new(), Vec::new());
    for plan in plans(arguments) {
        let before = boots.boots.len();
        boots.run(&plan, subjects)?;
        let taken = boots.boots.iter().skip(before).flat_map(|boot| boot.results.iter().cloned());
        let pooled = pool::over_boots(taken.collect());
        let compared = rows::of(&pooled, &limits);
        print(&plan, &compared, &pooled);
        results.extend(pooled.into_iter().map(|pooled| pooled.result));
        rows.extend(compared);
    }
    comparison::verdicts(&rows).iter().for_each(|line| println!("{line}"));
    if boots.disturbed() > 0 {
        println!(
            "warning: before {} boots other programs used the host: times measure its scheduler too, which hits \
             whoever waits more often; measure again on a free host, or compare counts",
            boots.disturbed()
        );
    }
    for failure in &boots.failures {
        println!("failed: {}; {}", failure.what, failure.place);
    }
    let succeeded = boots.failures.is_empty();
    let distributions: Vec<_> = boots.boots.iter().flat_map(|boot| boot.distributions.clone()).collect();
    let options = json!({
        "icount": arguments.icount,
        "quick": arguments.quick,
        "linux": linux.as_ref().map(Linux::release),
        "rows": rows,
        "boots": boots.boots,
    });
    let options = options.as_object().cloned().unwrap_or_default();
    super::write(arguments.json.as_deref(), "bench shootdown", options, results, boots.failures)?;
    if let Some(path) = svg(arguments) {
        histogram::draw(&distributions, &subtitle(linux.as_ref()), &path)?;
        println!("the latencies: {}", workspace::shorten(&path.to_string_lossy()));
    }
    Ok(succeeded)
}

fn print(plan: &Plan, rows: &[Row], pooled: &[Pooled]) {
    comparison::table(rows).lines().iter().for_each(|line| println!("{line}"));
    if let Some(counts) = comparison::counts(rows) {
        println!();
        counts.lines().iter().for_each(|line| println!("{line}"));
    }
    let empty_call = pooled.iter().find(|pooled| pooled.result.case == "empty_syscall").map(Pooled::judged);
    comparison::legend(plan.metric, rows, empty_call).iter().for_each(|line| println!("  {line}"));
    println!();
}

/// On what the plot's latencies were measured.
fn subtitle(linux: Option<&Linux>) -> String {
    let emulator = qemu::version().unwrap_or_else(|| qemu::PROGRAM.to_owned());
    // Without the packager's addition.
    let emulator = emulator.split(" (").next().unwrap_or_default().replace("emulator version ", "");
    let commit = shell::output("git", &["rev-parse", "--short", "HEAD"]).unwrap_or_default();
    let linux = linux.map_or_else(String::new, |linux| format!(", Linux {}", linux.release()));
    format!("{emulator}, multi-threaded TCG, q35, 2 nodes, 1 GiB; topomem {commit}{linux}")
}

fn plans(arguments: &BenchShootdownArgs) -> Vec<Plan> {
    let mut plans = vec![Plan::new(Metric::Instructions, arguments.quick.into())];
    if !arguments.icount {
        plans.push(Plan::new(Metric::Time, arguments.quick.into()));
    }
    plans
}

/// Where the plot goes, if there is one: a quick one replaces none that was kept.
fn svg(arguments: &BenchShootdownArgs) -> Option<PathBuf> {
    let kept = || workspace::root().join(Path::new("benches/shootdown.svg"));
    let chosen = arguments.svg.clone();
    if arguments.icount || arguments.quick { chosen } else { chosen.or_else(|| Some(kept())) }
}
