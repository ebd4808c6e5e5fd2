//! From the RSDP to the tables, in a memory of the test's own.
// `acpi` 5.2 reads a whole table through a reference to its header, and makes pointers of integers:
// Miri accepts that with `-Zmiri-tree-borrows -Zmiri-permissive-provenance` only.
#![cfg(not(miri))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests")]

mod tables_support;

use std::ptr::NonNull;

use acpi::{AcpiHandler, PhysicalMapping};
use tables_support::model::{Cpu, Machine, Matrix, Memory, Writer};
use tables_support::{Tables, node, seal};
use topomem_numa::tables::{Table, TableError};
use topomem_numa::{ApicId, Diagnostic, FindTablesError, Topology, find_tables};
use topomem_percpu::PhysAddr;

const RSDP: usize = 0x40;
const ROOT: usize = 0x100;
const FIRST: usize = 0x400;
const BYTES: usize = 0x4000;

/// Physical memory from address 0, leaked, as a machine's never goes away.
#[derive(Clone, Copy)]
struct Ram(&'static [u8]);

impl AcpiHandler for Ram {
    unsafe fn map_physical_region<T>(
        &self,
        physical_address: usize,
        size: usize,
    ) -> PhysicalMapping<Self, T> {
        // A length that is garbage may reach beyond memory: whoever reads there is Miri's to catch.
        assert!(physical_address != 0, "nothing is at address 0");
        assert!(physical_address < self.0.len());
        let start = NonNull::from(&self.0[physical_address]).as_ptr();
        // The pointer must be good for all the memory, not for one byte.
        let start = self.0.as_ptr().with_addr(start.addr());
        let start = NonNull::new(start.cast_mut().cast::<T>()).unwrap();
        // SAFETY: the memory is never freed.
        unsafe { PhysicalMapping::new(physical_address, start, size, size, *self) }
    }

    fn unmap_physical_region<T>(_region: &PhysicalMapping<Self, T>) {}
}

fn machine() -> Machine {
    Machine {
        cpus: (0..2).map(|apic| Cpu { apic, proximity: Some(apic), enabled: true }).collect(),
        memory: (0..2)
            .map(|p| Memory { proximity: p, base: u64::from(p) << 30, bytes: 1 << 30, flags: 1 })
            .collect(),
        distances: Some(vec![vec![10, 31], vec![32, 10]]),
        matrices: vec![Matrix {
            hierarchy: 0,
            data_type: 0,
            base_unit: 1000,
            initiators: vec![0, 1],
            targets: vec![0, 1],
            entries: vec![1, 2, 2, 1],
        }],
        windows: vec![(8 << 30, 1 << 30)],
        ..Machine::default()
    }
}

/// RSDP, then XSDT (revision 2) or RSDT (revision 0), then the tables.
fn image(tables: &Tables, revision: u8) -> Vec<u8> {
    let mut ram = vec![0; BYTES];
    let tables = tables.firmware();
    let mut root = if revision == 0 { Writer::table(b"RSDT", 1) } else { Writer::table(b"XSDT", 1) };
    let facp = Writer::table(b"FACP", 1).sealed();
    let mut at = FIRST;
    let found = [Some(&facp[..]), tables.cedt, tables.madt, tables.srat, tables.slit, tables.hmat];
    for table in found.into_iter().flatten() {
        ram[at..at + table.len()].copy_from_slice(table);
        if revision == 0 {
            root.put((at as u32).to_le_bytes());
        } else {
            root.put((at as u64).to_le_bytes());
        }
        // Tables lie at any address.
        at += table.len() + 3;
    }
    let root = root.sealed();
    ram[ROOT..ROOT + root.len()].copy_from_slice(&root);
    let rsdp = &mut ram[RSDP..RSDP + 36];
    rsdp[..8].copy_from_slice(b"RSD PTR ");
    rsdp[15] = revision;
    if revision == 0 {
        rsdp[16..20].copy_from_slice(&(ROOT as u32).to_le_bytes());
    } else {
        rsdp[20] = 36;
        rsdp[24..32].copy_from_slice(&(ROOT as u64).to_le_bytes());
    }
    let sum = |bytes: &[u8]| bytes.iter().fold(0u8, |sum, &byte| sum.wrapping_add(byte)).wrapping_neg();
    rsdp[8] = sum(&rsdp[..20]);
    rsdp[32] = sum(&rsdp[..36]);
    ram
}

fn find(ram: Vec<u8>) -> Result<topomem_numa::FirmwareTables<'static>, FindTablesError> {
    // SAFETY: there is an RSDP, the tables are where it says, and the memory is never written.
    unsafe { find_tables(Ram(ram.leak()), PhysAddr::new(RSDP as u64)) }
}

