//! topomem's exact figures alone: what a regression test can hold on to.

use super::boots;
use super::plan::{self, Extent, Plan};
use crate::bench::limits::{Limits, Suite};
use crate::bench::metric::Metric;
use crate::error::Error;
use crate::kernel::Kernel;

/// Counts, and compares with the bounds: what is said of each figure, and how many are refused.
pub(crate) fn failures(kernel: &Kernel) -> Result<(Vec<String>, u64), Error> {
    let limits = Limits::load(Suite::Shootdown)?;
    let mut lines = Vec::new();
    let mut refused = 0;
    let mut refuse = |what: String| {
        refused += 1;
        format!("refused: {what}")
    };
    let plan = Plan::new(Metric::Instructions, Extent::Quick);
    for &cpus in plan.cpus {
        let (figures, failures) =
            boots::topomem(kernel, &plan::machine(cpus)?, plan.metric, plan.samples(cpus))?;
        lines.extend(
            failures.into_iter().map(|failure| refuse(format!("{}; {}", failure.what, failure.place))),
        );
        let own: Vec<_> = figures.results.iter().filter(|result| result.subject == "topomem").collect();
        if own.is_empty() {
            lines.push(refuse(format!("no figures on {cpus} CPUs")));
        }
        lines.extend(own.into_iter().map(|result| match limits.objection(result) {
            Some(objection) => refuse(objection),
            None => format!("{} on {cpus} CPUs: {:.1} {}", result.case, result.median, result.unit),
        }));
    }
    Ok((lines, refused))
}
