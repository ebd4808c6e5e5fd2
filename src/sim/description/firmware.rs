//! What firmware would tell a kernel that boots on the simulated machine.

use std::boxed::Box;

use topomem_numa::{ApicId, Diagnostic, FirmwareTables, MapFull, MemoryMap, MemoryRange, Topology};

use crate::sim::{Sim, Tables};

/// Ranges of which a map holds so many without memory, beside what is reserved in it.
const FEW: usize = 32;
/// Words of memory for a further range and a further region.
const WORDS: usize = 6;

impl Tables {
    /// The tables as discovery takes them.
    #[must_use]
    pub fn as_firmware(&self) -> FirmwareTables<'_> {
        FirmwareTables {
            madt: Some(&self.madt),
            srat: Some(&self.srat),
            slit: Some(&self.slit),
            ..FirmwareTables::default()
        }
    }
}

impl Sim {
    /// The APIC id of the CPU that boots.
    pub const BOOT_APIC: ApicId = ApicId(0);

    /// Discovers the machine's topology by its firmware tables.
    pub fn discover(&self, topology: &mut Topology, diagnostics: &mut dyn FnMut(Diagnostic)) {
        // As long as the program runs: who keeps the topology keeps it for ever.
        let memory = |words| Some(Box::leak(Box::new_uninit_slice(words)));
        topology.discover_with(memory, &self.tables().as_firmware(), Sim::BOOT_APIC, diagnostics);
    }

    /// The machine's memory map: its RAM, nothing reserved beyond what always is.
    ///
    /// # Errors
    ///
    /// [`MapFull`] where the machine has too many separate ranges.
    pub fn memory_map(&self) -> Result<MemoryMap, MapFull> {
        let mut map = MemoryMap::new();
        let ranges = self.blueprint().nodes.iter().map(|node| node.ranges.len()).sum::<usize>();
        if ranges > FEW {
            // As long as the program runs, as the map may be used.
            map.extend(Box::leak(Box::new_uninit_slice(WORDS * (ranges + FEW))));
        }
        for range in self.blueprint().nodes.iter().flat_map(|node| &node.ranges) {
            map.add_usable(MemoryRange::from_bounds(range.start, range.end))?;
        }
        Ok(map)
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use topomem_numa::NodeId;

    use super::*;

    #[test]
    fn discovery_finds_what_was_built() {
        let builder = Sim::builder().nodes(3).cpus(4).memory(48 << 20).node_memory(2, 0);
        let sim = builder.interleave(4 << 20).distance(0, 1, 17).distance(0, 2, 33).build().unwrap();
        let mut topology = std::boxed::Box::new(Topology::new());
        let mut complaints = Vec::new();
        sim.discover(&mut topology, &mut |diagnostic| complaints.push(std::format!("{diagnostic}")));
        assert_eq!(complaints, Vec::<std::string::String>::new());
        assert_eq!(topology.node_count(), 3);
        let node = |index| NodeId::new(index).unwrap();
        assert_eq!(topology.distance(node(0), node(2)).get(), 33);
        assert_eq!(topology.cpus().len(), 4);
        for entry in topology.cpus() {
            assert_eq!(Some(entry.node), sim.blueprint().node_of(entry.cpu));
        }
        let map = sim.memory_map().unwrap();
        for node in topology.nodes() {
            let found: u64 = map
                .pieces(&topology)
                .filter(|piece| piece.node == node)
                .map(|piece| piece.range.bytes())
                .sum();
            assert_eq!(found, sim.blueprint().nodes[node.index()].bytes());
        }
    }
}
