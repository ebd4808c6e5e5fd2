//! From firmware's tables to the topology: nodes, memory and CPUs.

use topomem_percpu::{CpuId, NodeId};

use super::report::Report;
use super::windows::Claimed;
use super::{ApicId, CpuEntry, Distance, MemoryKind, NodeRange, Topology};
use crate::MemoryRange;
use crate::tables::{
    Cedt, CpuState, Diagnostic, FirmwareTables, Hmat, Madt, MadtEntry, Slit, Srat, SratEntry, Table,
    TableError,
};

impl Topology {
    /// Replaces the topology by that of `tables`. `boot` is the APIC id of the executing CPU, which
    /// becomes [`CpuId::BOOT`]. The further enabled CPUs follow in the MADT's order.
    ///
    /// Every proximity domain with an enabled CPU, memory or generic initiator in the SRAT becomes
    /// a node, numbered in order of domain; then every CXL window that no domain claims. If ranges
    /// of two domains overlap, the smaller range has the memory.
    ///
    /// There is room for 8 nodes, 64 CPUs and 32 ranges, or for what [`Topology::discover_in`] made room for earlier.
    /// Entries beyond are reported: memory beyond is node 0's, and CPUs beyond are left out.
    ///
    /// Discovery cannot fail: missing or malformed parts are reported to `diagnostics` and
    /// replaced, in the worst case by one node with all memory. Absent tables are not reported. At
    /// most 64 diagnostics of a kind are given.
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
        let report = &mut Report::new(diagnostics);
        self.reset();
        if tables.root_checksum != 0 {
            report.give(Diagnostic::RootChecksum { sum: tables.root_checksum });
        }
        let srat = verified(Table::Srat, tables.srat.map(Srat::parse), Srat::checksum, report);
        let cedt = verified(Table::Cedt, tables.cedt.map(Cedt::parse), Cedt::checksum, report);
        let madt = verified(Table::Madt, tables.madt.map(Madt::parse), Madt::checksum, report);
        let slit = verified(Table::Slit, tables.slit.map(Slit::parse), Slit::checksum, report);
        let hmat = verified(Table::Hmat, tables.hmat.map(Hmat::parse), Hmat::checksum, report);

