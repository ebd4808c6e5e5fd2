//! topomem's exact figures alone: what a regression test can hold on to.

use super::boots::{self, Measuring};
use crate::bench::limits::Limits;
use crate::bench::metric::Metric;
use crate::error::Error;
use crate::machines::kernel::Kernel;
use crate::topology::TopologySpec;

/// What is said of figures, and how many are refused.
#[derive(Debug, Default)]
pub(in crate::bench) struct Bounded {
    pub(in crate::bench) lines: Vec<String>,
    pub(in crate::bench) refused: u64,
}

impl Bounded {
    fn refuse(&mut self, what: String) {
        self.refused += 1;
        self.lines.push(format!("refused: {what}"));
    }

    /// Counts on the machine `spec`, and compares with the bounds.
    pub(in crate::bench) fn count(
        &mut self,
        kernel: &Kernel,
        spec: &TopologySpec,
        measuring: &Measuring<'_>,
        limits: &Limits,
    ) -> Result<(), Error> {
        let cpus = spec.cpu_count();
        let (figures, failures) = boots::topomem(kernel, spec, Metric::Instructions, measuring)?;
        failures.into_iter().for_each(|failure| self.refuse(format!("{}; {}", failure.what, failure.place)));
        let own: Vec<_> = figures.results.iter().filter(|result| result.subject == "topomem").collect();
        if own.is_empty() {
            self.refuse(format!("no figures on {cpus} CPUs"));
        }
        for result in own {
            match limits.objection(result) {
                Some(objection) => self.refuse(objection),
                None => self
                    .lines
                    .push(format!("{} on {cpus} CPUs: {:.1} {}", result.case, result.median, result.unit)),
            }
        }
        let absent = figures.absent.into_iter();
        self.lines.extend(absent.map(|absent| format!("{}: there is no {}", absent.case, absent.call)));
        Ok(())
    }
}
