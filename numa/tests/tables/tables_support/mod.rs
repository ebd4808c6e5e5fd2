//! What the table tests share: reading dumps, and writing tables from a plain model.
#![allow(dead_code, reason = "each test binary uses its own part")]

pub(crate) mod dump;
pub(crate) mod model;

use std::collections::BTreeSet;

use topomem_numa::{ApicId, Diagnostic, Distance, FirmwareTables, MAX_CPUS, MAX_NODES, NodeId, Topology};

/// The bytes of the tables that a machine has.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tables {
    pub(crate) madt: Option<Vec<u8>>,
    pub(crate) srat: Option<Vec<u8>>,
    pub(crate) slit: Option<Vec<u8>>,
    pub(crate) hmat: Option<Vec<u8>>,
    pub(crate) cedt: Option<Vec<u8>>,
    pub(crate) root_checksum: u8,
}

impl Tables {
    pub(crate) fn firmware(&self) -> FirmwareTables<'_> {
        FirmwareTables {
            madt: self.madt.as_deref(),
            srat: self.srat.as_deref(),
            slit: self.slit.as_deref(),
            hmat: self.hmat.as_deref(),
            cedt: self.cedt.as_deref(),
            root_checksum: self.root_checksum,
        }
    }

    pub(crate) fn each_mut(&mut self) -> impl Iterator<Item = &mut Vec<u8>> {
        [&mut self.madt, &mut self.srat, &mut self.slit, &mut self.hmat, &mut self.cedt].into_iter().flatten()
    }

    /// The topology as far as it has room for without memory, and what discovery said about it.
    pub(crate) fn discover_in_place(&self, boot: u32) -> (Box<Topology>, Vec<Diagnostic>) {
        let mut topology = Box::new(Topology::new());
        let mut said = Vec::new();
        topology.discover(&self.firmware(), ApicId(boot), &mut |diagnostic| said.push(diagnostic));
        (topology, said)
    }

    /// The topology, and what discovery said about it.
    pub(crate) fn discover(&self, boot: u32) -> (Box<Topology>, Vec<Diagnostic>) {
        let mut topology = Box::new(Topology::new());
        let mut said = Vec::new();
        let memory = |words| Some(Box::leak(Box::new_uninit_slice(words)));
        let diagnostics = &mut |diagnostic| said.push(diagnostic);
        topology.discover_with(memory, &self.firmware(), ApicId(boot), diagnostics);
        (topology, said)
    }
}

pub(crate) fn node(index: usize) -> NodeId {
    NodeId::new(index).unwrap()
}

/// Makes the bytes add up to 0 again, and the length true.
pub(crate) fn seal(table: &mut [u8]) {
    let length = table.len() as u32;
    if table.len() < 36 {
        return;
    }
    table[4..8].copy_from_slice(&length.to_le_bytes());
    table[9] = 0;
    table[9] = table.iter().fold(0u8, |sum, &byte| sum.wrapping_add(byte)).wrapping_neg();
}

/// What must hold of any topology, whatever it was made from.
pub(crate) fn check_shape(topology: &Topology) {
    assert!((1..=MAX_NODES).contains(&topology.node_count()));
    assert!((1..=MAX_CPUS).contains(&topology.cpus().len()));
    let ranges = topology.memory_ranges();
    assert!(!ranges.is_empty());
    assert!(ranges.iter().all(|range| range.range.start < range.range.end));
    assert!(ranges.windows(2).all(|pair| pair[0].range.end <= pair[1].range.start));
    assert!(ranges.iter().all(|range| range.node.index() < topology.node_count()));
    for (index, entry) in topology.cpus().iter().enumerate() {
        assert_eq!(entry.cpu.index(), index);
        assert!(topology.cpus_of(entry.node).contains(entry.cpu));
        assert_eq!(topology.cpu_of_apic(entry.apic_id), Some(entry.cpu));
    }
    let placed: usize = topology.nodes().map(|node| topology.cpus_of(node).len()).sum();
    assert_eq!(placed, topology.cpus().len());
    for from in topology.nodes() {
        let nearest = topology.nearest(from);
        assert_eq!(nearest[0], from);
        assert_eq!(topology.distance(from, from), Distance::LOCAL);
        assert_eq!(nearest.len(), topology.node_count());
        assert_eq!(nearest.iter().copied().collect::<BTreeSet<_>>(), topology.nodes().collect());
        let key = |to| {
            let latency = topology.latency(from, to).map_or(u32::MAX, |latency| latency.0);
            (topology.distance(from, to), latency, to)
        };
        assert!(nearest[1..].windows(2).all(|pair| key(pair[0]) < key(pair[1])));
    }
}
