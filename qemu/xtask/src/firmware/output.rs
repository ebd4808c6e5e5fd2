//! A discovered topology for people, and as JSON.

use serde_json::{Map, Value, json};
use topomem_numa::{NodeId, Topology};

use super::Discovery;
use super::input::Input;

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
pub(super) fn describe(discovery: &Discovery) -> Map<String, Value> {
    let topology = &discovery.topology;
    let nodes = topology.nodes().map(|node| {
        let ranges = || topology.memory_ranges().iter().filter(move |range| range.node == node);
        json!({
            "node": node.index(),
            "proximity": topology.proximity(node),
            "cpus": topology.cpus_of(node).iter().map(|cpu| cpu.index()).collect::<Vec<_>>(),
            "ranges": ranges()
                .map(|range| (range.range.start.as_u64(), range.range.end.as_u64()))
                .collect::<Vec<_>>(),
            "kinds": ranges().map(|range| format!("{:?}", range.kind)).collect::<Vec<_>>(),
            "free_frames": free_frames(discovery, node),
        })
    });
    let caches = topology.nodes().map(|node| {
        topology
            .memory_side_cache(node)
            .map(|cache| json!({"bytes": cache.bytes, "line_bytes": cache.line_bytes, "level": cache.level}))
    });
    let mut described = Map::new();
    let mut insert = |key: &str, value: Value| _ = described.insert(key.to_owned(), value);
    insert(
        "topology",
        json!({
            "nodes": nodes.collect::<Vec<_>>(),
            "distances": pairs(topology, |from, to| topology.distance(from, to).get()),
        }),
    );
    insert("apic_ids", topology.cpus().iter().map(|entry| entry.apic_id.0).collect());
    // Picoseconds, and megabytes per second.
    insert("latencies", json!(pairs(topology, |from, to| topology.latency(from, to).map(|figure| figure.0))));
    insert(
        "bandwidths",
        json!(pairs(topology, |from, to| topology.bandwidth(from, to).map(|figure| figure.0))),
    );
    insert("memory_side_caches", json!(caches.collect::<Vec<_>>()));
    insert("diagnostics", discovery.diagnostics.iter().map(ToString::to_string).collect());
    described
}

/// A row for each node.
fn pairs<T>(topology: &Topology, figure: impl Fn(NodeId, NodeId) -> T) -> Vec<Vec<T>> {
    let row = |from| topology.nodes().map(|to| figure(from, to)).collect();
    topology.nodes().map(row).collect()
}

/// Frames of the memory map on `node`; none without a map.
fn free_frames(discovery: &Discovery, node: NodeId) -> u64 {
    let pieces = discovery.free.iter().flatten().filter(|piece| piece.node == node);
    pieces.map(|piece| piece.range.frames()).sum()
}
