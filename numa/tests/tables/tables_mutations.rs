//! Small changes to tables of our own, the same ones in each run: discovery ends, says a bounded number of
//! things, and gives a topology that holds together.
#![cfg(not(miri))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests")]

mod tables_support;

use std::collections::BTreeSet;

use tables_support::model::{Cpu, Machine, Matrix, Memory};
use tables_support::{Tables, check_shape, seal};
use topomem_numa::{Diagnostic, MemoryMap, MemoryRange};

const GIB: u64 = 1 << 30;
/// As many as are given of one kind.
const MOST_OF_KIND: usize = 64;

/// A xorshift generator.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }
}

/// Machines that have every kind of structure.
fn machines() -> Vec<Tables> {
    let cpu = |apic, proximity| Cpu { apic, proximity: Some(proximity), enabled: true };
    let memory =
        |proximity, base, bytes, flags| Memory { proximity, base: base * GIB, bytes: bytes * GIB, flags };
    let matrix = |data_type, domains: &[u32]| Matrix {
        hierarchy: 0,
        data_type,
        base_unit: 100,
        initiators: domains.to_vec(),
        targets: domains.to_vec(),
        entries: (1..).take(domains.len() * domains.len()).collect(),
    };
    let row = |from| (0..7).map(|to| if from == to { 10 } else { 20 + to }).collect();
    let rich = Machine {
        cpus: (0..6).map(|index| cpu(if index < 4 { index } else { 300 + index }, index % 3)).collect(),
        memory: vec![
            memory(0, 0, 2, 1),
            memory(1, 2, 2, 1),
            memory(2, 4, 12, 3),
            memory(1, 6, 1, 5),
            memory(4, 0, 0, 1),
            memory(0, 0, 0, 0),
        ],
        initiators: vec![3],
        ports: vec![5, 6],
        distances: Some((0..7).map(row).collect()),
        matrices: vec![matrix(0, &[0, 1, 2]), matrix(4, &[0, 1, 2, 5])],
        caches: vec![(1, 1 << 30, 0x0040_1211)],
        windows: vec![(15 * GIB, 4 * GIB), (32 * GIB, 8 * GIB), (64 * GIB, GIB)],
        ..Machine::default()
    };
    let plain = Machine {
        cpus: (0..4).map(|index| cpu(index, 7 + index % 2)).collect(),
        memory: vec![memory(7, 0, 4, 1), memory(8, 4, 4, 1)],
        ..Machine::default()
    };
    let tables = rich.tables();
    let without = Tables { srat: None, ..tables.clone() };
    vec![tables, without, plain.tables()]
}

/// Values that are a limit of something.
const BYTES: [u8; 10] = [0, 1, 2, 8, 10, 16, 40, 0x7f, 0xfe, 0xff];
const WORDS: [u64; 9] = [0, 1, 255, 4096, u32::MAX as u64, GIB, (1 << 52) - 4096, 1 << 52, u64::MAX];

fn mutate(table: &mut Vec<u8>, random: &mut Random) {
    if table.len() <= 37 {
        return;
    }
    let at = 36 + random.below(table.len() - 36);
    match random.below(8) {
        0 | 1 => table[at] = random.of(&BYTES),
        2 => table[at] ^= 1 << random.below(8),
        3 | 4 => {
            let size = random.of(&[2, 4, 8]).min(table.len() - at);
            let word = random.of(&WORDS).to_le_bytes();
            table[at..at + size].copy_from_slice(&word[..size]);
        }
        5 => table.truncate(at),
        6 => table.extend_from_within(at..),
        _ => {
            // A part of the table over another part.
            let to = 36 + random.below(table.len() - 36);
            let size = random.below(48).min(table.len() - at.max(to));
            table.copy_within(at..at + size, to);
        }
    }
}

fn check(tables: &Tables, boot: u32) -> Vec<Diagnostic> {
    let (topology, said) = tables.discover(boot);
    check_shape(&topology);
    assert!(!topology.to_string().is_empty());
    let domains: BTreeSet<u32> = topology.nodes().map(|node| topology.proximity(node)).collect();
    assert_eq!(domains.len(), topology.node_count());
    // No frame is lost, and none is there twice.
    let mut map = Box::new(MemoryMap::new());
    let usable = MemoryRange::from_bounds(GIB, 40 * GIB).unwrap();
    map.add_usable(usable).unwrap();
    let mut end = usable.start;
    for piece in map.pieces(&topology) {
        assert_eq!(piece.range.start, end);
        assert!(piece.node.index() < topology.node_count());
        end = piece.range.end;
    }
    assert_eq!(end, usable.end);
    said
}

#[test]
fn mutated_tables_are_survived() {
    let machines = machines();
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut kinds = BTreeSet::new();
    for round in 0..12_000 {
        let mut tables = machines[round % machines.len()].clone();
        let sealed = random.below(4) != 0;
        for table in tables.each_mut() {
            (0..random.below(4)).for_each(|_| mutate(table, &mut random));
            if sealed {
                seal(table);
            }
        }
        for diagnostic in check(&tables, random.of(&[0, 1, 304])) {
            let text = format!("{diagnostic:?}");
            kinds.insert(text.split(['{', '(', ' ']).next().unwrap_or_default().to_owned());
        }
    }
    // All that these tables can be wrong in: nothing here is too many.
    let found: Vec<&str> = kinds.iter().map(String::as_str).collect();
    let expected = [
        "BootCpuMissing",
        "Checksum",
        "ClampedRange",
        "CpuWithoutAffinity",
        "DuplicateCpu",
        "FigureTooLarge",
        "ImpossibleDistance",
        "ImpossibleRange",
        "NoDistances",
        "OverlappingRanges",
        "ReachesNobody",
        "Table",
        "UnknownProximity",
        "WindowOverBootMemory",
    ];
    assert_eq!(found, expected);
}

/// Tables with thousands of entries, most of them wrong: what is said of them stays short.
#[test]
fn long_tables_do_not_fill_the_log() {
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let memory = (0..4000).map(|_| Memory {
        proximity: random.below(200) as u32,
        base: (random.next() % 4096) * (GIB / 16),
        bytes: (random.next() % 64) * (GIB / 16),
        flags: 1,
    });
    let machine = Machine {
        memory: memory.collect(),
        cpus: (0..3000).map(|index| Cpu { apic: index % 1500, proximity: None, enabled: true }).collect(),
        matrices: vec![Matrix {
            hierarchy: 0,
            data_type: 0,
            base_unit: u64::MAX,
            initiators: (0..500).collect(),
            targets: (0..500).collect(),
            entries: vec![2; 500 * 500],
        }],
        windows: (0..3000).map(|index| (index * GIB / 4, GIB)).collect(),
        ports: (0..4000).chain([u32::MAX]).collect(),
        ..Machine::default()
    };
    check(&machine.tables(), 0);
    let (topology, said) = machine.tables().discover_in_place(0);
    check_shape(&topology);
    let mut counts = std::collections::BTreeMap::new();
    for diagnostic in &said {
        let text = format!("{diagnostic:?}");
        *counts.entry(text.split(['{', '(', ' ']).next().unwrap_or_default().to_owned()).or_insert(0) += 1;
    }
    assert!(counts.values().all(|&count| count <= MOST_OF_KIND), "{counts:?}");
    assert!(counts.len() >= 8, "{counts:?}");
    assert!(matches!(said.last(), Some(Diagnostic::LeftOut { count }) if *count > 1000), "{said:?}");
}
