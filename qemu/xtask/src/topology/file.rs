//! Machines described in TOML files, as in `qemu/topologies/`.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::error::SpecError;
use super::size::Size;
use super::spec::{
    CxlWindow, Dimm, Hmat, HmatBandwidth, HmatLatency, Hotplug, LOCAL_DISTANCE, MemorySideCache, NodeIndex,
    NodeSpec, TopologySpec,
};

/// Where the named topologies are, from the workspace's root.
const FOLDER: &str = "qemu/topologies";

/// Why a topology file can't be used.
#[derive(Debug)]
pub(crate) enum TopologyFileError {
    /// It can't be read.
    Read { path: PathBuf, error: std::io::Error },
    /// It is not the TOML that it should be.
    Parse { path: PathBuf, error: Box<toml::de::Error> },
    /// It describes a machine that can't be.
    Spec { path: PathBuf, error: SpecError },
}

impl fmt::Display for TopologyFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read { path, error } => write!(f, "can't read the topology {}: {error}", path.display()),
            Self::Parse { path, error } => write!(f, "{}: {error}", path.display()),
            Self::Spec { path, error } => write!(f, "{}: {error}", path.display()),
        }
    }
}

impl std::error::Error for TopologyFileError {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default = "q35")]
    machine: String,
    cpu: Option<String>,
    #[serde(rename = "node")]
    nodes: Vec<Node>,
    distances: Option<Distances>,
    hmat: Option<FileHmat>,
    hotplug: Option<FileHotplug>,
    #[serde(default)]
    cxl: Vec<Window>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Node {
    #[serde(default)]
    cpus: Vec<u32>,
    #[serde(default)]
    memory: Memory,
    initiator: Option<NodeIndex>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Memory {
    One(Size),
    Pieces(Vec<Size>),
}

impl Default for Memory {
    fn default() -> Self {
        Self::One(Size::ZERO)
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Distances {
    Matrix(Vec<Vec<u8>>),
    Pairs(Vec<Pair>),
}

/// Holds in both directions, unless the file gives the other direction its own.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Pair {
    from: NodeIndex,
    to: NodeIndex,
    distance: u8,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileHmat {
    #[serde(default)]
    latency: Vec<Latency>,
    #[serde(default)]
    bandwidth: Vec<Bandwidth>,
    #[serde(default)]
    cache: Vec<Cache>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Latency {
    initiator: NodeIndex,
    target: NodeIndex,
    nanoseconds: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Bandwidth {
    initiator: NodeIndex,
    target: NodeIndex,
    megabytes_per_second: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Cache {
    node: NodeIndex,
    size: Size,
    level: u8,
    line: u16,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileHotplug {
    maximum: Size,
    slots: u32,
    #[serde(default, rename = "dimm")]
    dimms: Vec<FileDimm>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileDimm {
    node: NodeIndex,
    size: Size,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Window {
    size: Size,
}

fn q35() -> String {
    "q35".to_owned()
}

/// Folder of the named topologies.
pub(crate) fn folder(root: &Path) -> PathBuf {
    root.join(FOLDER)
}

/// Reads a topology from `path`, or, if there is no such file, the one of that name in the project's folder.
pub(crate) fn load(root: &Path, path: &Path) -> Result<TopologySpec, TopologyFileError> {
    let named = folder(root).join(path).with_extension("toml");
    let path = if !path.exists() && named.exists() { named } else { path.to_owned() };
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) => return Err(TopologyFileError::Read { path, error }),
    };
    let name = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let file: File = match toml::from_str(&text) {
        Ok(file) => file,
        Err(error) => return Err(TopologyFileError::Parse { path, error: Box::new(error) }),
    };
    file.into_spec(name).map_err(|error| TopologyFileError::Spec { path, error })
}

/// Reads a topology from text.
#[cfg(test)]
pub(crate) fn parse(text: &str) -> Result<TopologySpec, Box<dyn std::error::Error>> {
    Ok(toml::from_str::<File>(text)?.into_spec("test".to_owned())?)
}

impl File {
    fn into_spec(self, name: String) -> Result<TopologySpec, SpecError> {
        let nodes: Vec<NodeSpec> = self.nodes.into_iter().map(Node::into_spec).collect();
        let distances = match self.distances {
            None => TopologySpec::default_distances(nodes.len()),
            Some(Distances::Matrix(matrix)) => matrix,
            Some(Distances::Pairs(pairs)) => {
                let pairs: Vec<_> =
                    pairs.into_iter().map(|pair| (pair.from, pair.to, pair.distance)).collect();
                matrix_of_pairs(nodes.len(), &pairs)?
            }
        };
        let spec = TopologySpec {
            name,
            machine: self.machine,
            cpu: self.cpu,
            nodes,
            distances,
            hmat: self.hmat.map(FileHmat::into_spec),
            hotplug: self.hotplug.map(FileHotplug::into_spec),
            cxl: self.cxl.into_iter().map(|window| CxlWindow { size: window.size }).collect(),
        };
        spec.validate()?;
        Ok(spec)
    }
}

/// The matrix that `(from, to, distance)` describes: each holds in both directions, unless the other direction
/// is given too.
pub(super) fn matrix_of_pairs(
    nodes: usize,
    pairs: &[(NodeIndex, NodeIndex, u8)],
) -> Result<Vec<Vec<u8>>, SpecError> {
    let mut matrix = TopologySpec::default_distances(nodes);
    let reversed = pairs.iter().map(|&(from, to, distance)| (to, from, distance));
    for (from, to, distance) in reversed.chain(pairs.iter().copied()) {
        if let Some(node) = [from, to].into_iter().find(|&node| node >= nodes) {
            return Err(SpecError::UnknownNode { node, nodes });
        }
        if from == to && distance != LOCAL_DISTANCE {
            return Err(SpecError::Distance { from, to, distance });
        }
        matrix[from][to] = distance;
    }
    Ok(matrix)
}

impl Node {
    fn into_spec(self) -> NodeSpec {
        let pieces = match self.memory {
            Memory::One(size) => vec![size],
            Memory::Pieces(pieces) => pieces,
        };
        let memory = if pieces == [Size::ZERO] { Vec::new() } else { pieces };
        NodeSpec { cpus: self.cpus, memory, initiator: self.initiator }
    }
}

impl FileHmat {
    fn into_spec(self) -> Hmat {
        let latency = |entry: Latency| HmatLatency {
            initiator: entry.initiator,
            target: entry.target,
            nanoseconds: entry.nanoseconds,
        };
        let bandwidth = |entry: Bandwidth| HmatBandwidth {
            initiator: entry.initiator,
            target: entry.target,
            megabytes_per_second: entry.megabytes_per_second,
        };
        let cache = |entry: Cache| MemorySideCache {
            node: entry.node,
            size: entry.size,
            level: entry.level,
            line: entry.line,
        };
        Hmat {
            latency: self.latency.into_iter().map(latency).collect(),
            bandwidth: self.bandwidth.into_iter().map(bandwidth).collect(),
            caches: self.cache.into_iter().map(cache).collect(),
        }
    }
}

impl FileHotplug {
    fn into_spec(self) -> Hotplug {
        let dimms = self.dimms.into_iter().map(|dimm| Dimm { node: dimm.node, size: dimm.size }).collect();
        Hotplug { maximum: self.maximum, slots: self.slots, dimms }
    }
}
