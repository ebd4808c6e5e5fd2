//! What the kernel discovered, beside the machine that the runner described to QEMU. So no wrong answer of
//! the kernel's is its own measure: the oracle takes its truth from the same topology.

use crate::report::number_list;
use crate::run::record::{DiscoveredCache, DiscoveredNode, DiscoveredTopology};
use crate::topology::{TopologySpec, physical_ranges};

/// Where devices of old have their memory, which is no RAM.
const HOLE: (u64, u64) = (0xa_0000, 0x10_0000);
/// Where the zones DMA, DMA32 and Normal begin.
const ZONES: [(&str, u64, u64); 3] =
    [("DMA", 0, 16 << 20), ("DMA32", 16 << 20, 4 << 30), ("Normal", 4 << 30, u64::MAX)];
/// What the kernel may need of a zone: its image, a RAM disk, page tables, and an eighth for books.
const TAKEN: u64 = 64 << 20;
/// A zone of this size that has no frame is missing.
const NEVER_EMPTY: u64 = 16 << 20;
/// The distance to nodes that the machine's description says nothing of.
const DEFAULT_DISTANCE: u8 = 20;
/// What the kernel calls memory that is there from the start, and a CXL window.
const CONVENTIONAL: &str = "Conventional";
const WINDOW: &str = "CxlWindow";

/// Where the discovered machine differs from the machine that was described.
pub(super) fn differences(spec: &TopologySpec, topology: &DiscoveredTopology) -> Vec<String> {
    let mut found = Vec::new();
    // Windows for CXL memory are nodes that the machine's own nodes don't include.
    let expected = spec.nodes.len() + spec.cxl.len();
    if topology.nodes.len() != expected {
        found.push(format!("{} nodes discovered, but the machine has {expected}", topology.nodes.len()));
        return found;
    }
    let (nodes, windows) = topology.nodes.split_at(spec.nodes.len());
    for (node, described) in nodes.iter().zip(&spec.nodes) {
        let mut cpus = described.cpus.clone();
        cpus.sort_unstable();
        if node.cpus != cpus {
            let (there, cpus) = (number_list(&node.cpus), number_list(&cpus));
            found.push(format!("CPUs {there} discovered on node {}, not {cpus}", node.node));
        }
    }
    distances(spec, topology, &mut found);
    for node in nodes {
        ranges(spec, node, &mut found);
        zones(spec, node, &mut found);
    }
    for node in &topology.nodes {
        bookkeeping(spec, node, &mut found);
    }
    for (node, window) in windows.iter().zip(&spec.cxl) {
        let sizes: Vec<u64> = node.ranges.iter().map(|range| range.1 - range.0).collect();
        if sizes != [window.size.bytes()] || node.kinds != [WINDOW] || !node.cpus.is_empty() {
            found.push(format!("node {} is not the CXL window of {}", node.node, window.size));
        }
    }
    attributes(spec, topology, &mut found);
    found
}

fn distances(spec: &TopologySpec, topology: &DiscoveredTopology, found: &mut Vec<String>) {
    for (from, row) in spec.distances.iter().enumerate() {
        for (to, &distance) in row.iter().enumerate() {
            match topology.distances.get(from).and_then(|row| row.get(to)) {
                Some(&there) if there == distance => {}
                Some(there) => {
                    found.push(format!("distance {there} from node {from} to node {to}, not {distance}"));
                }
                None => found.push(format!("no distance from node {from} to node {to}")),
            }
        }
    }
}

