//! Discovery against a plain model of the machine.
// Safe code throughout, and Miri takes minutes for it.
#![cfg(not(miri))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests")]

mod tables_support;

use std::collections::BTreeSet;

use proptest::collection::vec;
use proptest::prelude::*;
use tables_support::model::{Cpu, Machine, Matrix, Memory};
use tables_support::{Tables, check_shape, node, seal};
use topomem_numa::tables::{Table, TableError};
use topomem_numa::{
    ApicId, BootAllocator, Diagnostic, Distance, MegabytesPerSecond, MemoryKind, MemoryMap, MemoryRange,
    Picoseconds,
};
use topomem_percpu::PhysAddr;

fn config() -> ProptestConfig {
    ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() }
}

const MIB: u64 = 1 << 20;

/// Few domains, far apart, so that they are sparse and shared.
fn domain() -> impl Strategy<Value = u32> {
    prop_oneof![0u32..6, Just(77), Just(0x1234_5678), Just(u32::MAX)]
}

fn cpus() -> impl Strategy<Value = Vec<Cpu>> {
    let apic = prop_oneof![0u32..255, 256u32..2000];
    let cpu = (apic, proptest::option::weighted(0.9, domain()), proptest::bool::weighted(0.9));
    vec(cpu, 1..40).prop_map(|cpus| {
        let mut seen = BTreeSet::new();
        let mut cpus: Vec<Cpu> = cpus
            .into_iter()
            .filter(|cpu| seen.insert(cpu.0))
            .map(|(apic, proximity, enabled)| Cpu { apic, proximity, enabled })
            .collect();
        cpus[0].enabled = true;
        cpus
    })
}

/// Overlapping, empty and disabled ranges among them.
fn memory() -> impl Strategy<Value = Vec<Memory>> {
    let entry = (domain(), 0u64..64, 0u64..16, 0u32..8).prop_map(|(proximity, base, length, flags)| Memory {
        proximity,
        base: base * MIB,
        bytes: length * MIB,
        flags,
    });
    vec(entry, 0..24)
}

fn machine() -> impl Strategy<Value = Machine> {
    let distances = proptest::option::of((1usize..8).prop_flat_map(|size| {
        let row = vec(prop_oneof![11u8..60, Just(255)], size);
        vec(row, size).prop_map(|mut rows| {
            rows.iter_mut().enumerate().for_each(|(index, row)| row[index] = 10);
            rows
        })
    }));
    (cpus(), memory(), vec(domain(), 0..3), distances).prop_map(|(cpus, memory, initiators, distances)| {
        Machine { cpus, memory, initiators, distances, ..Machine::default() }
    })
}

/// The domains that have something, in order: the nodes.
fn domains(machine: &Machine) -> Vec<u32> {
    let cpus = machine.cpus.iter().filter_map(|cpu| cpu.proximity);
    let memory = machine.memory.iter().filter(|memory| memory.flags & 1 != 0).map(|memory| memory.proximity);
    let found: BTreeSet<u32> = cpus.chain(memory).chain(machine.initiators.iter().copied()).collect();
    if found.is_empty() { vec![0] } else { found.into_iter().collect() }
}

fn is_used(memory: &Memory) -> bool {
    memory.flags & 1 != 0 && memory.bytes != 0
}

