//! The run's records: one JSON object each, the same from the kernel and from the simulator.

use core::fmt::{self, Write as _};
use core::ptr::NonNull;

use topomem::frames::{Bookkeeping, NodeStats, Zone};
use topomem::{CpuId, NodeId, PhysAddr, Topology};

use crate::{Failure, Report};

/// Calls its last argument with each part of a node's bookkeeping.
pub(crate) type VisitBookkeeping<'a> = dyn Fn(NodeId, &mut dyn FnMut(Bookkeeping)) + 'a;

/// What a run says while it goes on and at its end. It displays as one line of JSON, of which the
/// field `t` names the kind.
#[derive(Clone, Copy)]
pub enum Record<'a> {
    /// The machine as it was discovered.
    Topology {
        /// Nodes, CPUs, ranges, distances, the HMAT's figures.
        topology: &'a Topology,
        /// A node's frames.
        stats: &'a dyn Fn(NodeId) -> Option<NodeStats>,
        /// Calls its argument with each part of a node's bookkeeping.
        bookkeeping: &'a VisitBookkeeping<'a>,
        /// The physical address of a byte of the bookkeeping.
        address: &'a dyn Fn(NonNull<u8>) -> PhysAddr,
    },
    /// How far the run is.
    Progress(Progress),
    /// A node's frames at the end.
    Node(NodeSummary),
    /// What a CPU did.
    Cpu(CpuSummary),
    /// A CPU was unresponsive and reported.
    Unresponsive {
        /// What the service reported.
        report: Report,
        /// Operations that other CPUs finished meanwhile.
        meanwhile: u64,
    },
    /// Something went wrong.
    Failure(&'a Failure),
    /// The run is over; nothing follows.
    End {
        /// Nothing went wrong.
        ok: bool,
    },
}

/// How far a run is: sums over all CPUs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Milliseconds since the start.
    pub milliseconds: u64,
    /// Operations finished.
    pub operations: u64,
    /// Frames and objects that were allocated.
    pub allocations: u64,
    /// Frames that were waited for.
    pub waits: u64,
    /// Changes of shared mappings.
    pub changes: u64,
    /// Reads and writes of shared mappings that were judged.
    pub probes: u64,
    /// Times that a CPU went off and came back.
    pub absences: u64,
}

/// A node's frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeSummary {
    /// The node.
    pub node: NodeId,
    /// Frames given to CPUs of the node.
    pub local: u64,
    /// Frames given to CPUs of other nodes.
    pub remote: u64,
    /// Frames free now.
    pub free: u64,
    /// Frames that the allocator manages.
    pub total: u64,
}

/// What a CPU did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuSummary {
    /// The CPU.
    pub cpu: CpuId,
    /// Where it is.
    pub node: NodeId,
    /// Frames that it got from its own node.
    pub allocated_local: u64,
    /// Frames that it got from other nodes.
    pub allocated_remote: u64,
    /// Allocations that its magazines served.
    pub magazine_hits: u64,
    /// Allocations that went on to the node's allocator.
    pub magazine_misses: u64,
    /// Times that it went off and came back.
    pub absences: u64,
    /// Invalidations that it issued.
    pub shootdowns: u64,
    /// Interrupts that it sent for them.
    pub ipis_sent: u64,
    /// Interrupts that it received.
    pub ipis_received: u64,
    /// Pages that it flushed singly.
    pub pages_flushed: u64,
    /// Times that it flushed its whole TLB.
    pub full_flushes: u64,
}

