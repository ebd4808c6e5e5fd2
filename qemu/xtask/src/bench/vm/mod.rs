//! `cargo xtask bench vm`: what memory costs a program, from user mode to user mode.
//!
//! The same file is the first program on topomem's kernel and on Linux, on the same machines under the same
//! emulator: they load the same RAM disk.

use std::path::Path;

use serde_json::json;

use super::comparison::rounded;
use super::kernels::{Bounded, Comparison, Measuring, Pooled, Round, Row, Subjects, Unmatched, machine};
use super::limits::{Limits, Suite};
use super::linux::{self, Linux};
use super::metric::Metric;
use crate::cli::BenchVmArgs;
use crate::error::Error;
use crate::machines::kernel::{Kernel, Variant};
use crate::tools::{self, Tool};

/// topomem's scenario that runs one program.
const SCENARIO: &str = "measure-vm";

/// What is measured for one table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Plan {
    metric: Metric,
    cpus: &'static [u32],
    /// Boots of each subject on each machine.
    boots: u32,
    /// Samples of each case in a boot: no more than frames are zeroed ahead.
    samples: u64,
}

impl Plan {
    /// Instructions are the same in each boot; on several CPUs they are those of all.
    const COUNTED: Self = Self { metric: Metric::Instructions, cpus: &[1], boots: 1, samples: 60 };
    const COUNTED_QUICKLY: Self = Self { samples: 20, ..Self::COUNTED };
    const TIMED: Self = Self { metric: Metric::Time, cpus: &[1, 2], boots: 5, samples: 60 };
    const TIMED_QUICKLY: Self = Self { boots: 1, ..Self::TIMED };

    fn words(self, subject: &str) -> String {
        format!("suite=vm subject={subject} {} samples={}", self.metric.word(), self.samples)
    }

    fn topomem(self, disk: &Path) -> Measuring<'_> {
        let words = format!("-- {}", self.words("topomem"));
        Measuring { scenario: SCENARIO, words, module: Some(disk) }
    }

    /// The boots, machine by machine.
    fn rounds(self, disk: &Path) -> Result<Vec<Round<'_>>, Error> {
        let round = |&cpus: &u32| {
            Ok(Round {
                spec: machine(cpus)?,
                metric: self.metric,
                boots: self.boots,
                samples: json!(self.samples),
                topomem: self.topomem(disk),
                linux: Some(self.words("linux")),
            })
        };
        self.cpus.iter().map(round).collect()
    }
}

/// Measures what was asked for, and prints a table of each part. Did every boot give its figures?
pub(super) fn vm(arguments: &BenchVmArgs) -> Result<bool, Error> {
    tools::ensure(&[Tool::KernelTarget, Tool::Qemu])?;
    let limits = Limits::load(Suite::Vm)?;
    let disk = linux::build_disk()?;
    let linux = arguments.vs.map(|_| Linux::prepare(&disk)).transpose()?;
    let kernel = Kernel::build(Variant::Plain)?;
    let subjects = Subjects { kernel: &kernel, linux: linux.as_ref() };
    let mut comparison = Comparison::new(subjects, &limits, Unmatched::Shown);
    for plan in plans(arguments) {
        comparison.part(&plan.rounds(&disk)?, |rows, _: &[Pooled]| legend(plan.metric, rows))?;
    }
    let options = json!({ "icount": arguments.icount, "quick": arguments.quick });
    let options = options.as_object().cloned().unwrap_or_default();
    comparison.conclude("bench vm", options, arguments.json.as_deref())
}

/// topomem's exact figures alone, compared with their bounds: what is said of each, and how many are refused.
pub(crate) fn counts_failures(kernel: &Kernel) -> Result<(Vec<String>, u64), Error> {
    let limits = Limits::load(Suite::Vm)?;
    let disk = linux::build_disk()?;
    let mut bounded = Bounded::default();
    let plan = Plan::COUNTED;
    for &cpus in plan.cpus {
        bounded.count(kernel, &machine(cpus)?, &plan.topomem(&disk), &limits)?;
    }
    Ok((bounded.lines, bounded.refused))
}

fn plans(arguments: &BenchVmArgs) -> Vec<Plan> {
    let (counted, timed) = match arguments.quick {
        true => (Plan::COUNTED_QUICKLY, Plan::TIMED_QUICKLY),
        false => (Plan::COUNTED, Plan::TIMED),
    };
    if arguments.icount { vec![counted] } else { vec![counted, timed] }
}

/// What the columns mean.
fn legend(metric: Metric, rows: &[Row]) -> Vec<String> {
    let mut lines = vec![match metric {
        Metric::Instructions => {
            "instructions: from user mode to user mode; N: samples, of which the median".to_owned()
        }
        Metric::Time => {
            "us: the lowest tenth (with several boots the best boot's, up to the worst's), then the \
                         median of the boots' medians ± their median absolute deviation; N: boots x samples"
                .to_owned()
        }
    }];
    let empty = rows.iter().find(|row| row.case == "empty_syscall");
    if let Some((own, its)) = empty.and_then(|row| Some((row.topomem?, row.linux?))) {
        let [own, its] = [own.figure, its.figure].map(rounded);
        lines.push(format!("a system call that does nothing is {own}, Linux's {its}, both included"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_run_the_same_with_the_same_arguments() {
        let rounds = Plan::COUNTED.rounds(Path::new("disk")).unwrap();
        let own = rounds[0].topomem.words.strip_prefix("-- ").unwrap();
        assert_eq!(own, "suite=vm subject=topomem metric=instructions samples=60");
        assert_eq!(rounds[0].linux.as_deref(), Some(own.replace("topomem", "linux").as_str()));
    }
}
