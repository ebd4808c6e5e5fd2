//! From firmware's tables to the topology: the costs of reaching memory.

use topomem_percpu::NodeId;

use super::report::Report;
use super::{Distance, MemoryKind, MemorySideCache, Topology};
use crate::tables::{DataType, Diagnostic, Figure, Hmat, HmatEntry, LatencyBandwidth, Slit, Table};

impl Topology {
    /// Sets the distances from the SLIT. `domains` nodes are firmware's; those after them are CXL
    /// windows, unknown to any SLIT.
    pub(super) fn set_distances(&mut self, slit: &Slit<'_>, domains: usize, report: &mut Report<'_>) {
        if let Some(fault) = slit.fault() {
            report.give(fault);
            return;
        }
        for node in self.nodes().take(domains) {
            let proximity = self.proximity(node);
            if slit.distance(proximity, proximity).is_none() {
                report.give(Diagnostic::NoDistances { proximity, localities: slit.localities() });
            }
        }
        for from in self.nodes() {
            for to in self.nodes() {
                let known = slit.distance(self.proximity(from), self.proximity(to));
                self.distances.set(from, to, known.unwrap_or(Distance::NONE));
            }
        }
        for node in self.nodes().take(domains) {
            if self.reaches_nobody(node) {
                report.give(Diagnostic::ReachesNobody { proximity: self.proximity(node) });
            }
        }
    }

    /// Returns true if other nodes have memory, and none of them is within reach of `from`. Memory
    /// that may be plugged into a CXL window does not count.
    fn reaches_nobody(&self, from: NodeId) -> bool {
        let is_there = |kind| kind != MemoryKind::CxlWindow;
        let ranges = self.memory_ranges().iter();
        let mut others = ranges
            .filter(|range| range.node != from && is_there(range.kind))
            .map(|range| range.node)
            .peekable();
        others.peek().is_some() && others.all(|to| !self.distance(from, to).is_reachable())
    }

    pub(super) fn set_performance(&mut self, hmat: &Hmat<'_>, report: &mut Report<'_>) {
        for entry in hmat.entries() {
            match entry {
                Ok(HmatEntry::LatencyBandwidth(matrix)) => self.set_figures(&matrix, report),
                Ok(HmatEntry::MemorySideCache { memory, cache }) => self.set_cache(memory, cache, report),
                Ok(HmatEntry::ProximityAttributes { memory, .. }) => {
                    self.known_domain(memory, report);
                }
                Ok(HmatEntry::Other(_)) => {}
                Err(error) => report.give(error),
            }
        }
    }

    /// Sets the figures of a matrix. Only the memory's own figures count, and of those for reads
    /// and for any access.
    fn set_figures(&mut self, matrix: &LatencyBandwidth<'_>, report: &mut Report<'_>) {
        let exact = match matrix.data_type {
            DataType::ReadLatency | DataType::ReadBandwidth => true,
            DataType::AccessLatency | DataType::AccessBandwidth => false,
            DataType::WriteLatency | DataType::WriteBandwidth | DataType::Reserved(_) => return,
        };
        if matrix.hierarchy != 0 {
            return;
        }
        for proximity in matrix.domains() {
            self.known_domain(proximity, report);
        }
        for (from, to, figure) in matrix.figures() {
            let (Some(initiator), Some(target)) = (self.node_of_proximity(from), self.node_of_proximity(to))
            else {
                continue;
            };
            match figure {
                // A figure for reads replaces one for any access, and not the other way round.
                Figure::Latency(latency) => {
                    if exact || self.latency(initiator, target).is_none() {
                        self.performance.set_latency(initiator, target, latency);
                    }
                }
                Figure::Bandwidth(bandwidth) => {
                    if exact || self.bandwidth(initiator, target).is_none() {
                        self.performance.set_bandwidth(initiator, target, bandwidth);
                    }
                }
                Figure::None | Figure::Unreachable => {}
                Figure::TooLarge { entry, base_unit } => {
                    report.give(Diagnostic::FigureTooLarge { initiator: from, target: to, entry, base_unit });
                }
            }
        }
    }

    /// Sets the cache of a node. Of several levels, the level nearest to the CPUs stays.
    fn set_cache(&mut self, memory: u32, cache: MemorySideCache, report: &mut Report<'_>) {
        let Some(node) = self.known_domain(memory, report) else { return };
        if self.memory_side_cache(node).is_none_or(|known| known.level < cache.level) {
            self.performance.set_cache(node, cache);
        }
    }

    fn known_domain(&self, proximity: u32, report: &mut Report<'_>) -> Option<NodeId> {
        let node = self.node_of_proximity(proximity);
        if node.is_none() {
            report.give(Diagnostic::UnknownProximity { table: Table::Hmat, proximity });
        }
        node
    }
}
