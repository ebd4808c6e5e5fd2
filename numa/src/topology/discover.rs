//! From firmware's tables to the topology: nodes, memory and CPUs.

use topomem_percpu::{CpuId, CpuSet, NodeId};

use super::{ApicId, CpuEntry, Distance, MemoryKind, NodeRange, Topology};
use crate::MemoryRange;
use crate::tables::{
    Cedt, CedtEntry, CpuState, Diagnostic, FirmwareTables, Hmat, Madt, MadtEntry, MemoryAffinity, Slit, Srat,
    SratEntry, Table, TableError,
};

/// Who hears of what is wrong.
pub(super) type Report<'r> = &'r mut dyn FnMut(Diagnostic);

impl Topology {
    /// Replaces what it holds by what `tables` say; `boot` is the APIC id of the CPU that runs,
    /// which becomes [`CpuId::BOOT`]. The other enabled CPUs follow in the MADT's order.
    ///
    /// Every proximity domain that has an enabled CPU, memory or generic initiator in the SRAT
    /// becomes a node, numbered in order of domain; then every CXL window that no domain claims.
    ///
    /// It cannot fail: what is missing or malformed is reported to `diagnostics` and made up
    /// for, in the worst case by one node that has all memory. Absent tables are not reported.
    ///
    /// Cost: CPUs times SRAT entries, and the HMAT's matrices times nodes.
    ///
    /// ```
    /// use topomem_numa::{ApicId, FirmwareTables, NodeId, Topology};
    ///
    /// let broken = FirmwareTables { srat: Some(b"SRAT"), ..FirmwareTables::default() };
    /// let mut topology = Box::new(Topology::new());
    /// topology.discover(&broken, ApicId(7), &mut |diagnostic| println!("{diagnostic}"));
    /// assert_eq!(topology.node_count(), 1);
    /// assert_eq!(topology.cpus()[0].apic_id, ApicId(7));
    /// ```
    pub fn discover(
        &mut self,
        tables: &FirmwareTables<'_>,
        boot: ApicId,
        diagnostics: &mut dyn FnMut(Diagnostic),
    ) {
        let report = diagnostics;
        self.reset();
        let srat = verified(tables.srat.map(Srat::parse), report);
        let cedt = verified(tables.cedt.map(Cedt::parse), report);
        let madt = verified(tables.madt.map(Madt::parse), report);
        let slit = verified(tables.slit.map(Slit::parse), report);
        let hmat = verified(tables.hmat.map(Hmat::parse), report);

        if let Some(srat) = srat {
            self.add_domains(&srat, report);
        }
        let domains = self.proximity.len();
        if domains == 0 {
            self.proximity.push(0);
        }
        if let Some(srat) = srat {
            self.add_memory(&srat, report);
        }
        let described = !self.ranges.is_empty();
        if let Some(cedt) = cedt {
            self.add_windows(&cedt, report);
        }
        if !described {
            self.add_range(MemoryRange::EVERYTHING, NodeId::ZERO, MemoryKind::Conventional, &mut |_| {});
        }
        self.add_cpus(madt, srat, boot, report);
        if let Some(slit) = slit {
            self.set_distances(&slit, domains, report);
        }
        if let Some(hmat) = hmat {
            self.set_performance(&hmat, report);
        }
        self.order_nodes();
    }

    /// As [`Topology::new`], in place: the value is too large for a boot stack.
    fn reset(&mut self) {
        self.proximity.clear();
        self.cpus.clear();
        self.cpus_of.fill(CpuSet::EMPTY);
        for (from, row) in self.distances.iter_mut().enumerate() {
            row.fill(Distance::REMOTE);
            row[from] = Distance::LOCAL;
        }
        self.nearest.clear();
        self.ranges.clear();
        self.performance.clear();
    }

    fn add_domains(&mut self, srat: &Srat<'_>, report: Report<'_>) {
        for entry in srat.entries() {
            let proximity = match entry {
                Ok(SratEntry::Cpu { proximity, enabled: true, .. })
                | Ok(SratEntry::GenericInitiator { proximity, enabled: true }) => proximity,
                Ok(SratEntry::Memory(memory)) if is_used(&memory) => memory.proximity,
                Ok(_) => continue,
                Err(error) => {
                    report(error.into());
                    continue;
                }
            };
            if let Err(place) = self.proximity.binary_search(&proximity)
                && self.proximity.try_insert(place, proximity).is_err()
            {
                report(Diagnostic::TooManyNodes { proximity });
            }
        }
    }

    fn add_memory(&mut self, srat: &Srat<'_>, report: Report<'_>) {
        for entry in srat.entries() {
            let Ok(SratEntry::Memory(memory)) = entry else { continue };
            if !is_used(&memory) {
                continue;
            }
            let MemoryAffinity { base, bytes, .. } = memory;
            let Some(range) = MemoryRange::from_length(base, bytes) else {
                report(Diagnostic::ImpossibleRange { table: Table::Srat, base, bytes });
                continue;
            };
            // A domain that found no room as a node has been reported.
            let node = self.node_of_proximity(memory.proximity).unwrap_or(NodeId::ZERO);
            let kind = if memory.non_volatile {
                MemoryKind::NonVolatile
            } else if memory.hot_pluggable {
                MemoryKind::HotPluggable
            } else {
                MemoryKind::Conventional
            };
            self.add_range(range, node, kind, report);
        }
    }