        if let Some(srat) = srat {
            self.add_domains(&srat, self.node_room(), report);
        }
        let domains = self.proximity.len();
        if domains == 0 {
            // There is room: the list is empty.
            let _ = self.proximity.push(0);
        }
        if let Some(srat) = srat {
            self.add_memory(&srat, report);
        }
        self.has_affinities = !self.ranges.is_empty();
        if let Some(cedt) = cedt {
            self.add_windows(&cedt, &Claimed { srat, slit, hmat }, report);
        }
        if !self.has_affinities {
            // Windows are smaller, so they stay; if there is no room for all, node 0 gets the rest.
            let all = MemoryRange::EVERYTHING;
            let node0 = NodeRange { range: all, node: NodeId::ZERO, kind: MemoryKind::Conventional };
            if self.ranges.insert(node0, &mut |_, _, _| {}).is_err() {
                report.give(Diagnostic::TooManyRanges(all));
            }
        }
        self.add_cpus(madt, srat, boot, report);
        if let Some(slit) = slit {
            self.set_distances(&slit, domains, report);
        }
        if let Some(hmat) = hmat {
            self.set_performance(&hmat, report);
        }
        self.order_nodes();
        report.finish();
    }

    /// Resets to the value of [`Topology::new`], in place: the value is too large for a boot stack.
    pub(super) fn reset(&mut self) {
        self.proximity.clear();
        self.cpus.clear();
        self.distances.fill(Distance::NONE);
        self.nearest.clear();
        self.ranges.clear();
        self.has_affinities = false;
        self.performance.clear();
    }

    fn add_domains(&mut self, srat: &Srat<'_>, most: usize, report: &mut Report<'_>) {
        for entry in srat.entries() {
            let proximity = match entry {
                Ok(entry) => match domain_of(&entry) {
                    Some(proximity) => proximity,
                    None => continue,
                },
                Err(error) => {
                    report.give(error);
                    continue;
                }
            };
            let Err(place) = self.proximity.binary_search(&proximity) else { continue };
            if self.proximity.len() == most {
                report.give(Diagnostic::TooManyNodes { proximity, most });
            } else {
                // There is room: `most` is no more than that.
                let _ = self.proximity.insert(place, proximity);
            }
        }
    }

    fn add_memory(&mut self, srat: &Srat<'_>, report: &mut Report<'_>) {
        for entry in srat.entries() {
            let Ok(SratEntry::Memory(memory)) = entry else { continue };
            // QEMU, for example, also writes spare entries, disabled and without bytes.
            if !memory.enabled || memory.bytes == 0 {
                continue;
            }
            let Some(range) = clamped(Table::Srat, memory.base, memory.bytes, report) else { continue };
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

    pub(super) fn add_range(
        &mut self,
        range: MemoryRange,
        node: NodeId,
        kind: MemoryKind,
        report: &mut Report<'_>,
    ) {
        let proximity = &self.proximity;
        let domain = |node: NodeId| proximity.get(node.index()).copied().unwrap_or(0);
        let added = self.ranges.insert(NodeRange { range, node, kind }, &mut |owner, other, range| {
            if owner != other {
                let (owner, other) = (domain(owner), domain(other));
                report.give(Diagnostic::OverlappingRanges { owner, other, range });
            }
        });
        if added.is_err() {
            report.give(Diagnostic::TooManyRanges(range));
        }
    }

    fn add_cpus(
        &mut self,
        madt: Option<Madt<'_>>,
        srat: Option<Srat<'_>>,
        boot: ApicId,
        report: &mut Report<'_>,
    ) {
        // As Linux reads SGI's UV machines (`acpi_numa_processor_affinity_init`).
        let by_sapic = madt.is_some_and(|madt| madt.has_sapics());
        let domain = |id: ApicId| {
            let srat = srat.as_ref()?;
            Some(if by_sapic { srat.proximity_of_sapic(id) } else { srat.proximity_of_cpu(id) })
        };
        self.add_cpu(boot, domain(boot), report);
        let Some(madt) = madt else { return };
        let mut boot_listed = false;
        for entry in madt.entries() {
            let apic_id = match entry {
                Ok(MadtEntry::Cpu { apic_id, state: CpuState::Enabled, .. }) => apic_id,
                Ok(_) => continue,
                Err(error) => {
                    report.give(error);
                    continue;
                }
            };
            if apic_id == boot && !boot_listed {
                boot_listed = true;
            } else if self.cpu_of_apic(apic_id).is_some() {
                report.give(Diagnostic::DuplicateCpu(apic_id));
            } else {
                self.add_cpu(apic_id, domain(apic_id), report);
            }
        }
        if !boot_listed {
            report.give(Diagnostic::BootCpuMissing(boot));
        }
    }

    /// Adds a CPU of the proximity domain that the SRAT says, if there is an SRAT and it says one.
    fn add_cpu(&mut self, apic_id: ApicId, domain: Option<Option<u32>>, report: &mut Report<'_>) {
        let cpu = CpuId::new(self.cpus.len()).filter(|_| self.cpus.room() > 0);
        let Some(cpu) = cpu else {
            report.give(Diagnostic::TooManyCpus(apic_id));
            return;
        };
        let node = match domain {
            None => NodeId::ZERO,
            Some(Some(proximity)) => self.node_of_proximity(proximity).unwrap_or(NodeId::ZERO),
            Some(None) => {
                report.give(Diagnostic::CpuWithoutAffinity(apic_id));
                NodeId::ZERO
            }
        };
        // There is room.
        let _ = self.cpus.push(CpuEntry { cpu, apic_id, node });
    }

    /// Sorts the nodes of each node. Latency breaks the ties left by a SLIT's coarse steps, or by
    /// its absence.
    fn order_nodes(&mut self) {
        let (distances, performance) = (&self.distances, &self.performance);
        self.nearest.sort(self.proximity.len(), |from, to| {
            // Without distances, all other nodes are equally far.
            let distance = distances.get(from, to).filter(|&known| known != Distance::NONE);
            let latency = performance.latency(from, to).map_or(u32::MAX, |latency| latency.0);
            // No path is the largest distance.
            (distance.unwrap_or(Distance::REMOTE), latency)
        });
    }
}

/// Returns the proximity domain that an entry of the SRAT makes a node.
pub(super) fn domain_of(entry: &SratEntry) -> Option<u32> {
    match entry {
        SratEntry::Cpu { proximity, enabled: true, .. }
        | SratEntry::GenericInitiator { proximity, enabled: true } => Some(*proximity),
        // Even without bytes: devices' memory is put there later.
        SratEntry::Memory(memory) if memory.enabled => Some(memory.proximity),
        _ => None,
    }
}

/// Returns the table, if it is present and verified.
fn verified<T>(
    table: Table,
    parsed: Option<Result<T, TableError>>,
    checksum: impl Fn(&T) -> u8,
    report: &mut Report<'_>,
) -> Option<T> {
    match parsed? {
        Ok(parsed) => {
            let sum = checksum(&parsed);
            if sum != 0 {
                report.give(Diagnostic::Checksum { table, sum });
            }
            Some(parsed)
        }
        Err(error) => {
            report.give(error);
            None
        }
    }
}

/// Returns the part of a stated range in the 52-bit physical address space.
pub(super) fn clamped(table: Table, base: u64, bytes: u64, report: &mut Report<'_>) -> Option<MemoryRange> {
    let end = base.saturating_add(bytes);
    let kept = MemoryRange::from_bounds(base, end.min(1 << 52));
    match kept {
        None => report.give(Diagnostic::ImpossibleRange { table, base, bytes }),
        Some(kept) if kept.end.as_u64() != end => {
            report.give(Diagnostic::ClampedRange { table, base, bytes, kept });
        }
        Some(_) => {}
    }
    kept
}