/// The node's memory: all of it must be there, and no more.
fn ranges(spec: &TopologySpec, node: &DiscoveredNode, found: &mut Vec<String>) {
    let described = described(spec, node.node);
    let mut discovered: Vec<(u64, u64)> = node.ranges.clone();
    discovered.sort_unstable();
    for &(start, end) in &described {
        // The hole may be left out.
        let below = (start, end.min(HOLE.0));
        let above = (start.max(HOLE.1), end);
        let parts = if start < HOLE.0 { vec![below, above] } else { vec![(start, end)] };
        for (start, end) in parts.into_iter().filter(|part| part.0 < part.1) {
            if !covers(&discovered, start, end) {
                found.push(format!("node {} lacks memory in {start:#x}..{end:#x}", node.node));
            }
        }
    }
    if spec.has_numa_tables() {
        let conventional = node.ranges.iter().zip(&node.kinds).filter(|(_, kind)| *kind == CONVENTIONAL);
        for (&(start, end), _) in conventional.filter(|(range, _)| !covers(&described, range.0, range.1)) {
            found.push(format!("node {} has no memory in all of {start:#x}..{end:#x}", node.node));
        }
    }
}

/// The node's ranges as described to QEMU, by address; those that touch are one.
fn described(spec: &TopologySpec, node: usize) -> Vec<(u64, u64)> {
    let ranges = physical_ranges(spec).into_iter().filter(|range| range.0 == node);
    ranges.map(|(_, start, end)| (start, end)).collect()
}

/// Do `ranges`, sorted, have all of `start..end` together?
fn covers(ranges: &[(u64, u64)], mut start: u64, end: u64) -> bool {
    for &(from, to) in ranges {
        if from <= start && start < to {
            start = to;
        }
    }
    start >= end
}

/// The node's frames by zone: not more than the machine has there, and most of these.
fn zones(spec: &TopologySpec, node: &DiscoveredNode, found: &mut Vec<String>) {
    let described = described(spec, node.node);
    for (&(name, start, end), &frames) in ZONES.iter().zip(&node.zones) {
        let parts = described.iter().map(|range| range.1.min(end).saturating_sub(range.0.max(start)));
        let (there, managed): (u64, u64) = (parts.sum(), frames * 4096);
        let least = (there - there / 8).saturating_sub(TAKEN);
        // The kernel's image may take most of the lowest zone.
        let is_missing = managed == 0 && there >= NEVER_EMPTY && start != 0;
        if managed > there || managed < least || is_missing {
            let (managed, there) = (managed >> 20, there >> 20);
            found.push(format!("node {} has {managed} MiB in zone {name}, of {there} MiB", node.node));
        }
    }
    if node.zones.len() != ZONES.len() {
        found.push(format!("node {} did not tell its zones", node.node));
    }
}

/// The node's bookkeeping: in memory that the runner gave the node, or, if the node has none at boot, in memory of
/// the node that is nearest to it.
fn bookkeeping(spec: &TopologySpec, node: &DiscoveredNode, found: &mut Vec<String>) {
    let has_memory = |index: usize| !described(spec, index).is_empty();
    let distance = |&to: &usize| {
        let row = spec.distances.get(node.node);
        (to != node.node, row.and_then(|row| row.get(to).copied()).unwrap_or(DEFAULT_DISTANCE))
    };
    let holders = (0..spec.nodes.len()).filter(|&index| has_memory(index));
    let Some(holder) = holders.min_by_key(distance) else { return };
    if node.bookkeeping.is_empty() {
        found.push(format!("node {} did not tell where its bookkeeping is", node.node));
    }
    let memory = described(spec, holder);
    for (what, start, end) in node.bookkeeping.iter().filter(|part| !covers(&memory, part.1, part.2)) {
        found.push(format!(
            "the bookkeeping of node {} ({what}) is at {start:#x}..{end:#x}, not in memory of node {holder}",
            node.node
        ));
    }
}