/// Where `signature`'s table starts.
fn place(ram: &[u8], signature: &[u8; 4]) -> usize {
    (FIRST..ram.len()).find(|&at| ram[at..].starts_with(signature)).unwrap()
}

#[test]
fn all_tables_are_found_whole() {
    let tables = machine().tables();
    for revision in [0, 2] {
        let found = find(image(&tables, revision)).unwrap();
        assert_eq!(found.madt, tables.madt.as_deref());
        assert_eq!(found.srat, tables.srat.as_deref());
        assert_eq!(found.slit, tables.slit.as_deref());
        assert_eq!(found.hmat, tables.hmat.as_deref());
        assert_eq!(found.cedt, tables.cedt.as_deref());
    }
}

#[test]
fn absent_tables_are_none() {
    let found = find(image(&Tables::default(), 2)).unwrap();
    assert!([found.madt, found.srat, found.slit, found.hmat, found.cedt].iter().all(Option::is_none));
}

/// What is wrong with a table is said, not swallowed; the others serve.
#[test]
fn broken_tables_are_found_and_named() {
    let discover = |ram: Vec<u8>| {
        let mut topology = Box::new(Topology::new());
        let mut said = Vec::new();
        topology.discover(&find(ram).unwrap(), ApicId(0), &mut |diagnostic| said.push(diagnostic));
        (topology, said)
    };
    let table = Table::Slit;
    let good = image(&machine().tables(), 2);
    let slit = place(&good, b"SLIT");
    let (topology, said) = discover(good.clone());
    assert_eq!((said, topology.distance(node(1), node(0)).get()), (vec![], 32));

    let mut ram = good.clone();
    ram[slit + 44] = 11;
    let (topology, said) = discover(ram);
    // No distance to itself is 11, so the checksum says that the table is damaged.
    assert_eq!(said, [Diagnostic::Table(TableError::Checksum { table, sum: 1 })]);
    assert_eq!((topology.node_count(), topology.distance(node(1), node(0)).get()), (3, 20));

    for stated in [0u32, 35, u32::MAX] {
        let mut ram = good.clone();
        ram[slit + 4..slit + 8].copy_from_slice(&stated.to_le_bytes());
        let (topology, said) = discover(ram);
        assert!(
            matches!(
                said[..],
                [Diagnostic::Table(
                    TableError::Length { table: Table::Slit, .. }
                        | TableError::Truncated { table: Table::Slit, .. }
                )]
            ),
            "{said:?}"
        );
        assert_eq!(topology.node_count(), 3);
    }
}

