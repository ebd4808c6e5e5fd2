//! `--break distance`: firmware tables that lie about which memory is near.

use core::ops::Range;

/// The tables know memory on fewer than two nodes: there is no wrong node to allocate from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NothingToDistort;

impl core::fmt::Display for NothingToDistort {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("distances cannot be distorted with fewer than two nodes that have memory")
    }
}

impl core::error::Error for NothingToDistort {}

const HEADER: usize = 36;
const SRAT_FIRST: usize = HEADER + 12;
const SLIT_FIRST: usize = HEADER + 8;
const LOCAL: u8 = 10;
const UNREACHABLE: u8 = 255;

/// Makes `srat` (and `slit`, where there is one) say that each CPU is on the node whose memory is
/// farthest from it, and that far remote nodes are near and near ones far. Both stay well-formed,
/// with checksums, so that nothing but the allocator's choice of node is wrong.
///
/// # Errors
///
/// [`NothingToDistort`], with nothing changed.
pub fn distort_distances(srat: &mut [u8], slit: Option<&mut [u8]>) -> Result<(), NothingToDistort> {
    let one = memory_domains(srat).next();
    if memory_domains(srat).all(|domain| Some(domain) == one) {
        return Err(NothingToDistort);
    }
    let true_slit = slit.as_deref();
    let mut offset = SRAT_FIRST;
    while let Some(entry) = entry_at(srat, offset) {
        if let Some(home) = processor_domain(&srat[entry.clone()]) {
            let away = memory_domains(srat)
                .filter(|&domain| domain != home)
                .max_by_key(|&domain| (true_slit.map_or(20, |slit| distance(slit, home, domain)), !domain));
            if let Some(away) = away {
                set_processor_domain(&mut srat[entry.clone()], away);
            }
        }
        offset = entry.end;
    }
    seal(srat);
    if let Some(slit) = slit {
        invert(slit);
        seal(slit);
    }
    Ok(())
}

/// The structure at `offset` of the SRAT.
fn entry_at(srat: &[u8], offset: usize) -> Option<Range<usize>> {
    let length = usize::from(*srat.get(offset + 1)?);
    if length < 2 || offset + length > srat.len() { None } else { Some(offset..offset + length) }
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(offset..offset + 4)?.try_into().ok()?))
}

fn is_enabled(entry: &[u8], flags: usize) -> bool {
    u32_at(entry, flags).is_some_and(|flags| flags & 1 != 0)
}

/// The proximity domain of an enabled processor's structure (local APIC or local x2APIC).
fn processor_domain(entry: &[u8]) -> Option<u32> {
    match (entry.first()?, entry.len()) {
        (0, 16) if is_enabled(entry, 4) => {
            Some(u32::from_le_bytes([entry[2], entry[9], entry[10], entry[11]]))
        }
        (2, 24) if is_enabled(entry, 12) => u32_at(entry, 4),
        _ => None,
    }
}

fn set_processor_domain(entry: &mut [u8], domain: u32) {
    let bytes = domain.to_le_bytes();
    if entry[0] == 0 {
        entry[2] = bytes[0];
        entry[9..12].copy_from_slice(&bytes[1..]);
    } else {
        entry[4..8].copy_from_slice(&bytes);
    }
}

/// The proximity domains that have plain memory: enabled, not empty, not hot-pluggable.
fn memory_domains(srat: &[u8]) -> impl Iterator<Item = u32> {
    let mut offset = SRAT_FIRST;
    core::iter::from_fn(move || {
        let entry = entry_at(srat, offset)?;
        offset = entry.end;
        Some(&srat[entry])
    })
    .filter(|entry| {
        let has_length = entry.get(16..24).is_some_and(|length| length != [0; 8]);
        entry[0] == 1
            && entry.len() == 40
            && has_length
            && u32_at(entry, 28).is_some_and(|flags| flags & 3 == 1)
    })
    .filter_map(|entry| u32_at(entry, 2))
}

fn localities(slit: &[u8]) -> usize {
    u32_at(slit, HEADER).map_or(0, |count| count as usize)
}

fn distance(slit: &[u8], from: u32, to: u32) -> u8 {
    let index = SLIT_FIRST + from as usize * localities(slit) + to as usize;
    slit.get(index).copied().unwrap_or(20)
}

/// Mirrors the remote distances between the least and the greatest of them.
fn invert(slit: &mut [u8]) {
    let Some(matrix) = slit.get_mut(SLIT_FIRST..) else { return };
    let is_remote = |distance: u8| distance > LOCAL && distance != UNREACHABLE;
    let least = matrix.iter().copied().filter(|&distance| is_remote(distance)).min().unwrap_or(LOCAL);
    let greatest = matrix.iter().copied().filter(|&distance| is_remote(distance)).max().unwrap_or(LOCAL);
    for distance in matrix.iter_mut().filter(|distance| is_remote(**distance)) {
        *distance = least + (greatest - *distance);
    }
}

/// Makes all bytes of the table add up to 0 again.
fn seal(table: &mut [u8]) {
    table[9] = 0;
    let sum = table.iter().fold(0u8, |sum, &byte| sum.wrapping_add(byte));
    table[9] = sum.wrapping_neg();
}

#[cfg(test)]
#[cfg(feature = "sim")]
mod tests {
    use std::boxed::Box;

    use topomem::numa::FirmwareTables;
    use topomem::sim::{Builder, Sim, Tables};
    use topomem::{CpuId, NodeId, Topology};

    use super::*;

    fn discovered(tables: &Tables) -> Box<Topology> {
        let mut topology = Box::new(Topology::new());
        let firmware: FirmwareTables<'_> = tables.as_firmware();
        topology.discover(&firmware, Sim::BOOT_APIC, &mut |complaint| panic!("{complaint}"));
        topology
    }

    fn tables(builder: &Builder) -> Tables {
        Tables::new(&builder.blueprint().unwrap())
    }

    #[test]
    fn cpus_are_sent_to_the_far_end() {
        let builder =
            Sim::builder().nodes(3).cpus(3).distance(0, 1, 15).distance(0, 2, 40).distance(1, 2, 30);
        let mut tables = tables(&builder);
        distort_distances(&mut tables.srat, Some(&mut tables.slit)).unwrap();
        let topology = discovered(&tables);
        let node = |index| NodeId::new(index).unwrap();
        let of = |cpu| topology.node_of_cpu(CpuId::new(cpu).unwrap());
        assert_eq!([of(0), of(1), of(2)], [node(2), node(2), node(0)]);
        assert_eq!(topology.distance(node(0), node(1)).get(), 40);
        assert_eq!(topology.distance(node(0), node(2)).get(), 15);
    }

    #[test]
    fn one_node_with_memory_cannot_be_distorted() {
        for builder in [Sim::builder().cpus(2), Sim::builder().nodes(2).cpus(2).node_memory(1, 0)] {
            let before = tables(&builder);
            let mut tables = before.clone();
            let distorted = distort_distances(&mut tables.srat, Some(&mut tables.slit));
            assert_eq!(distorted, Err(NothingToDistort));
            assert_eq!(tables, before);
        }
    }
}
