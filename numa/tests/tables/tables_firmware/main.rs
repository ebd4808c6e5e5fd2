//! What firmware of real machines writes, and what discovery makes of it. The tables are small ones of
//! our own that show the same faults.
#![cfg(not(miri))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests")]

#[path = "../tables_support/mod.rs"]
mod tables_support;
mod windows;

use tables_support::model::{Cpu, Machine, Matrix, Memory, Writer};
use tables_support::{Tables, check_shape, node};
use topomem_numa::tables::{Table, TableError};
use topomem_numa::{ApicId, Diagnostic, Distance, MemoryMap, MemoryRange, Topology};
use topomem_percpu::PhysAddr;

const GIB: u64 = 1 << 30;

fn cpu(apic: u32, proximity: u32) -> Cpu {
    Cpu { apic, proximity: Some(proximity), enabled: true }
}

fn memory(proximity: u32, base: u64, bytes: u64) -> Memory {
    Memory { proximity, base, bytes, flags: 1 }
}

fn range(start: u64, end: u64) -> MemoryRange {
    MemoryRange::from_bounds(start, end).unwrap()
}

/// One CPU and 1 GiB for each of so many domains.
fn domains(count: u32) -> Machine {
    Machine {
        cpus: (0..count).map(|domain| cpu(domain, domain)).collect(),
        memory: (0..count).map(|domain| memory(domain, u64::from(domain) * GIB, GIB)).collect(),
        ..Machine::default()
    }
}

/// The distances of so many domains, each pair's another.
fn distances(count: u8) -> Vec<Vec<u8>> {
    (0..count)
        .map(|from| (0..count).map(|to| if from == to { 10 } else { 30 + from * count + to }).collect())
        .collect()
}

/// Latencies between all of `domains`.
fn latencies(domains: &[u32]) -> Matrix {
    Matrix {
        hierarchy: 0,
        data_type: 0,
        base_unit: 1000,
        initiators: domains.to_vec(),
        targets: domains.to_vec(),
        entries: (1..).take(domains.len() * domains.len()).collect(),
    }
}

/// The ranges as start, end and node.
fn ranges(topology: &Topology) -> Vec<(u64, u64, usize)> {
    let ranges = topology.memory_ranges().iter();
    ranges.map(|known| (known.range.start.as_u64(), known.range.end.as_u64(), known.node.index())).collect()
}

/// Hypervisors describe hot-plug memory up to the last address, and some beyond.
#[test]
fn ranges_up_to_the_last_address_and_beyond_are_clamped() {
    let end = 1 << 52;
    let stated = [(end - GIB, GIB), (end - 2 * GIB, 4 * GIB), (end - 3 * GIB, u64::MAX)];
    for (base, bytes) in stated {
        let mut machine = domains(2);
        machine.memory.push(memory(1, base, bytes));
        let (topology, said) = machine.tables().discover(0);
        let kept = range(base, end);
        assert_eq!(said, [Diagnostic::ClampedRange { table: Table::Srat, base, bytes, kept }]);
        assert_eq!(ranges(&topology).last(), Some(&(base, kept.end.as_u64(), 1)));
        let machine = Machine { windows: vec![(base, bytes)], ..domains(2) };
        let (topology, said) = machine.tables().discover(0);
        assert_eq!(said, [Diagnostic::ClampedRange { table: Table::Cedt, base, bytes, kept }]);
        assert_eq!(topology.node_of_addr(PhysAddr::new(base)), node(2));
    }
    // Nothing of these is an address.
    for (base, bytes) in [(end, GIB), (end - 4096, 4096), (u64::MAX, 1)] {
        let mut machine = domains(2);
        machine.memory.push(memory(1, base, bytes));
        let (topology, said) = machine.tables().discover(0);
        assert_eq!(said, [Diagnostic::ImpossibleRange { table: Table::Srat, base, bytes }]);
        assert_eq!(topology.memory_ranges().len(), 2);
    }
}

/// A domain's range that runs over the next domains' ranges.
#[test]
fn the_more_specific_range_wins() {
    let mut machine = domains(3);
    machine.memory[0].bytes = 1024 * GIB;
    for _ in 0..2 {
        let (topology, said) = machine.tables().discover(0);
        check_shape(&topology);
        let overlap = |other, range| Diagnostic::OverlappingRanges { owner: other, other: 0, range };
        assert_eq!(said, [overlap(1, range(GIB, 2 * GIB)), overlap(2, range(2 * GIB, 3 * GIB))]);
        let expected = [(0, GIB, 0), (GIB, 2 * GIB, 1), (2 * GIB, 3 * GIB, 2), (3 * GIB, 1024 * GIB, 0)];
        assert_eq!(ranges(&topology), expected);
        // In whatever order.
        machine.memory.rotate_left(1);
    }
}