/// The domain whose range has `address`: the smallest such range, and the first of several.
fn owner(machine: &Machine, address: u64) -> Option<u32> {
    let ranges = machine
        .memory
        .iter()
        .filter(|memory| is_used(memory) && (memory.base..memory.base + memory.bytes).contains(&address));
    ranges.min_by_key(|memory| memory.bytes).map(|memory| memory.proximity)
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn nodes_cpus_and_memory_are_the_models(machine in machine()) {
        let boot = machine.cpus[0].apic;
        let (topology, said) = machine.tables().discover(boot);
        check_shape(&topology);
        let domains = domains(&machine);
        let found: Vec<u32> = topology.nodes().map(|node| topology.proximity(node)).collect();
        prop_assert_eq!(&found, &domains);
        let node_of = |proximity: u32| node(domains.binary_search(&proximity).unwrap());

        let enabled: Vec<&Cpu> = machine.cpus.iter().filter(|cpu| cpu.enabled).collect();
        prop_assert_eq!(topology.cpus().len(), enabled.len());
        for (entry, cpu) in topology.cpus().iter().zip(&enabled) {
            prop_assert_eq!(entry.apic_id, ApicId(cpu.apic));
            prop_assert_eq!(entry.node, cpu.proximity.map_or(node(0), node_of));
            let complained = said.contains(&Diagnostic::CpuWithoutAffinity(entry.apic_id));
            prop_assert_eq!(complained, cpu.proximity.is_none());
        }

        for mib in 0..90 {
            let address = mib * MIB;
            let expected = owner(&machine, address).unwrap_or_else(|| {
                // A hole between two ranges of one domain is that domain's.
                let below = (0..address / MIB).rev().find_map(|mib| owner(&machine, mib * MIB));
                let above = (address / MIB..90).find_map(|mib| owner(&machine, mib * MIB));
                below.filter(|_| below == above).unwrap_or(domains[0])
            });
            let expected = node_of(expected);
            prop_assert_eq!(topology.node_of_addr(PhysAddr::new(address)), expected);
        }
    }

    #[test]
    fn distances_are_the_models(machine in machine()) {
        let (topology, said) = machine.tables().discover(machine.cpus[0].apic);
        let rows = machine.distances.clone().unwrap_or_default();
        for from in topology.nodes() {
            let lacking = topology.proximity(from) as usize >= rows.len() && machine.distances.is_some();
            let complained = said.iter().any(|diagnostic| {
                matches!(diagnostic, Diagnostic::NoDistances { proximity, .. }
                    if *proximity == topology.proximity(from))
            });
            prop_assert_eq!(complained, lacking);
            for to in topology.nodes() {
                let (row, column) = (topology.proximity(from) as usize, topology.proximity(to) as usize);
                let given = rows.get(row).and_then(|row| row.get(column)).copied();
                let default = if from == to { 10 } else { 20 };
                prop_assert_eq!(topology.distance(from, to).get(), given.unwrap_or(default));
            }
        }
    }

    #[test]
    fn figures_are_the_models(
        size in 1u32..6,
        (latency_unit, bandwidth_unit) in (1u64..5000, 1u64..5000),
        entries in vec(prop_oneof![0u16..2000, Just(0xffff)], 50),
        revision in 1u8..=2,
    ) {
        let memory = (0..size).map(|index| Memory {
            proximity: index * 3,
            base: u64::from(index) * MIB,
            bytes: MIB,
            flags: 1,
        });
        let domains: Vec<u32> = (0..size).map(|index| index * 3).collect();
        let matrix = |data_type, base_unit, entries: &[u16]| Matrix {
            hierarchy: 0,
            data_type,
            base_unit,
            initiators: domains.clone(),
            targets: domains.clone(),
            entries: entries[..(size * size) as usize].to_vec(),
        };
        let machine = Machine {
            cpus: vec![Cpu { apic: 0, proximity: Some(0), enabled: true }],
            memory: memory.collect(),
            hmat_revision: revision,
            matrices: vec![
                matrix(1, latency_unit, &entries),
                matrix(3, bandwidth_unit, &entries[25..]),
                // Not the memory's own figures, and figures of writes: of no account.
                Matrix { hierarchy: 1, ..matrix(1, 7, &entries[25..]) },
                matrix(2, 7, &entries[25..]),
                // Less exact than those for reads: of account only where there are none of those.
                matrix(0, 7, &entries[25..]),
            ],
            ..Machine::default()
        };
        let (topology, said) = machine.tables().discover(0);
        prop_assert_eq!(said, []);
        let given = |entry: u16, unit: u64| (entry != 0 && entry != 0xffff).then_some(u64::from(entry) * unit);
        for from in 0..size as usize {
            for to in 0..size as usize {
                let place = from * size as usize + to;
                let latency = given(entries[place], latency_unit).or(given(entries[25 + place], 7));
                let latency = latency.map(|value| if revision == 1 { value * 100 } else { value });
                let bandwidth = given(entries[25 + place], bandwidth_unit);
                let bandwidth = bandwidth.map(|value| if revision == 1 { value.div_ceil(10) } else { value });
                let latency = latency.map(|value| Picoseconds(value as u32));
                let bandwidth = bandwidth.map(|value| MegabytesPerSecond(value as u32));
                prop_assert_eq!(topology.latency(node(from), node(to)), latency);
                prop_assert_eq!(topology.bandwidth(node(from), node(to)), bandwidth);
            }
        }
        check_shape(&topology);
    }

    #[test]
    fn windows_are_nodes_of_their_own(memory in memory(), windows in vec((0u64..96, 0u64..16), 1..6)) {
        let windows: Vec<(u64, u64)> =
            windows.into_iter().map(|(base, length)| (base * MIB, length * MIB)).collect();
        let machine = Machine {
            cpus: vec![Cpu { apic: 0, proximity: Some(2), enabled: true }],
            memory,
            windows: windows.clone(),
            ..Machine::default()
        };
        let (topology, _) = machine.tables().discover(0);
        check_shape(&topology);
        let firmware = domains(&machine).len();
        for (base, _) in windows.into_iter().filter(|window| window.1 != 0) {
            let base = PhysAddr::new(base);
            let owner = topology.node_of_addr(base);
            let claimed = topology.memory_ranges().iter().any(|range| range.range.contains(base));
            prop_assert!(claimed);
            let described = machine.memory.iter().filter(|memory| is_used(memory)).any(|memory| {
                (memory.base..memory.base + memory.bytes).contains(&base.as_u64())
            });
            // Whoever has the window, it is a domain's only where a domain has some of it.
            if owner.index() >= firmware {
                prop_assert!(!described && topology.cpus_of(owner).is_empty());
            }
        }
    }
}

