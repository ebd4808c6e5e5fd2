//! Why a machine can't be.

use std::fmt;

use super::size::Size;
use super::spec::{LOCAL_DISTANCE, MAX_CPUS, MAX_NODES, MAX_XAPIC_CPUS, NodeIndex};

/// Why a machine can't be booted as described.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SpecError {
    /// No node, or more than topomem supports.
    NodeCount(usize),
    /// A node without CPUs and without memory.
    EmptyNode(NodeIndex),
    /// A piece of memory that is not whole mebibytes.
    Unaligned { node: NodeIndex, size: Size },
    /// Less memory than the firmware and the kernel need.
    TooLittleMemory(Size),
    /// More memory was asked for than can be split: fewer mebibytes than nodes.
    TooManyNodesForMemory { nodes: usize, memory: Size },
    /// No CPU, or more than the machine has.
    CpuCount(u32),
    /// More CPUs than xAPIC reaches, which was asked for.
    XapicCpus(u32),
    /// CPUs are numbered from 0 without gaps.
    CpuNumber { node: NodeIndex, cpu: u32, count: u32 },
    /// One CPU on two nodes.
    CpuTwice { cpu: u32, first: NodeIndex, second: NodeIndex },
    /// The matrix is not square, or has another number of rows than there are nodes.
    DistanceMatrix { nodes: usize },
    /// 10 is a node's distance to itself, and nothing else's; none is less.
    Distance { from: NodeIndex, to: NodeIndex, distance: u8 },
    /// No such node.
    UnknownNode { node: NodeIndex, nodes: usize },
    /// More modules than slots.
    Slots { slots: u32, dimms: usize },
    /// A module must be whole 128 MiB sections.
    DimmSize(Size),
    /// The maximum is less than what is plugged in.
    MaximumMemory { maximum: Size, needed: Size },
    /// An initiator must be a node with CPUs.
    Initiator { node: NodeIndex, initiator: NodeIndex },
    /// A memory-side cache needs the latency and the bandwidth of the memory behind it.
    CacheWithoutAccess(NodeIndex),
    /// A window must be whole 256 MiB.
    CxlWindowSize(Size),
    /// Interleaved memory comes with tables of our own, which don't say this.
    InterleavedWith(&'static str),
}

impl fmt::Display for SpecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NodeCount(count) => write!(f, "{count} nodes: must be 1 to {MAX_NODES}"),
            Self::EmptyNode(node) => write!(f, "node {node} has neither CPUs nor memory"),
            Self::Unaligned { node, size } => {
                write!(f, "node {node}: memory of {size} is not a whole number of MiB above 0")
            }
            Self::TooLittleMemory(size) => write!(f, "{size} of memory: the kernel needs at least 64M"),
            Self::TooManyNodesForMemory { nodes, memory } => {
                write!(f, "{memory} can't be split over {nodes} nodes in whole MiB")
            }
            Self::CpuCount(count) => write!(f, "{count} CPUs: must be 1 to {MAX_CPUS}"),
            Self::XapicCpus(count) => write!(f, "{count} CPUs: xAPIC reaches {MAX_XAPIC_CPUS}, x2APIC all"),
            Self::CpuNumber { node, cpu, count } => {
                write!(f, "node {node}: CPU {cpu} of {count}: CPUs are numbered from 0 without gaps")
            }
            Self::CpuTwice { cpu, first, second } => {
                write!(f, "CPU {cpu} is on node {first} and on node {second}")
            }
            Self::DistanceMatrix { nodes } => write!(f, "the distances must be {nodes} rows of {nodes}"),
            Self::Distance { from, to, distance } => write!(
                f,
                "distance {distance} from node {from} to node {to}: a node is {LOCAL_DISTANCE} from itself, and more from others"
            ),
            Self::UnknownNode { node, nodes } => {
                write!(f, "there is no node {node}: there are {nodes}, from 0")
            }
            Self::Slots { slots, dimms } => write!(f, "{dimms} modules, but {slots} slots"),
            Self::DimmSize(size) => write!(f, "a module of {size}: must be a multiple of 128M"),
            Self::MaximumMemory { maximum, needed } => {
                write!(f, "the maximum memory is {maximum}, but {needed} are there from the start")
            }
            Self::Initiator { node, initiator } => {
                write!(f, "node {node}: its initiator {initiator} must be a node with CPUs")
            }
            Self::CacheWithoutAccess(node) => {
                write!(f, "node {node}: a memory-side cache needs the node's latency and bandwidth")
            }
            Self::CxlWindowSize(size) => write!(f, "a CXL window of {size}: must be a multiple of 256M"),
            Self::InterleavedWith(other) => {
                write!(f, "{other} can't be combined with a node that has several pieces of memory")
            }
        }
    }
}

impl std::error::Error for SpecError {}
