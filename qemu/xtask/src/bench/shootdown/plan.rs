//! Which machines are booted, how often, and how much is measured in a boot.

use super::super::linux::Request;
use crate::bench::metric::Metric;
use crate::error::Error;
use crate::topology::{MachineOptions, Size, TopologySpec};
use crate::workspace;

/// How much to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    Full,
    Quick,
}

impl From<bool> for Extent {
    /// By the option `--quick`.
    fn from(quick: bool) -> Self {
        if quick { Self::Quick } else { Self::Full }
    }
}

/// The boots that give one table.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) metric: Metric,
    /// How many CPUs topomem's machines have.
    pub(super) cpus: &'static [u32],
    /// Those on which Linux boots too.
    pub(super) shared: &'static [u32],
    /// Boots of each subject on each machine.
    pub(super) boots: u32,
    /// What Linux's program is asked for.
    pub(super) request: Request,
}

/// As many samples as topomem's kernel takes of a pair of CPUs, where the time allows.
const SAMPLES: u64 = 2000;

impl Plan {
    pub(super) fn new(metric: Metric, extent: Extent) -> Self {
        let quick = extent == Extent::Quick;
        match metric {
            // What is exact needs to be seen once. With several CPUs it counts how they wait for each other, which
            // Linux does in other ways.
            Metric::Instructions => Self {
                metric,
                cpus: &[1, 2, 8, 64],
                shared: &[1],
                boots: 1,
                request: Request { metric, samples: if quick { 20 } else { 60 }, seconds: 10 },
            },
            Metric::Time => Self {
                metric,
                // One CPU alone tells where many single flushes become dearer than a full one.
                cpus: &[1, 2, 4, 8],
                shared: &[2, 4, 8],
                boots: if quick { 1 } else { 5 },
                request: Request {
                    metric,
                    samples: if quick { SAMPLES / 10 } else { SAMPLES },
                    seconds: if quick { 1 } else { 5 },
                },
            },
        }
    }
}

/// The machine with so many CPUs, over two nodes.
pub(super) fn machine(cpus: u32) -> Result<TopologySpec, Error> {
    let memory = Size::from_mib(1024);
    let options = MachineOptions { nodes: 2, cpus, memory, distance: Vec::new(), topology: None };
    options.spec(workspace::root())
}
