//! Discovery against a plain model of the machine, and against bytes that no firmware should write.
// Safe code throughout, and Miri takes minutes for it.
#![cfg(not(miri))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests")]

mod tables_support;

use std::cell::RefCell;
use std::collections::BTreeSet;

use proptest::collection::vec;
use proptest::prelude::*;
use tables_support::model::{Cpu, Machine, Matrix, Memory};
use tables_support::{Tables, dump, node, seal};
use topomem_numa::tables::{Cedt, Hmat, HmatEntry, Madt, Slit, Srat};
use topomem_numa::{
    ApicId, Diagnostic, Distance, MAX_CPUS, MAX_NODES, MegabytesPerSecond, MemoryRange, Picoseconds, Topology,
};
use x86_64::PhysAddr;

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
    let memory = machine.memory.iter().filter(|memory| is_used(memory)).map(|memory| memory.proximity);
    let found: BTreeSet<u32> = cpus.chain(memory).chain(machine.initiators.iter().copied()).collect();
    if found.is_empty() { vec![0] } else { found.into_iter().collect() }
}

fn is_used(memory: &Memory) -> bool {
    memory.flags & 1 != 0 && memory.bytes != 0
}

/// What must hold of any topology, whatever it was made from.
fn check_shape(topology: &Topology) {
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
        let reachable = topology.nodes().filter(|&to| topology.distance(from, to).is_reachable());
        assert_eq!(nearest.iter().copied().collect::<BTreeSet<_>>(), reachable.collect::<BTreeSet<_>>());
        let key = |to| {
            let latency = topology.latency(from, to).map_or(u32::MAX, |latency| latency.0);
            (topology.distance(from, to), latency, to)
        };
        assert!(nearest[1..].windows(2).all(|pair| key(pair[0]) < key(pair[1])));
    }
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
            let first = machine.memory.iter().find(|memory| {
                is_used(memory) && (memory.base..memory.base + memory.bytes).contains(&address)
            });
            let expected = first.map_or(node(0), |memory| node_of(memory.proximity));
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
                // Less exact than those for reads: of no account where there are such.
                matrix(0, latency_unit, &[0; 25]),
            ],
            ..Machine::default()
        };
        let (topology, said) = machine.tables().discover(0);
        prop_assert_eq!(said, []);
        let given = |entry: u16, unit: u64| (entry != 0 && entry != 0xffff).then_some(u64::from(entry) * unit);
        for from in 0..size as usize {
            for to in 0..size as usize {
                let place = from * size as usize + to;
                let latency = given(entries[place], latency_unit);
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

    #[test]
    fn garbage_is_survived(garbage in vec(vec(any::<u8>(), 0..400), 5), sealed in any::<bool>()) {
        let signatures = [b"APIC", b"SRAT", b"SLIT", b"HMAT", b"CEDT"];
        let mut tables = garbage.into_iter().zip(signatures).map(|(mut bytes, signature)| {
            if sealed && bytes.len() >= 36 {
                bytes[..4].copy_from_slice(signature);
                seal(&mut bytes);
            }
            Some(bytes)
        });
        let mut next = || tables.next().flatten();
        let tables = Tables { madt: next(), srat: next(), slit: next(), hmat: next(), cedt: next() };
        let (topology, said) = tables.discover(0);
        check_shape(&topology);
        said.iter().for_each(|diagnostic| assert!(!diagnostic.to_string().is_empty()));
        let _ = topology.to_string();
    }
}

/// One change to a table: bytes written over, cut off, or repeated.
#[derive(Debug, Clone)]
enum Mutation {
    Write(prop::sample::Index, u8),
    Cut(prop::sample::Index),
    Repeat(prop::sample::Index),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    // Zeros make structures without length, ones overlong ones.
    let value = prop_oneof![Just(0u8), Just(0xff), any::<u8>()];
    prop_oneof![
        6 => (any::<prop::sample::Index>(), value).prop_map(|(at, value)| Mutation::Write(at, value)),
        1 => any::<prop::sample::Index>().prop_map(Mutation::Cut),
        1 => any::<prop::sample::Index>().prop_map(Mutation::Repeat),
    ]
}

fn mutate(table: &mut Vec<u8>, mutations: &[Mutation]) {
    for mutation in mutations {
        if table.len() <= 36 {
            return;
        }
        let place = |at: &prop::sample::Index, table: &Vec<u8>| 36 + at.index(table.len() - 36);
        match mutation {
            Mutation::Write(at, value) => {
                let at = place(at, table);
                table[at] = *value;
            }
            Mutation::Cut(at) => table.truncate(place(at, table)),
            Mutation::Repeat(at) => table.extend_from_within(place(at, table)..),
        }
    }
}

/// All that the parsers say of a table; each must come to an end.
fn read_all(tables: &Tables) -> usize {
    let tables = tables.firmware();
    let madt = tables.madt.and_then(|bytes| Madt::parse(bytes).ok());
    let srat = tables.srat.and_then(|bytes| Srat::parse(bytes).ok());
    let hmat = tables.hmat.and_then(|bytes| Hmat::parse(bytes).ok());
    let cedt = tables.cedt.and_then(|bytes| Cedt::parse(bytes).ok());
    let slit = tables.slit.and_then(|bytes| Slit::parse(bytes).ok());
    let figures = hmat.into_iter().flat_map(|hmat| hmat.entries()).map(|entry| match entry {
        Ok(HmatEntry::LatencyBandwidth(matrix)) => 1 + matrix.figures().count() + matrix.domains().count(),
        _ => 1,
    });
    slit.map_or(0, |slit| slit.localities())
        + madt.map_or(0, |madt| madt.entries().count())
        + srat.map_or(0, |srat| srat.entries().count())
        + cedt.map_or(0, |cedt| cedt.entries().count())
        + figures.sum::<usize>()
}

#[test]
fn mutated_real_tables_are_survived() {
    let machines: Vec<Tables> = dump::machines().iter().map(|name| dump::machine(name)).collect();
    let machine = prop::sample::select(machines);
    let kinds = RefCell::new(BTreeSet::new());
    let config = ProptestConfig { cases: 3000, ..config() };
    proptest!(config, |(mut tables in machine, mutations in vec(vec(mutation(), 0..4), 5), sealed in any::<bool>())| {
        for (table, mutations) in tables.each_mut().zip(&mutations) {
            mutate(table, mutations);
            if sealed {
                seal(table);
            }
        }
        let bytes: usize = tables.each_mut().map(|table| table.len()).sum();
        prop_assert!(read_all(&tables) <= bytes);
        let (topology, said) = tables.discover(0);
        check_shape(&topology);
        for diagnostic in said {
            let text = format!("{diagnostic:?}").replace("Table(", "");
            let name = text.split(['{', '(', ' ']).next().unwrap_or_default().to_owned();
            kinds.borrow_mut().insert(name);
        }
    });
    // The mutations reach more than the checksum.
    assert!(kinds.borrow().len() >= 6, "{kinds:?}");
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
    tables.srat.as_mut().unwrap()[50] ^= 1;
    let (topology, said) = tables.discover(3);
    assert_eq!(said.len(), 1, "{said:?}");
    assert_eq!(topology.node_count(), 1);
    assert_eq!(topology.cpus().len(), 4);
    assert_eq!(topology.memory_ranges()[0].range, MemoryRange::EVERYTHING);
}

#[test]
fn too_many_of_everything() {
    let machine = Machine {
        cpus: (0..600).map(|i| Cpu { apic: i + 300, proximity: Some(i % 70), enabled: true }).collect(),
        memory: (0..600)
            .map(|i| Memory { proximity: i % 70, base: u64::from(i) * 2 * MIB, bytes: MIB, flags: 1 })
            .collect(),
        ..Machine::default()
    };
    let (topology, said) = machine.tables().discover(300);
    check_shape(&topology);
    assert_eq!(topology.node_count(), MAX_NODES);
    assert_eq!(topology.cpus().len(), MAX_CPUS);
    assert!(said.contains(&Diagnostic::TooManyNodes { proximity: 64 }));
    assert!(said.contains(&Diagnostic::TooManyCpus(ApicId(899))));
    let last = MemoryRange::from_length(599 * 2 * MIB, MIB).unwrap();
    assert!(said.contains(&Diagnostic::TooManyRanges(last)));
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
