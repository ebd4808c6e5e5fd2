//! A discovered topology for people, and as JSON.

use serde_json::{Map, Value};
use topomem_numa::NodeId;

use super::Discovery;
use super::input::Input;
use crate::run::record::{DiscoveredCache, DiscoveredNode, DiscoveredTopology};

/// The topology as the kernel logs it, then the memory map by node, then the diagnostics.
pub(super) fn lines(discovery: &Discovery, input: &Input) -> Vec<String> {
    let topology = &discovery.topology;
    let mut lines: Vec<String> = topology.to_string().lines().map(str::to_owned).collect();
    if let Some(free) = &discovery.free {
        lines.push("memory map:".to_owned());
        for piece in free {
            let (start, end) = (piece.range.start.as_u64(), piece.range.end.as_u64());
            lines.push(format!("  {start:#014x}..{end:#014x} {}", piece.node));
        }
        for node in topology.nodes() {
            let frames = free_frames(discovery, node);
            lines.push(format!("  {node}: {frames} frames, {} MiB", frames >> 8));
        }
    }
    match discovery.diagnostics.len() {
        0 => lines.push("no diagnostics".to_owned()),
        1 => lines.push("1 diagnostic:".to_owned()),
        count => lines.push(format!("{count} diagnostics:")),
    }
    lines.extend(discovery.diagnostics.iter().map(|diagnostic| format!("  {diagnostic}")));
    let left_out =
        |path: &std::path::PathBuf| format!("left out: {}: neither a table nor a memory map", path.display());
    lines.extend(input.left_out.iter().map(left_out));
    lines
}

/// The topology in the form of a run's report, and what else the tables say.
pub(super) fn describe(discovery: &Discovery) -> Result<Map<String, Value>, serde_json::Error> {
    let mut described = Map::new();
    described.insert("topology".to_owned(), serde_json::to_value(discovered(discovery))?);
    let apic_ids = discovery.topology.cpus().iter().map(|entry| entry.apic_id.0).collect();
    described.insert("apic_ids".to_owned(), apic_ids);
    let diagnostics = discovery.diagnostics.iter().map(ToString::to_string).collect();
    described.insert("diagnostics".to_owned(), diagnostics);
    Ok(described)
}

/// As the kernel would tell it, but for the zones, which depend on what the kernel needs itself.
fn discovered(discovery: &Discovery) -> DiscoveredTopology {
    let topology = &discovery.topology;
    let node = |node: NodeId| {
        let ranges = || topology.memory_ranges().iter().filter(move |range| range.node == node);
        DiscoveredNode {
            node: node.index(),
            proximity: topology.proximity(node),
            cpus: topology.cpus_of(node).iter().map(|cpu| cpu.index() as u32).collect(),
            ranges: ranges().map(|range| (range.range.start.as_u64(), range.range.end.as_u64())).collect(),
            kinds: ranges().map(|range| format!("{:?}", range.kind)).collect(),
            free_frames: free_frames(discovery, node),
            zones: Vec::new(),
            bookkeeping: Vec::new(),
        }
    };
    let distances = |from| topology.nodes().map(|to| topology.distance(from, to).get()).collect::<Vec<_>>();
    let pairs = || topology.nodes().flat_map(|from| topology.nodes().map(move |to| (from, to)));
    let cache = |node: NodeId| {
        let cache = topology.memory_side_cache(node)?;
        Some(DiscoveredCache {
            node: node.index(),
            bytes: cache.bytes,
            level: cache.level,
            line: cache.line_bytes,
        })
    };
    DiscoveredTopology {
        nodes: topology.nodes().map(node).collect(),
        distances: topology.nodes().map(distances).collect(),
        latencies: pairs()
            .filter_map(|(from, to)| Some((from.index(), to.index(), topology.latency(from, to)?.0)))
            .collect(),
        bandwidths: pairs()
            .filter_map(|(from, to)| Some((from.index(), to.index(), topology.bandwidth(from, to)?.0)))
            .collect(),
        caches: topology.nodes().filter_map(cache).collect(),
    }
}

/// Frames of the memory map on `node`; none without a map.
fn free_frames(discovery: &Discovery, node: NodeId) -> u64 {
    let pieces = discovery.free.iter().flatten().filter(|piece| piece.node == node);
    pieces.map(|piece| piece.range.frames()).sum()
}
