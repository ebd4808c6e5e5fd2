//! The discovered topology for people.

use super::table::{Table, grouped};
use crate::run::record::{DiscoveredNode, DiscoveredTopology};

/// Nodes with their CPUs and memory, and the distances between them.
pub(super) fn render(topology: &DiscoveredTopology) -> Vec<String> {
    let mut lines = vec!["topology:".to_owned()];
    let mut nodes = Table::new(["node", "domain", "CPUs", "memory", "free frames", "ranges"]);
    for node in &topology.nodes {
        let bytes: u64 = node.ranges.iter().map(|&(start, end)| end.saturating_sub(start)).sum();
        let mut ranges =
            node.ranges.iter().enumerate().map(|(index, range)| describe_range(node, index, *range));
        nodes.row(vec![
            node.node.to_string(),
            node.proximity.to_string(),
            number_list(&node.cpus),
            if bytes == 0 { "0".to_owned() } else { mebibytes(bytes) },
            grouped(node.free_frames),
            ranges.next().unwrap_or_else(|| "-".to_owned()),
        ]);
        for range in ranges {
            nodes.row(["", "", "", "", "", &range].map(str::to_owned).to_vec());
        }
    }
    lines.extend(nodes.lines());
    if topology.distances.len() > 1 {
        let heading = ["distance".to_owned()].into_iter();
        let mut table = Table::with_heading(
            heading.chain((0..topology.distances.len()).map(|to| format!("to {to}"))).collect(),
        );
        for (from, row) in topology.distances.iter().enumerate() {
            let cells = [format!("from {from}")].into_iter().chain(row.iter().map(u8::to_string));
            table.row(cells.collect());
        }
        lines.extend(table.lines());
    }
    lines
}

fn describe_range(node: &DiscoveredNode, index: usize, (start, end): (u64, u64)) -> String {
    let kind =
        node.kinds.get(index).map(String::as_str).filter(|kind| !kind.eq_ignore_ascii_case("conventional"));
    let kind = kind.map(|kind| format!(" {kind}")).unwrap_or_default();
    format!("{start:#x}..{end:#x}{kind}")
}

fn mebibytes(bytes: u64) -> String {
    match bytes {
        0..1_048_576 => format!("{} KiB", bytes >> 10),
        _ => format!("{} MiB", bytes >> 20),
    }
}

/// `0-3,6`, or `-` for none.
pub(crate) fn number_list(numbers: &[u32]) -> String {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for &number in numbers {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => runs.push((number, number)),
        }
    }
    if runs.is_empty() {
        return "-".to_owned();
    }
    let run = |&(first, last): &(u32, u32)| {
        if first == last { format!("{first}") } else { format!("{first}-{last}") }
    };
    runs.iter().map(run).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_runs_of_cpus() {
        assert_eq!(number_list(&[0, 1, 2, 3, 6]), "0-3,6");
        assert_eq!(number_list(&[]), "-");
    }

    #[test]
    fn shows_nodes_ranges_and_distances() {
        let node = |node, cpus: &[u32], ranges: &[(u64, u64)], kinds: &[&str]| DiscoveredNode {
            node,
            proximity: node as u32,
            cpus: cpus.to_vec(),
            ranges: ranges.to_vec(),
            kinds: kinds.iter().map(|&kind| kind.to_owned()).collect(),
            free_frames: 1000,
            zones: Vec::new(),
            bookkeeping: Vec::new(),
        };
        let topology = DiscoveredTopology {
            nodes: vec![
                node(0, &[0, 1], &[(0, 0xa0000), (1 << 20, 512 << 20)], &["conventional", "conventional"]),
                node(1, &[], &[(1 << 32, 2 << 32)], &["hot-pluggable"]),
            ],
            distances: vec![vec![10, 21], vec![31, 10]],
            ..DiscoveredTopology::default()
        };
        let text = render(&topology).join("\n");
        for part in ["0-1", "511 MiB", "0x100000..0x20000000", "hot-pluggable", "to 1", "31"] {
            assert!(text.contains(part), "{part} not in\n{text}");
        }
    }
}
