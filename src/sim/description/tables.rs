//! Writes a [`Blueprint`] as the firmware tables that describe it: MADT, SRAT and SLIT bytes.
//!
//! Layouts: ACPI 6.5, sections 5.2.6 (header), 5.2.12 (MADT), 5.2.16 (SRAT), 5.2.17 (SLIT).
//! CPU `n` has APIC id `n`; a node's proximity domain is its number.

use std::vec::Vec;

use super::blueprint::Blueprint;

/// The highest id that the 8-bit xAPIC structures can carry; 255 is broadcast.
const LAST_XAPIC_ID: u32 = 254;
const ENABLED: u32 = 1;

/// A machine's firmware tables, whole, with headers and checksums.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tables {
    /// Interrupt controllers: one local APIC for each CPU.
    pub madt: Vec<u8>,
    /// Which node each CPU and each memory range belongs to.
    pub srat: Vec<u8>,
    /// The distances.
    pub slit: Vec<u8>,
}

impl Tables {
    /// The tables of `machine`.
    #[must_use]
    pub fn new(blueprint: &Blueprint) -> Tables {
        Tables { madt: madt(blueprint), srat: srat(blueprint), slit: slit(blueprint) }
    }
}

fn madt(blueprint: &Blueprint) -> Vec<u8> {
    let mut table = Writer::new(*b"APIC", 5);
    table.u32(0xfee0_0000);
    table.u32(0);
    for id in 0..blueprint.cpus() as u32 {
        if id <= LAST_XAPIC_ID {
            table.bytes(&[0, 8, id as u8, id as u8]);
            table.u32(ENABLED);
        } else {
            table.bytes(&[9, 16, 0, 0]);
            table.u32(id);
            table.u32(ENABLED);
            table.u32(id);
        }
    }
    table.finish()
}

fn srat(blueprint: &Blueprint) -> Vec<u8> {
    let mut table = Writer::new(*b"SRAT", 3);
    table.u32(1);
    table.u64(0);
    for (domain, node) in blueprint.nodes.iter().enumerate() {
        let domain = domain as u32;
        for id in node.cpus.iter().map(|cpu| cpu.index() as u32) {
            if id <= LAST_XAPIC_ID {
                table.bytes(&[0, 16, domain as u8, id as u8]);
                table.u32(ENABLED);
                table.bytes(&[0, (domain >> 8) as u8, (domain >> 16) as u8, (domain >> 24) as u8]);
                table.u32(0);
            } else {
                table.bytes(&[2, 24, 0, 0]);
                table.u32(domain);
                table.u32(id);
                table.u32(ENABLED);
                table.u64(0);
            }
        }
        for range in &node.ranges {
            table.bytes(&[1, 40]);
            table.u32(domain);
            table.bytes(&[0; 2]);
            table.u64(range.start);
            table.u64(range.end - range.start);
            table.u32(0);
            table.u32(ENABLED);
            table.u64(0);
        }
    }
    table.finish()
}

fn slit(blueprint: &Blueprint) -> Vec<u8> {
    let mut table = Writer::new(*b"SLIT", 1);
    table.u64(blueprint.nodes.len() as u64);
    for row in &blueprint.distances {
        table.bytes(row);
    }
    table.finish()
}

/// A table under construction: little-endian fields after the 36-byte header.
struct Writer(Vec<u8>);

impl Writer {
    fn new(signature: [u8; 4], revision: u8) -> Writer {
        let mut table = Writer(Vec::new());
        table.bytes(&signature);
        table.u32(0);
        table.bytes(&[revision, 0]);
        table.bytes(b"TOPOMM");
        table.bytes(b"SIMULATE");
        table.u32(1);
        table.bytes(b"TOPO");
        table.u32(1);
        table
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    fn u32(&mut self, value: u32) {
        self.bytes(&value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.bytes(&value.to_le_bytes());
    }

    /// Fills in length and checksum: all bytes of a table add up to 0.
    fn finish(mut self) -> Vec<u8> {
        let length = self.0.len() as u32;
        self.0[4..8].copy_from_slice(&length.to_le_bytes());
        let sum = self.0.iter().fold(0u8, |sum, &byte| sum.wrapping_add(byte));
        self.0[9] = sum.wrapping_neg();
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::Builder;

    #[test]
    #[cfg_attr(miri, ignore = "needs more CPUs than there are under Miri")]
    fn lengths_and_checksums_hold() {
        let blueprint = Builder::default().nodes(2).cpus(300).blueprint().unwrap();
        let tables = Tables::new(&blueprint);
        for table in [&tables.madt, &tables.srat, &tables.slit] {
            let length = u32::from_le_bytes(table[4..8].try_into().unwrap());
            assert_eq!(length as usize, table.len());
            assert_eq!(table.iter().fold(0u8, |sum, &byte| sum.wrapping_add(byte)), 0);
        }
        assert_eq!(tables.slit.len(), 36 + 8 + 4);
        assert_eq!(tables.madt.len(), 36 + 8 + 255 * 8 + 45 * 16);
        assert_eq!(tables.srat.len(), 36 + 12 + 255 * 16 + 45 * 24 + 2 * 40);
    }
}