#[test]
fn one_table_missing_or_broken_costs_only_itself() {
    let machine = Machine {
        cpus: (0..4).map(|apic| Cpu { apic, proximity: Some(apic / 2), enabled: true }).collect(),
        memory: (0..2)
            .map(|p| Memory { proximity: p, base: u64::from(p) * MIB, bytes: MIB, flags: 1 })
            .collect(),
        distances: Some(vec![vec![10, 30], vec![30, 10]]),
        ..Machine::default()
    };
    let mut tables = machine.tables();
    tables.slit.as_mut().unwrap()[45] = 9;
    seal(tables.slit.as_mut().unwrap());
    let (topology, said) = tables.discover(0);
    assert_eq!(said, [Diagnostic::ImpossibleDistance { from: 0, to: 1, found: 9 }]);
    assert_eq!(topology.distance(node(0), node(1)), Distance::REMOTE);
    assert_eq!(topology.node_count(), 2);

    let mut tables = machine.tables();
    // A structure without length, and a checksum that says so.
    tables.srat.as_mut().unwrap()[49] = 0;
    let (topology, said) = tables.discover(3);
    let table = Table::Srat;
    assert_eq!(said, [Diagnostic::Table(TableError::Checksum { table, sum: 240 })]);
    assert_eq!(topology.node_count(), 1);
    assert_eq!(topology.cpus().len(), 4);
    assert_eq!(topology.memory_ranges()[0].range, MemoryRange::EVERYTHING);
}

#[test]
fn too_many_of_everything() {
    let machine = Machine {
        cpus: (0..4200).map(|i| Cpu { apic: i + 300, proximity: Some(i % 70), enabled: true }).collect(),
        memory: (0..600)
            .map(|i| Memory { proximity: i % 70, base: u64::from(i) * 2 * MIB, bytes: MIB, flags: 1 })
            .collect(),
        ..Machine::default()
    };
    let (topology, said) = machine.tables().discover_in_place(300);
    check_shape(&topology);
    assert_eq!(topology.node_count(), 8);
    assert_eq!(topology.cpus().len(), 64);
    let too_many_nodes = said.iter().filter(|said| matches!(said, Diagnostic::TooManyNodes { .. }));
    let domains: Vec<_> = (8..70).map(|proximity| Diagnostic::TooManyNodes { proximity, most: 8 }).collect();
    assert_eq!(too_many_nodes.copied().collect::<Vec<_>>(), domains);
    assert!(said.contains(&Diagnostic::TooManyCpus(ApicId(300 + 64))));
    let first = MemoryRange::from_length(32 * 2 * MIB, MIB).unwrap();
    assert!(said.contains(&Diagnostic::TooManyRanges(first)));
    // 4136 CPUs and 568 ranges find no room: 64 of each are named.
    assert_eq!(said.last(), Some(&Diagnostic::LeftOut { count: 4200 - 64 - 64 + 600 - 32 - 64 }));
    assert_eq!(said.len(), 62 + 64 + 64 + 1);
}

