//! `cargo xtask bench shootdown`: what changes of mappings cost until every CPU has forgotten the old ones.
//!
//! topomem's kernel and, if asked for, Linux boot in turn on the same machines under the same emulator.

mod boots;
mod comparison;
mod counts;
mod histogram;
mod host;
mod limits;
mod plan;
mod pool;

use std::path::{Path, PathBuf};

use serde_json::json;

use super::metric::Metric;
use crate::cli::{BenchShootdownArgs, Peer};
use crate::error::Error;
use crate::kernel::{Kernel, Variant};
use crate::tools::{self, Tool};
use crate::workspace;

use super::linux::Linux;
use boots::{Boots, Subjects};
use limits::Limits;
use plan::Plan;

pub(crate) use counts::failures as counts_failures;

/// Measures what was asked for, and prints a table of each part. Did every boot give its figures?
pub(super) fn shootdown(arguments: &BenchShootdownArgs) -> Result<bool, Error> {
    tools::ensure(&[Tool::KernelTarget, Tool::Qemu])?;
    let limits = Limits::load()?;
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
    let (mut results, mut distributions) = (Vec::new(), Vec::new());
    for plan in plans(arguments) {
        let figures = boots.run(&plan, subjects)?;
        let pooled = pool::over_boots(figures.results);
        comparison::table(&pooled, &limits).lines().iter().for_each(|line| println!("{line}"));
        comparison::legend(plan.metric, &pooled).iter().for_each(|line| println!("  {line}"));
        results.extend(pooled.into_iter().map(|pooled| pooled.result));
        distributions.extend(figures.distributions);
    }
    if let Some(path) = svg(arguments) {
        histogram::draw(&distributions, &path)?;
        println!("  the latencies: {}", workspace::shorten(&path.to_string_lossy()));
    }
    if boots.disturbed > 0 {
        println!(
            "  warning: in {} rounds of boots other programs used the host: their times measure its scheduler too, \
             which hits whoever waits more often; measure again on a free host, or compare counts",
            boots.disturbed
        );
    }
    for failure in &boots.failures {
        println!("  failed: {}; {}", failure.what, failure.place);
    }
    let succeeded = boots.failures.is_empty();
    let options = json!({
        "icount": arguments.icount,
        "quick": arguments.quick,
        "linux": linux.as_ref().map(Linux::release),
        "disturbed_rounds": boots.disturbed,
        "distributions": distributions,
    });
    let options = options.as_object().cloned().unwrap_or_default();
    super::write(arguments.json.as_deref(), "bench shootdown", options, results, boots.failures)?;
    Ok(succeeded)
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