/// The HMAT's figures: those that were described, and no others.
fn attributes(spec: &TopologySpec, topology: &DiscoveredTopology, found: &mut Vec<String>) {
    let hmat = spec.hmat.clone().unwrap_or_default();
    let latencies =
        hmat.latency.iter().map(|entry| (entry.initiator, entry.target, entry.nanoseconds * 1000));
    let bandwidths =
        hmat.bandwidth.iter().map(|entry| (entry.initiator, entry.target, entry.megabytes_per_second));
    let caches = hmat.caches.iter().map(|cache| DiscoveredCache {
        node: cache.node,
        bytes: cache.size.bytes(),
        level: cache.level,
        line: cache.line,
    });
    figures("latency in ps", latencies.collect(), &topology.latencies, found);
    figures("bandwidth in MB/s", bandwidths.collect(), &topology.bandwidths, found);
    let mut caches: Vec<DiscoveredCache> = caches.collect();
    caches.sort_by_key(|cache| cache.node);
    if caches != topology.caches {
        found.push(format!("memory-side caches {:?}, not {caches:?}", topology.caches));
    }
}

fn figures(
    what: &str,
    mut expected: Vec<(usize, usize, u32)>,
    there: &[(usize, usize, u32)],
    found: &mut Vec<String>,
) {
    expected.sort_unstable();
    for (from, to, figure) in there.iter().filter(|figure| !expected.contains(figure)) {
        found.push(format!("{what} from node {from} to node {to} is {figure}, which nobody described"));
    }
    for (from, to, figure) in expected.iter().filter(|figure| !there.contains(figure)) {
        found.push(format!("{what} from node {from} to node {to} is not {figure}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology;

    const GIB: u64 = 1 << 30;

    /// A node whose bookkeeping is in the first frame of the second of `ranges`, or of the only one.
    fn node(node: usize, cpus: &[u32], ranges: &[(u64, u64)], zones: [u64; 3]) -> DiscoveredNode {
        let start = ranges.last().map_or(0, |range| range.0);
        DiscoveredNode {
            node,
            proximity: node as u32,
            cpus: cpus.to_vec(),
            ranges: ranges.to_vec(),
            kinds: vec![CONVENTIONAL.to_owned(); ranges.len()],
            free_frames: 0,
            zones: zones.map(|bytes| bytes / 4096).to_vec(),
            bookkeeping: vec![("region".to_owned(), start, start + 4096)],
        }
    }

    /// Two nodes, the second above 4 GiB in part, an HMAT, and a window.
    fn machine() -> (TopologySpec, DiscoveredTopology) {
        let spec = topology::parse(
            "node = [{ cpus = [0, 1], memory = '1G' }, { cpus = [2], memory = '3G' }]\n\
             cxl = [{ size = '2G' }]\n\
             [hmat]\n\
             latency = [{ initiator = 0, target = 0, nanoseconds = 100 }, { initiator = 0, target = 1, nanoseconds = 300 }]\n\
             bandwidth = [{ initiator = 0, target = 1, megabytes_per_second = 1024 }]\n\
             cache = [{ node = 1, size = '64M', level = 1, line = 64 }]",
        )
        .unwrap();
        let low = 16 << 20;
        let mut window = node(2, &[], &[(16 * GIB, 18 * GIB)], [0; 3]);
        window.kinds = vec![WINDOW.to_owned()];
        window.bookkeeping[0] = ("node".to_owned(), GIB - 4096, GIB - 2048);
        let topology = DiscoveredTopology {
            nodes: vec![
                node(0, &[0, 1], &[(0, HOLE.0), (HOLE.1, GIB)], [low / 2, GIB - low - (9 << 20), 0]),
                node(1, &[2], &[(GIB, 2 * GIB), (4 * GIB, 6 * GIB)], [0, GIB, 2 * GIB - (40 << 20)]),
                window,
            ],
            distances: vec![vec![10, 20, 20], vec![20, 10, 20], vec![20, 20, 10]],
            latencies: vec![(0, 0, 100_000), (0, 1, 300_000)],
            bandwidths: vec![(0, 1, 1024)],
            caches: vec![DiscoveredCache { node: 1, bytes: 64 << 20, level: 1, line: 64 }],
        };
        (spec, topology)
    }

    /// What is found once `change` has made something wrong.
    fn found(change: impl FnOnce(&mut DiscoveredTopology)) -> Vec<String> {
        let (spec, mut topology) = machine();
        change(&mut topology);
        differences(&spec, &topology)
    }

    #[test]
    fn the_machine_itself_is_no_difference() {
        assert_eq!(found(|_| {}), [""; 0]);
    }

    #[test]
    fn each_difference_is_named() {
        let one = |change: fn(&mut DiscoveredTopology)| {
            let mut found = found(change);
            assert_eq!(found.len(), 1, "{found:?}");
            found.remove(0)
        };
        assert_eq!(one(|t| _ = t.nodes.pop()), "2 nodes discovered, but the machine has 3");
        assert_eq!(one(|t| t.nodes[0].cpus = vec![0, 2]), "CPUs 0,2 discovered on node 0, not 0-1");
        assert_eq!(one(|t| t.distances[0][1] = 21), "distance 21 from node 0 to node 1, not 20");
        assert_eq!(one(|t| _ = t.distances[1].drain(1..)), "no distance from node 1 to node 1");
    }

    #[test]
    fn memory_that_is_missing_or_too_much_is_named() {
        let lost = found(|t| t.nodes[1].ranges[1] = (4 * GIB, 5 * GIB));
        assert_eq!(lost, ["node 1 lacks memory in 0x100000000..0x180000000"]);
        let swapped = found(|t| t.nodes[0].ranges[1].1 = 2 * GIB);
        assert_eq!(swapped, ["node 0 has no memory in all of 0x100000..0x80000000"]);
    }

    #[test]
    fn bookkeeping_elsewhere_is_named() {
        let elsewhere = found(|t| t.nodes[1].bookkeeping[0].1 = GIB - 4096);
        let place = "is at 0x3ffff000..0x100001000, not in memory of node 1";
        assert_eq!(elsewhere, [format!("the bookkeeping of node 1 (region) {place}")]);
        // The window has no memory yet, and node 0 is as near as node 1, and the first.
        let windows = found(|t| t.nodes[2].bookkeeping[0] = ("node".to_owned(), GIB, GIB + 1));
        let place = "is at 0x40000000..0x40000001, not in memory of node 0";
        assert_eq!(windows, [format!("the bookkeeping of node 2 (node) {place}")]);
        let silent = found(|t| t.nodes[0].bookkeeping.clear());
        assert_eq!(silent, ["node 0 did not tell where its bookkeeping is"]);
    }

    #[test]
    fn zones_that_are_empty_or_too_large_are_named() {
        let normal = found(|t| t.nodes[1].zones[2] = 0);
        assert_eq!(normal, ["node 1 has 0 MiB in zone Normal, of 2048 MiB"]);
        let other = found(|t| t.nodes[0].zones[2] = 256);
        assert_eq!(other, ["node 0 has 1 MiB in zone Normal, of 0 MiB"]);
        assert_eq!(found(|t| t.nodes[1].zones.clear()), ["node 1 did not tell its zones"]);
    }

    #[test]
    fn windows_and_attributes_are_compared() {
        let window = "node 2 is not the CXL window of 2G";
        assert_eq!(found(|t| t.nodes[2].ranges[0].1 = 17 * GIB), [window]);
        assert_eq!(found(|t| t.nodes[2].kinds[0] = CONVENTIONAL.to_owned()), [window]);
        let latency = found(|t| t.latencies[1].2 = 200_000);
        assert_eq!(
            latency,
            [
                "latency in ps from node 0 to node 1 is 200000, which nobody described",
                "latency in ps from node 0 to node 1 is not 300000"
            ]
        );
        assert_eq!(found(|t| t.bandwidths.clear()), ["bandwidth in MB/s from node 0 to node 1 is not 1024"]);
        let borrowed = found(|t| t.bandwidths.push((0, 2, 1024)));
        assert_eq!(borrowed, ["bandwidth in MB/s from node 0 to node 2 is 1024, which nobody described"]);
        assert_eq!(found(|t| t.caches[0].line = 128).len(), 1);
    }
}