#[test]
fn boot_cpu_that_firmware_forgot() {
    let cpu = Cpu { apic: 4, proximity: Some(9), enabled: true };
    let machine = Machine { cpus: vec![cpu, cpu], ..Machine::default() };
    let (topology, said) = machine.tables().discover(3);
    assert_eq!(
        said,
        [
            Diagnostic::CpuWithoutAffinity(ApicId(3)),
            Diagnostic::DuplicateCpu(ApicId(4)),
            Diagnostic::BootCpuMissing(ApicId(3)),
        ]
    );
    let ids: Vec<u32> = topology.cpus().iter().map(|entry| entry.apic_id.0).collect();
    assert_eq!(ids, [3, 4]);
}

/// Where only a CEDT describes memory, node 0 has all that is in no window.
#[test]
fn windows_without_affinities() {
    let machine = Machine { windows: vec![(8 << 30, 1 << 30)], ..Machine::default() };
    let tables = Tables { cedt: machine.tables().cedt, ..Tables::default() };
    let (topology, said) = tables.discover(0);
    assert_eq!(said, []);
    let ranges = topology.memory_ranges().iter();
    let ranges: Vec<_> = ranges.map(|r| (r.range.start.as_u64() >> 30, r.node.index(), r.kind)).collect();
    let conventional = MemoryKind::Conventional;
    assert_eq!(ranges, [(0, 0, conventional), (8, 1, MemoryKind::CxlWindow), (9, 0, conventional)]);
}

/// Ids that address every CPU name none, whatever firmware says of them.
#[test]
fn broadcast_ids_are_no_cpus() {
    let cpu = |apic| Cpu { apic, proximity: Some(0), enabled: true };
    let machine = Machine { cpus: vec![cpu(0), cpu(1), cpu(u32::MAX)], ..Machine::default() };
    let (topology, _) = machine.tables().discover(0);
    assert_eq!(topology.cpus().iter().map(|entry| entry.apic_id.0).collect::<Vec<_>>(), [0, 1]);
    assert_eq!(topology.cpu_of_apic(ApicId(u32::MAX)), None);
}

/// Hot-plug windows up to the end of the physical address space are seen.
#[test]
fn a_window_up_to_the_last_address_is_a_range() {
    let window = |proximity, base, bytes| Memory { proximity, base, bytes, flags: 3 };
    let memory = vec![window(0, 0, 1 << 51), window(1, 1 << 51, 1 << 51), window(1, 1 << 52, 4096)];
    let machine = Machine { memory, windows: vec![(u64::MAX - 4095, 4096)], ..Machine::default() };
    let (topology, said) = machine.tables().discover(0);
    let ranges: Vec<_> =
        topology.memory_ranges().iter().map(|range| (range.range, range.node.index())).collect();
    let range = |start, end| MemoryRange::from_bounds(start, end).unwrap();
    assert_eq!(ranges, [(range(0, 1 << 51), 0), (range(1 << 51, 1 << 52), 1)]);
    let impossible = said.iter().filter(|said| matches!(said, Diagnostic::ImpossibleRange { .. }));
    assert_eq!(impossible.count(), 2, "{said:?}");
}

/// No node reaches another: a kernel that has memory on one of them boots all the same.
#[test]
fn nodes_that_reach_nobody_still_have_memory() {
    let cpu = |apic| Cpu { apic, proximity: Some(apic), enabled: true };
    let memory = vec![Memory { proximity: 1, base: 0, bytes: 128 << 20, flags: 1 }];
    let rows = vec![vec![10, 255, 255], vec![255, 10, 255], vec![255, 255, 10]];
    let machine =
        Machine { cpus: (0..3).map(cpu).collect(), memory, distances: Some(rows), ..Machine::default() };
    let (topology, _) = machine.tables().discover(0);
    let mut map = Box::new(MemoryMap::new());
    map.add_usable(MemoryRange::from_bounds(0, 128 << 20).unwrap()).unwrap();
    let mut boot = BootAllocator::new(&mut map, &topology);
    for node in topology.nodes() {
        let start = boot.alloc(4096, 1, node).unwrap();
        assert_eq!(topology.node_of_addr(start).index(), 1);
    }
}
