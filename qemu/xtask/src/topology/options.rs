//! Machines described by options on the command line.

use std::num::ParseIntError;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::Args;

use super::error::SpecError;
use super::file::{self, TopologyFileError, matrix_of_pairs};
use super::size::Size;
use super::spec::{NodeIndex, NodeSpec, TopologySpec};
use crate::error::Error;

/// The machine to run on.
#[derive(Clone, Debug, Args)]
pub(crate) struct MachineOptions {
    /// NUMA nodes; memory and CPUs are spread over them evenly
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub(crate) nodes: usize,
    /// CPUs, all nodes together
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub(crate) cpus: u32,
    /// Memory, all nodes together: 512M, 4G
    #[arg(long, value_name = "SIZE", default_value_t = Size::from_mib(1024))]
    pub(crate) memory: Size,
    /// Distances between two nodes, both ways unless both are given
    #[arg(long, value_name = "A,B=D", num_args = 1..)]
    pub(crate) distance: Vec<DistanceOption>,
    /// A machine described in a TOML file, or by the name of one in qemu/topologies
    #[arg(long, value_name = "FILE", conflicts_with_all = ["nodes", "cpus", "memory", "distance"])]
    pub(crate) topology: Option<PathBuf>,
}

/// `A,B=D`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DistanceOption {
    from: NodeIndex,
    to: NodeIndex,
    distance: u8,
}

impl FromStr for DistanceOption {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let shape = || format!("{text:?} is not of the form A,B=D, as in 0,1=21");
        let (nodes, distance) = text.split_once('=').ok_or_else(shape)?;
        let (from, to) = nodes.split_once(',').ok_or_else(shape)?;
        let number = |error: ParseIntError| format!("{}: {error}", shape());
        Ok(Self {
            from: from.trim().parse().map_err(number)?,
            to: to.trim().parse().map_err(number)?,
            distance: distance.trim().parse().map_err(number)?,
        })
    }
}

impl MachineOptions {
    /// The machine that the options describe.
    pub(crate) fn spec(&self, root: &Path) -> Result<TopologySpec, Error> {
        match &self.topology {
            Some(path) => Ok(file::load(root, path)?),
            None => Ok(self.even_spec()?),
        }
    }

    /// Nodes of equal memory, and CPUs in blocks: the first nodes get the first ones.
    pub(super) fn even_spec(&self) -> Result<TopologySpec, SpecError> {
        if self.nodes == 0 {
            return Err(SpecError::NodeCount(0));
        }
        let mib = self.memory.bytes() / Size::MIB;
        let share = mib / self.nodes as u64;
        if share == 0 {
            return Err(SpecError::TooManyNodesForMemory { nodes: self.nodes, memory: self.memory });
        }
        let nodes = (0..self.nodes).map(|node| {
            let first = |node: usize| (node as u64 * u64::from(self.cpus)).div_ceil(self.nodes as u64) as u32;
            let rest = if node + 1 == self.nodes { mib % self.nodes as u64 } else { 0 };
            NodeSpec {
                cpus: (first(node)..first(node + 1)).collect(),
                memory: vec![Size::from_mib(share + rest)],
                initiator: None,
            }
        });
        let pairs: Vec<_> = self.distance.iter().map(|pair| (pair.from, pair.to, pair.distance)).collect();
        let spec = TopologySpec {
            name: format!("{} nodes, {} CPUs, {}", self.nodes, self.cpus, self.memory),
            machine: "q35".to_owned(),
            cpu: None,
            nodes: nodes.collect(),
            distances: matrix_of_pairs(self.nodes, &pairs)?,
            hmat: None,
            hotplug: None,
            cxl: Vec::new(),
        };
        spec.validate()?;
        Ok(spec)
    }
}

impl From<TopologyFileError> for Error {
    fn from(error: TopologyFileError) -> Self {
        Self::TopologyFile(error)
    }
}
