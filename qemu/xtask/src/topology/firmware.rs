//! SRAT and SLIT of our own, for machines that QEMU's options can't describe: nodes whose memory is interleaved.
//!
//! Layouts as in the ACPI specification 6.5, sections 5.2.16 and 5.2.17.

use super::qemu_args::FirmwareTable;
use super::spec::{NodeIndex, TopologySpec};

const ENABLED: u32 = 1;
const PROCESSOR_AFFINITY: u8 = 0;
const MEMORY_AFFINITY: u8 = 1;
const ABOVE_4_GIB: u64 = 1 << 32;

/// q35 moves memory from here up to above 4 GiB, to leave room for devices: less room for small machines.
fn low_memory_end(total: u64) -> u64 {
    if total >= 0xb000_0000 { 0x8000_0000 } else { 0xb000_0000 }
}

/// The memory that each piece of each node gets, in physical addresses, end exclusive.
pub(crate) fn ranges(spec: &TopologySpec) -> Vec<(NodeIndex, u64, u64)> {
    let low_end = low_memory_end(spec.memory().bytes());
    let mut ranges = Vec::new();
    let mut offset = 0;
    for (node, size) in spec.pieces() {
        let end = offset + size.bytes();
        if offset < low_end {
            ranges.push((node, offset, end.min(low_end)));
        }
        if end > low_end {
            let high = |offset: u64| offset - low_end + ABOVE_4_GIB;
            ranges.push((node, high(offset.max(low_end)), high(end)));
        }
        offset = end;
    }
    ranges
}

/// System Resource Affinity Table: which node each CPU and each range of memory belongs to.
pub(super) fn srat(spec: &TopologySpec) -> FirmwareTable {
    let mut body = Vec::new();
    body.extend(1u32.to_le_bytes());
    body.extend([0; 8]);
    for (index, node) in spec.nodes.iter().enumerate() {
        for &cpu in &node.cpus {
            // QEMU's APIC ids are the CPU numbers as long as all CPUs are in one socket, which is its default.
            let domain = (index as u32).to_le_bytes();
            body.extend([PROCESSOR_AFFINITY, 16, domain[0], cpu as u8]);
            body.extend(ENABLED.to_le_bytes());
            body.extend([0, domain[1], domain[2], domain[3]]);
            body.extend([0; 4]);
        }
    }
    for (node, start, end) in ranges(spec) {
        body.extend([MEMORY_AFFINITY, 40]);
        body.extend((node as u32).to_le_bytes());
        body.extend([0; 2]);
        body.extend(start.to_le_bytes());
        body.extend((end - start).to_le_bytes());
        body.extend([0; 4]);
        body.extend(ENABLED.to_le_bytes());
        body.extend([0; 8]);
    }
    FirmwareTable { signature: "SRAT", revision: 3, body }
}

/// System Locality Information Table: the distances.
pub(super) fn slit(spec: &TopologySpec) -> FirmwareTable {
    let count = (spec.nodes.len() as u64).to_le_bytes();
    let body = count.into_iter().chain(spec.distances.iter().flatten().copied()).collect();
    FirmwareTable { signature: "SLIT", revision: 1, body }
}