/// Several domains claim one range, since the kernel is to choose when memory is plugged in.
#[test]
fn the_first_of_equal_ranges_wins() {
    let mut machine = domains(1);
    machine.memory.extend((1..5).map(|domain| Memory { flags: 3, ..memory(domain, 8 * GIB, 4 * GIB) }));
    let (topology, said) = machine.tables().discover(0);
    assert_eq!(topology.node_count(), 5);
    let range = range(8 * GIB, 12 * GIB);
    let overlaps: Vec<_> =
        (2..5).map(|other| Diagnostic::OverlappingRanges { owner: 1, other, range }).collect();
    assert_eq!(said, overlaps);
    assert_eq!(topology.node_of_addr(PhysAddr::new(8 * GIB)), node(1));
}

/// What patches tables in memory forgets the checksum. A table whose structure holds is used.
#[test]
fn wrong_checksums_are_said_and_tables_used() {
    let machine = Machine {
        distances: Some(distances(2)),
        matrices: vec![latencies(&[0, 1])],
        windows: vec![(64 * GIB, GIB)],
        ..domains(2)
    };
    let good = machine.tables();
    let (expected, said) = good.discover(0);
    assert_eq!(said, []);
    let order = [Table::Madt, Table::Srat, Table::Slit, Table::Hmat, Table::Cedt];
    for (index, table) in order.into_iter().enumerate() {
        let mut tables = good.clone();
        // A byte of the OEM's name, which nothing depends on.
        let bytes = tables.each_mut().nth(index).unwrap();
        bytes[12] = bytes[12].wrapping_add(7);
        let (topology, said) = tables.discover(0);
        assert_eq!(said, [Diagnostic::Checksum { table, sum: 7 }]);
        assert_eq!(topology.to_string(), expected.to_string());
        assert_eq!(topology.cpus(), expected.cpus());
    }
}

/// A wrong checksum beside a structure that does not hold: the table is damaged.
#[test]
fn damaged_tables_are_not_used() {
    let machine = Machine {
        distances: Some(distances(2)),
        matrices: vec![latencies(&[0, 1])],
        windows: vec![(64 * GIB, GIB)],
        ..domains(2)
    };
    // A structure's length, or one of the SLIT's distances.
    let places =
        [(Table::Madt, 45), (Table::Srat, 49), (Table::Slit, 44), (Table::Hmat, 44), (Table::Cedt, 38)];
    for (index, (table, place)) in places.into_iter().enumerate() {
        let mut tables = machine.tables();
        tables.each_mut().nth(index).unwrap()[place] ^= 1;
        let (_, said) = tables.discover(0);
        assert!(
            said.iter().any(|said| matches!(said,
                Diagnostic::Table(TableError::Checksum { table: found, .. }) if *found == table)),
            "{said:?}"
        );
    }
}

/// A SLIT that lets nodes reach nobody makes fallback worse, but not impossible.
#[test]
fn nodes_that_reach_nobody_fall_back_to_all() {
    let mut machine = domains(4);
    // Node 3 has no memory.
    machine.memory.pop();
    let mut rows = vec![vec![255; 4]; 4];
    (0..4).for_each(|index| rows[index][index] = 10);
    (rows[0][2], rows[2][0]) = (20, 20);
    machine.distances = Some(rows);
    let (topology, said) = machine.tables().discover(0);
    let nobody = |proximity| Diagnostic::ReachesNobody { proximity };
    assert_eq!(said, [nobody(1), nobody(3)]);
    let nearest: Vec<_> = topology.nearest(node(3)).iter().map(|node| node.index()).collect();
    assert_eq!(nearest, [3, 0, 1, 2]);
    // A window, which has no memory yet, helps nobody.
    machine.windows = vec![(64 * GIB, GIB)];
    let (_, said) = machine.tables().discover(0);
    assert_eq!(said, [nobody(1), nobody(3)]);
}

/// A node that has all memory is not left with nothing.
#[test]
fn the_only_node_with_memory_needs_no_other() {
    let mut machine = domains(2);
    machine.memory.pop();
    machine.distances = Some(vec![vec![10, 255], vec![255, 10]]);
    let (_, said) = machine.tables().discover(0);
    assert_eq!(said, [Diagnostic::ReachesNobody { proximity: 1 }]);
}

/// The memory map may have RAM between two ranges of one domain.
#[test]
fn ram_in_a_domains_hole_is_the_domains() {
    let mut machine = domains(3);
    machine.memory = vec![memory(2, 0, 3 * GIB), memory(2, 4 * GIB, 4 * GIB), memory(1, 9 * GIB, GIB)];
    let (topology, said) = machine.tables().discover(0);
    assert_eq!(said, []);
    let at = |address| topology.node_of_addr(PhysAddr::new(address)).index();
    assert_eq!((at(3 * GIB), at(4 * GIB - 1), at(8 * GIB), at(10 * GIB)), (2, 2, 0, 0));
    let mut map = Box::new(MemoryMap::new());
    map.add_usable(range(GIB, 10 * GIB)).unwrap();
    let pieces: Vec<_> = map.pieces(&topology).map(|piece| (piece.range, piece.node)).collect();
    let expected = [
        (range(GIB, 8 * GIB), node(2)),
        (range(8 * GIB, 9 * GIB), node(0)),
        (range(9 * GIB, 10 * GIB), node(1)),
    ];
    assert_eq!(pieces, expected);
}