impl fmt::Display for Record<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Record::Topology { topology, stats, bookkeeping, address } => {
                write_topology(f, topology, stats, &|node, f| {
                    write_bookkeeping(f, node, bookkeeping, address)
                })
            }
            Record::Progress(progress) => write!(
                f,
                r#"{{"t":"progress","ms":{},"ops":{},"allocations":{},"waits":{},"changes":{},"probes":{},"absences":{}}}"#,
                progress.milliseconds,
                progress.operations,
                progress.allocations,
                progress.waits,
                progress.changes,
                progress.probes,
                progress.absences
            ),
            Record::Node(node) => write!(
                f,
                r#"{{"t":"node","node":{},"local":{},"remote":{},"free":{},"total":{}}}"#,
                node.node.index(),
                node.local,
                node.remote,
                node.free,
                node.total
            ),
            Record::Cpu(cpu) => write_cpu(f, cpu),
            Record::Unresponsive { report, meanwhile } => write!(
                f,
                r#"{{"t":"unresponsive","cpu":{},"generation":{},"ms":{},"meanwhile":{meanwhile}}}"#,
                report.cpu.index(),
                report.generation.get(),
                report.milliseconds
            ),
            Record::Failure(failure) => {
                f.write_str(r#"{"t":"failure","what":"#)?;
                write_string(f, failure)?;
                f.write_str(r#","where":"#)?;
                write_string(f, &failure.place())?;
                f.write_str("}")
            }
            Record::End { ok } => write!(f, r#"{{"t":"end","ok":{ok}}}"#),
        }
    }
}

