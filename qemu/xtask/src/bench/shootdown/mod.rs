//! `cargo xtask bench shootdown`: what changes of mappings cost until every CPU has forgotten the old ones.
//!
//! topomem's kernel and, if asked for, Linux boot in turn on the same machines under the same emulator.

mod histogram;
mod legend;
mod plan;

use std::path::{Path, PathBuf};

use serde_json::json;

use super::kernels::{Bounded, Comparison, Pooled, Row, Subjects, Unmatched, machine};
use super::limits::{Limits, Suite};
use super::linux::{self, Linux};
use super::metric::Metric;
use crate::cli::BenchShootdownArgs;
use crate::error::Error;
use crate::machines::kernel::{Kernel, Variant};
use crate::qemu;
use crate::shell;
use crate::tools::{self, Tool};
use crate::workspace;

use plan::{Extent, Plan};

/// Measures what was asked for, and prints a table of each part. Did every boot give its figures?
pub(super) fn shootdown(arguments: &BenchShootdownArgs) -> Result<bool, Error> {
    tools::ensure(&[Tool::KernelTarget, Tool::Qemu])?;
    let limits = Limits::load(Suite::Shootdown)?;
    let linux = arguments.vs.map(|_| Linux::prepare(&linux::build_disk()?)).transpose()?;
    let kernel = Kernel::build(Variant::Plain)?;
    let subjects = Subjects { kernel: &kernel, linux: linux.as_ref() };
    let mut comparison = Comparison::new(subjects, &limits, Unmatched::LeftOut);
    for plan in plans(arguments) {
        comparison.part(&plan.rounds()?, |rows, pooled| legend(&plan, rows, pooled))?;
    }
    if let Some(path) = svg(arguments) {
        histogram::draw(&comparison.distributions(), &subtitle(linux.as_ref()), &path)?;
        println!("the latencies: {}", workspace::shorten(&path.to_string_lossy()));
    }
    let options = json!({ "icount": arguments.icount, "quick": arguments.quick });
    let options = options.as_object().cloned().unwrap_or_default();
    comparison.conclude("bench shootdown", options, arguments.json.as_deref())
}

/// topomem's exact figures alone, compared with their bounds: what is said of each, and how many are refused.
pub(crate) fn counts_failures(kernel: &Kernel) -> Result<(Vec<String>, u64), Error> {
    let limits = Limits::load(Suite::Shootdown)?;
    let mut bounded = Bounded::default();
    let plan = Plan::new(Metric::Instructions, Extent::Quick);
    for &cpus in plan.cpus {
        bounded.count(kernel, &machine(cpus)?, &plan.topomem(cpus), &limits)?;
    }
    Ok((bounded.lines, bounded.refused))
}

fn legend(plan: &Plan, rows: &[Row], pooled: &[Pooled]) -> Vec<String> {
    let empty_call = pooled.iter().find(|pooled| pooled.result.case == "empty_syscall").map(Pooled::judged);
    legend::of(plan.metric, rows, empty_call)
}

/// On what the plot's latencies were measured.
fn subtitle(linux: Option<&Linux>) -> String {
    let emulator = qemu::version_line().unwrap_or_else(|| qemu::PROGRAM.to_owned());
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