#[test]
fn broken_roots_are_errors() {
    let good = image(&machine().tables(), 2);
    let mut ram = good.clone();
    ram[RSDP] = 0;
    assert!(matches!(find(ram), Err(FindTablesError::Rsdp(_))));
    let mut ram = good.clone();
    ram[RSDP + 23] = 0xff;
    assert!(matches!(find(ram), Err(FindTablesError::RsdpLength(0xff00_0024))));
    for stated in [0, 35, u32::MAX] {
        let mut ram = good.clone();
        ram[ROOT + 4..ROOT + 8].copy_from_slice(&stated.to_le_bytes());
        assert!(matches!(find(ram), Err(FindTablesError::RootLength { found, .. }) if found == stated));
    }
    let mut ram = good.clone();
    let found = *b"RSDT";
    ram[ROOT..ROOT + 4].copy_from_slice(&found);
    let error = find(ram).unwrap_err();
    assert!(matches!(error, FindTablesError::RootSignature { address, found: other }
        if address == ROOT as u64 && other == found));
    // No address of a root: nothing is mapped.
    let mut ram = good.clone();
    ram[RSDP + 24..RSDP + 32].fill(0);
    ram[RSDP + 32] = 0;
    ram[RSDP + 32] = ram[RSDP..RSDP + 36].iter().fold(0u8, |sum, &byte| sum.wrapping_sub(byte));
    assert!(matches!(find(ram), Err(FindTablesError::NoRoot)));
}

/// A wrong checksum of the root, as tools that add tables leave it: the tables count all the same.
#[test]
fn a_wrong_checksum_of_the_root_is_said() {
    for revision in [0, 2] {
        let mut ram = image(&machine().tables(), revision);
        ram[ROOT + 12] = ram[ROOT + 12].wrapping_add(3);
        let tables = find(ram).unwrap();
        assert_eq!(tables.root_checksum, 3);
        let mut topology = Box::new(Topology::new());
        let mut said = Vec::new();
        topology.discover(&tables, ApicId(0), &mut |diagnostic| said.push(diagnostic));
        assert_eq!(said, [Diagnostic::RootChecksum { sum: 3 }]);
        assert_eq!(topology.node_count(), 3);
    }
}

/// Entries that firmware blanked out: they are skipped, and what they hold is never mapped.
#[test]
fn entries_without_an_address_are_skipped() {
    for (revision, entry) in [(0, 4), (2, 8)] {
        let tables = machine().tables();
        let mut ram = image(&tables, revision);
        let length = u32::from_le_bytes(ram[ROOT + 4..ROOT + 8].try_into().unwrap()) as usize;
        let mut root = ram[ROOT..ROOT + 36].to_vec();
        for known in ram[ROOT + 36..ROOT + length].chunks_exact(entry) {
            root.resize(root.len() + entry, 0);
            root.extend(known);
        }
        if revision == 2 {
            // No physical address has more than 52 bits.
            root.extend((1u64 << 52).to_le_bytes());
        }
        seal(&mut root);
        ram[ROOT..ROOT + root.len()].copy_from_slice(&root);
        let found = find(ram).unwrap();
        assert_eq!(found.srat, tables.srat.as_deref());
        assert_eq!(found.hmat, tables.hmat.as_deref());
        assert_eq!(found.root_checksum, 0);
    }
}

/// Of two tables of one kind the first counts.
#[test]
fn the_first_of_two_tables_counts() {
    let tables = machine().tables();
    let mut ram = image(&tables, 2);
    let at = BYTES - 0x100;
    let mut second = tables.slit.clone().unwrap();
    second[45] = 40;
    seal(&mut second);
    ram[at..at + second.len()].copy_from_slice(&second);
    let length = u32::from_le_bytes(ram[ROOT + 4..ROOT + 8].try_into().unwrap()) as usize;
    let mut root = ram[ROOT..ROOT + length].to_vec();
    root.extend((at as u64).to_le_bytes());
    seal(&mut root);
    ram[ROOT..ROOT + root.len()].copy_from_slice(&root);
    assert_eq!(find(ram).unwrap().slit, tables.slit.as_deref());
}

/// A root without entries, and one whose last entry is cut off.
#[test]
fn odd_roots_end() {
    let mut ram = image(&machine().tables(), 2);
    let mut root = ram[ROOT..ROOT + 36 + 2 * 8 + 4].to_vec();
    seal(&mut root);
    ram[ROOT..ROOT + root.len()].copy_from_slice(&root);
    let found = find(ram).unwrap();
    assert!(found.cedt.is_some() && found.srat.is_none());
}
