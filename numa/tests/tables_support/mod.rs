//! What the table tests share: reading dumps, and writing tables from a plain model.
#![allow(dead_code, reason = "each test binary uses its own part")]

pub mod dump;
pub mod model;

use topomem_numa::{ApicId, Diagnostic, FirmwareTables, NodeId, Topology};

/// The bytes of the tables that a machine has.
#[derive(Debug, Clone, Default)]
pub struct Tables {
    pub madt: Option<Vec<u8>>,
    pub srat: Option<Vec<u8>>,
    pub slit: Option<Vec<u8>>,
    pub hmat: Option<Vec<u8>>,
    pub cedt: Option<Vec<u8>>,
}

impl Tables {
    pub fn firmware(&self) -> FirmwareTables<'_> {
        FirmwareTables {
            madt: self.madt.as_deref(),
            srat: self.srat.as_deref(),
            slit: self.slit.as_deref(),
            hmat: self.hmat.as_deref(),
            cedt: self.cedt.as_deref(),
        }
    }

    pub fn each_mut(&mut self) -> impl Iterator<Item = &mut Vec<u8>> {
        [&mut self.madt, &mut self.srat, &mut self.slit, &mut self.hmat, &mut self.cedt].into_iter().flatten()
    }

    /// The topology, and what discovery said about it.
    pub fn discover(&self, boot: u32) -> (Box<Topology>, Vec<Diagnostic>) {
        let mut topology = Box::new(Topology::new());
        let mut said = Vec::new();
        topology.discover(&self.firmware(), ApicId(boot), &mut |diagnostic| said.push(diagnostic));
        (topology, said)
    }
}

pub fn node(index: usize) -> NodeId {
    NodeId::new(index).unwrap()
}

/// Makes the bytes add up to 0 again, and the length true.
pub fn seal(table: &mut [u8]) {
    let length = table.len() as u32;
    if table.len() < 36 {
        return;
    }
    table[4..8].copy_from_slice(&length.to_le_bytes());
    table[9] = 0;
    table[9] = table.iter().fold(0u8, |sum, &byte| sum.wrapping_add(byte)).wrapping_neg();
}