    fn add_windows(&mut self, cedt: &Cedt<'_>, report: Report<'_>) {
        for entry in cedt.entries() {
            let (base, bytes) = match entry {
                Ok(CedtEntry::Window { base, bytes, .. }) => (base, bytes),
                Ok(_) => continue,
                Err(error) => {
                    report(error.into());
                    continue;
                }
            };
            let Some(range) = MemoryRange::from_length(base, bytes) else {
                report(Diagnostic::ImpossibleRange { table: Table::Cedt, base, bytes });
                continue;
            };
            // Firmware may have set devices up and given their memory a domain already.
            let node = match self.ranges.first_within(&range) {
                Some(known) => known.node,
                None => {
                    let proximity = self.unused_proximity();
                    if self.proximity.try_push(proximity).is_err() {
                        report(Diagnostic::TooManyNodes { proximity });
                    }
                    self.node_of_proximity(proximity).unwrap_or(NodeId::ZERO)
                }
            };
            self.add_range(range, node, MemoryKind::CxlWindow, &mut |diagnostic| {
                // That a domain has part of its window is no contradiction.
                if !matches!(diagnostic, Diagnostic::OverlappingRanges { .. }) {
                    report(diagnostic);
                }
            });
        }
    }

    /// A number that firmware gave no domain: above all, if there is one.
    fn unused_proximity(&self) -> u32 {
        let above = self.proximity.iter().max().map_or(Some(0), |max| max.checked_add(1));
        let unused = || (0..u32::MAX).find(|number| !self.proximity.contains(number));
        above.or_else(unused).unwrap_or(u32::MAX)
    }

    fn add_range(&mut self, range: MemoryRange, node: NodeId, kind: MemoryKind, report: Report<'_>) {
        let second = self.proximity(node);
        let proximity = &self.proximity;
        let added = self.ranges.insert(NodeRange { range, node, kind }, &mut |known| {
            if known.node == node {
                return;
            }
            let first = proximity.get(known.node.index()).copied().unwrap_or(0);
            if let Some(range) = known.range.intersection(&range) {
                report(Diagnostic::OverlappingRanges { first, second, range });
            }
        });
        if added.is_err() {
            report(Diagnostic::TooManyRanges(range));
        }
    }

    fn add_cpus(&mut self, madt: Option<Madt<'_>>, srat: Option<Srat<'_>>, boot: ApicId, report: Report<'_>) {
        self.add_cpu(boot, srat.as_ref(), report);
        let Some(madt) = madt else { return };
        let mut boot_listed = false;
        for entry in madt.entries() {
            let apic_id = match entry {
                Ok(MadtEntry::Cpu { apic_id, state: CpuState::Enabled, .. }) => apic_id,
                Ok(_) => continue,
                Err(error) => {
                    report(error.into());
                    continue;
                }
            };
            if apic_id == boot && !boot_listed {
                boot_listed = true;
            } else if self.cpu_of_apic(apic_id).is_some() {
                report(Diagnostic::DuplicateCpu(apic_id));
            } else {
                self.add_cpu(apic_id, srat.as_ref(), report);
            }
        }
        if !boot_listed {
            report(Diagnostic::BootCpuMissing(boot));
        }
    }

    fn add_cpu(&mut self, apic_id: ApicId, srat: Option<&Srat<'_>>, report: Report<'_>) {
        let Some(cpu) = CpuId::new(self.cpus.len()) else {
            report(Diagnostic::TooManyCpus(apic_id));
            return;
        };
        let node = match srat {
            None => NodeId::ZERO,
            Some(srat) => match srat.proximity_of_cpu(apic_id) {
                Some(proximity) => self.node_of_proximity(proximity).unwrap_or(NodeId::ZERO),
                None => {
                    report(Diagnostic::CpuWithoutAffinity(apic_id));
                    NodeId::ZERO
                }
            },
        };
        self.cpus.push(CpuEntry { cpu, apic_id, node });
        self.cpus_of[node.index()].insert(cpu);
    }

    /// Latency breaks the ties that a SLIT's coarse steps, or its absence, leave.
    fn order_nodes(&mut self) {
        for from in self.nodes() {
            let (distances, performance) = (&self.distances[from.index()], &self.performance);
            self.nearest.sort(from, (0..self.proximity.len()).filter_map(NodeId::new), |to| {
                let distance = distances[to.index()];
                let latency = performance.latency(from, to).map_or(u32::MAX, |latency| latency.0);
                // No path is the largest distance.
                (distance, latency)
            });
        }
    }
}

/// The table, if it is there and verified.
fn verified<T>(parsed: Option<Result<T, TableError>>, report: Report<'_>) -> Option<T> {
    match parsed? {
        Ok(table) => Some(table),
        Err(error) => {
            report(error.into());
            None
        }
    }
}

/// QEMU, for one, writes spare entries, disabled and without bytes.
fn is_used(memory: &MemoryAffinity) -> bool {
    memory.enabled && memory.bytes != 0
}