impl fmt::Debug for Record<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn write_topology(
    f: &mut fmt::Formatter<'_>,
    topology: &Topology,
    stats: &dyn Fn(NodeId) -> Option<NodeStats>,
    write_books: &dyn Fn(NodeId, &mut fmt::Formatter<'_>) -> fmt::Result,
) -> fmt::Result {
    f.write_str(r#"{"t":"topology","nodes":"#)?;
    write_list(f, topology.nodes(), |f, node| {
        let ranges = || topology.memory_ranges().iter().filter(move |range| range.node == node);
        write!(f, r#"{{"node":{},"proximity":{},"cpus":"#, node.index(), topology.proximity(node))?;
        write_list(f, topology.cpus_of(node).iter(), |f, cpu| write!(f, "{}", cpu.index()))?;
        f.write_str(r#","ranges":"#)?;
        write_list(f, ranges(), |f, range| {
            write!(f, "[{},{}]", range.range.start.as_u64(), range.range.end.as_u64())
        })?;
        f.write_str(r#","kinds":"#)?;
        write_list(f, ranges(), |f, range| write!(f, r#""{:?}""#, range.kind))?;
        let stats = stats(node);
        write!(f, r#","free_frames":{},"zones":"#, stats.as_ref().map_or(0, NodeStats::free))?;
        // What is managed of each zone.
        write_list(f, Zone::ALL.into_iter(), |f, zone| {
            write!(f, "{}", stats.as_ref().map_or(0, |stats| stats.zones[zone.index()].managed))
        })?;
        f.write_str(r#","bookkeeping":["#)?;
        write_books(node, f)?;
        f.write_str("]}")
    })?;
    f.write_str(r#","distances":"#)?;
    write_list(f, topology.nodes(), |f, from| {
        write_list(f, topology.nodes(), |f, to| write!(f, "{}", topology.distance(from, to).get()))
    })?;
    f.write_str(r#","latencies":"#)?;
    write_figures(f, topology, |from, to| topology.latency(from, to).map(|latency| latency.0))?;
    f.write_str(r#","bandwidths":"#)?;
    write_figures(f, topology, |from, to| topology.bandwidth(from, to).map(|bandwidth| bandwidth.0))?;
    f.write_str(r#","caches":"#)?;
    let with_cache = topology.nodes().filter_map(|node| Some((node, topology.memory_side_cache(node)?)));
    write_list(f, with_cache, |f, (node, cache)| {
        write!(
            f,
            r#"{{"node":{},"bytes":{},"level":{},"line":{}}}"#,
            node.index(),
            cache.bytes,
            cache.level,
            cache.line_bytes
        )
    })?;
    f.write_str("}")
}

/// A list for each pair of nodes that has a figure: from, to, and the figure.
fn write_figures(
    f: &mut fmt::Formatter<'_>,
    topology: &Topology,
    figure: impl Fn(NodeId, NodeId) -> Option<u32>,
) -> fmt::Result {
    let pairs = topology.nodes().flat_map(|from| topology.nodes().map(move |to| (from, to)));
    let figures = pairs.filter_map(|(from, to)| Some((from, to, figure(from, to)?)));
    write_list(f, figures, |f, (from, to, figure)| write!(f, "[{},{},{figure}]", from.index(), to.index()))
}

fn write_cpu(f: &mut fmt::Formatter<'_>, cpu: &CpuSummary) -> fmt::Result {
    write!(
        f,
        r#"{{"t":"cpu","cpu":{},"node":{},"alloc_local":{},"alloc_remote":{},"magazine_hits":{},"#,
        cpu.cpu.index(),
        cpu.node.index(),
        cpu.allocated_local,
        cpu.allocated_remote,
        cpu.magazine_hits
    )?;
    write!(
        f,
        r#""magazine_misses":{},"absences":{},"shootdowns":{},"ipis_sent":{},"ipis_received":{},"#,
        cpu.magazine_misses, cpu.absences, cpu.shootdowns, cpu.ipis_sent, cpu.ipis_received
    )?;
    write!(f, r#""flush_page":{},"flush_full":{}}}"#, cpu.pages_flushed, cpu.full_flushes)
}

/// Writes the parts of a node's bookkeeping as `["what",start,end]`.
fn write_bookkeeping(
    f: &mut fmt::Formatter<'_>,
    node: NodeId,
    bookkeeping: &VisitBookkeeping<'_>,
    address: &dyn Fn(NonNull<u8>) -> PhysAddr,
) -> fmt::Result {
    let mut written = Ok(());
    let mut separator = "";
    bookkeeping(node, &mut |part| {
        let start = address(part.first).as_u64();
        let one = write!(f, r#"{separator}["{}",{start},{}]"#, part.what, start + part.bytes);
        written = written.and(one);
        separator = ",";
    });
    written
}

fn write_list<T>(
    f: &mut fmt::Formatter<'_>,
    items: impl Iterator<Item = T>,
    mut write_item: impl FnMut(&mut fmt::Formatter<'_>, T) -> fmt::Result,
) -> fmt::Result {
    f.write_str("[")?;
    for (index, item) in items.enumerate() {
        if index > 0 {
            f.write_str(",")?;
        }
        write_item(f, item)?;
    }
    f.write_str("]")
}

/// `value` as it displays, as a JSON string.
fn write_string(f: &mut fmt::Formatter<'_>, value: &dyn fmt::Display) -> fmt::Result {
    f.write_str("\"")?;
    write!(Escaped(f), "{value}")?;
    f.write_str("\"")
}

struct Escaped<'a, 'b>(&'a mut fmt::Formatter<'b>);

impl fmt::Write for Escaped<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            match character {
                '"' | '\\' => write!(self.0, "\\{character}")?,
                control if control < ' ' => write!(self.0, "\\u{:04x}", u32::from(control))?,
                other => self.0.write_char(other)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use super::*;
    use crate::Text;

    #[test]
    fn failures_are_escaped() {
        let error = Text::display(&"a \"b\"\n\\");
        let failure = Failure::Inconsistent { part: "frames", error };
        let expected = r#"{"t":"failure","what":"frames inconsistent: a \"b\"\u000a\\","where":"frames"}"#;
        assert_eq!(Record::Failure(&failure).to_string(), expected);
    }

    #[test]
    fn an_undiscovered_machine_has_one_node() {
        let topology = Topology::new();
        let memory = [0_u8; 2];
        let part = Bookkeeping { what: "node", first: NonNull::from(&memory).cast(), bytes: 2 };
        let record = Record::Topology {
            topology: &topology,
            stats: &|_| None,
            bookkeeping: &|_, visit| (0..2).for_each(|_| visit(part)),
            address: &|_| PhysAddr::new(4096),
        };
        let expected = concat!(
            r#"{"t":"topology","nodes":[{"node":0,"proximity":0,"cpus":[],"#,
            r#""ranges":[[0,4503599627366400]],"kinds":["Conventional"],"free_frames":0,"zones":[0,0,0],"#,
            r#""bookkeeping":[["node",4096,4098],["node",4096,4098]]}],"#,
            r#""distances":[[10]],"latencies":[],"bandwidths":[],"caches":[]}"#,
        );
        assert_eq!(record.to_string(), expected);
    }
}