/// An enabled range without bytes names a domain whose memory comes later.
#[test]
fn a_range_without_bytes_makes_a_node() {
    let mut machine = domains(2);
    machine.memory.extend((2..5).map(|domain| memory(domain, 0, 0)));
    machine.memory.push(Memory { flags: 0, ..memory(9, 0, 0) });
    machine.distances = Some(distances(5));
    let (topology, said) = machine.tables().discover(0);
    check_shape(&topology);
    assert_eq!((said, topology.node_count(), topology.memory_ranges().len()), (vec![], 5, 2));
    assert_eq!(topology.distance(node(0), node(4)), Distance::new(34));
}

/// Ids that address every CPU: neither MADT nor SRAT says anything by them.
#[test]
fn broadcast_ids_make_no_domains() {
    let mut machine = domains(2);
    machine.cpus.push(cpu(u32::MAX, 7));
    let (topology, said) = machine.tables().discover(0);
    assert_eq!((said, topology.node_count(), topology.cpus().len()), (vec![], 2, 2));
    assert_eq!(topology.cpu_of_apic(ApicId(u32::MAX)), None);
}

/// However often tables speak of a domain that nothing is in, it is said once.
#[test]
fn an_unknown_domain_is_named_once() {
    let mut machine = Machine {
        matrices: vec![latencies(&[0, 1, 5]), latencies(&[5, 0]), latencies(&[5, 6])],
        caches: vec![(5, 1 << 20, 0), (5, 1 << 20, 0)],
        distances: Some(distances(2)),
        ..domains(2)
    };
    machine.memory.push(Memory { flags: 0, ..memory(5, 0, 0) });
    let (_, said) = machine.tables().discover(0);
    let unknown = |proximity| Diagnostic::UnknownProximity { table: Table::Hmat, proximity };
    assert_eq!(said, [unknown(5), unknown(6)]);
    // Many such domains do not fill the log, either.
    machine.matrices = vec![latencies(&(100..300).collect::<Vec<_>>())];
    let (_, said) = machine.tables().discover(0);
    assert_eq!(said.len(), 65);
    assert!(matches!(said.last(), Some(Diagnostic::LeftOut { .. })));
}

/// Usable ranges that meet inside a frame, as loaders cut them: the frame is usable.
#[test]
fn ranges_that_meet_inside_a_frame_lose_nothing() {
    let cuts = [0x10_0000, 0x20_0020, 0x30_0660, 0x30_0680, 0x40_0000];
    let mut map = Box::new(MemoryMap::new());
    for index in [2, 0, 3, 1] {
        map.add_usable(range(cuts[index], cuts[index + 1])).unwrap();
    }
    let (topology, _) = domains(1).tables().discover(0);
    let pieces: Vec<_> = map.pieces(&topology).map(|piece| piece.range).collect();
    assert_eq!(pieces, [range(0x10_0000, 0x40_0000)]);
}

/// SGI's UV machines list CPUs by local SAPICs: an id above 8 bits of extended id. Then SRAT's extended ids count,
/// too: CPU 0.5 is not CPU 5.0.
#[test]
fn cpus_with_local_sapics_are_found_by_both_parts_of_their_ids() {
    let cpus: [(u8, u8, u32); 4] = [(0, 0, 1), (0, 5, 0), (5, 0, 1), (1, 2, 0)];
    let mut madt = Writer::table(b"APIC", 2);
    madt.put(0xfee0_0000u32.to_le_bytes()).put(1u32.to_le_bytes());
    for (index, &(id, extended, _)) in cpus.iter().enumerate() {
        // As ACPI 2.0 has it, and as 3.0 does, with a UID.
        let long = index % 2 == 1;
        madt.put([7, if long { 17 } else { 12 }, index as u8, id, extended, 0, 0, 0]).put(1u32.to_le_bytes());
        if long {
            madt.put(7u32.to_le_bytes()).put([0]);
        }
    }
    // Nobody is addressed by all ones, and a disabled CPU is none.
    madt.put([7, 12, 9, 0xff, 0xff, 0, 0, 0]).put(1u32.to_le_bytes());
    madt.put([7, 12, 9, 1, 3, 0, 0, 0]).put(0u32.to_le_bytes());
    let mut srat = Writer::table(b"SRAT", 3);
    srat.put(1u32.to_le_bytes()).zeros(8);
    for &(id, extended, domain) in &cpus {
        srat.put([0, 16, domain as u8, id]).put(1u32.to_le_bytes()).put([extended, 0, 0, 0]).zeros(4);
    }
    let tables = Tables { madt: Some(madt.sealed()), srat: Some(srat.sealed()), ..domains(1).tables() };
    let (topology, said) = tables.discover(0);
    check_shape(&topology);
    assert_eq!(said, []);
    let found: Vec<(u32, usize)> =
        topology.cpus().iter().map(|cpu| (cpu.apic_id.0, cpu.node.index())).collect();
    assert_eq!(found, [(0, 1), (5, 0), (0x500, 1), (0x102, 0)]);
}
