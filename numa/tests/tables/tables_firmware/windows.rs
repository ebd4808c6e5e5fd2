//! CXL windows, and the domains that have them.

use topomem_numa::tables::Table;
use topomem_numa::{Diagnostic, Distance, MemoryKind, MemoryMap, MemoryRange};
use topomem_percpu::PhysAddr;

use super::{GIB, distances, domains, latencies, memory, range, ranges};
use crate::tables_support::model::{Machine, Memory};
use crate::tables_support::{Tables, check_shape, node};

/// Devices behind generic ports have domains that no node has. SLIT and HMAT describe them: a window's
/// invented domain must not be one of these.
#[test]
fn windows_borrow_no_ports_figures() {
    let machine = Machine {
        ports: vec![2, 3],
        distances: Some(distances(6)),
        matrices: vec![latencies(&[0, 1, 2, 3, 7])],
        windows: vec![(64 * GIB, GIB), (65 * GIB, GIB)],
        ..domains(2)
    };
    let (topology, said) = machine.tables().discover(0);
    check_shape(&topology);
    let unknown = |proximity| Diagnostic::UnknownProximity { table: Table::Hmat, proximity };
    assert_eq!(said, [unknown(2), unknown(3), unknown(7)]);
    let found: Vec<u32> = topology.nodes().map(|node| topology.proximity(node)).collect();
    assert_eq!(found, [0, 1, 8, 9]);
    for window in [node(2), node(3)] {
        for other in [node(0), node(1)] {
            assert_eq!(topology.distance(other, window), Distance::REMOTE);
            assert_eq!(topology.distance(window, other), Distance::REMOTE);
            assert_eq!((topology.latency(other, window), topology.latency(window, other)), (None, None));
        }
    }
    assert_eq!(topology.distance(node(0), node(1)), Distance::new(31));
    assert!(topology.latency(node(0), node(1)).is_some());
}

/// Each table that names a domain keeps it from windows, whatever the structure says besides.
#[test]
fn no_table_has_named_a_windows_domain() {
    let plain = Machine { windows: vec![(64 * GIB, GIB)], ..domains(2) };
    let invented = |machine: &Machine| {
        let (topology, _) = machine.tables().discover(0);
        topology.proximity(node(2))
    };
    assert_eq!(invented(&plain), 2);
    assert_eq!(invented(&Machine { ports: vec![2], ..plain.clone() }), 3);
    assert_eq!(invented(&Machine { distances: Some(distances(3)), ..plain.clone() }), 3);
    assert_eq!(invented(&Machine { matrices: vec![latencies(&[5])], ..plain.clone() }), 6);
    assert_eq!(invented(&Machine { caches: vec![(4, 1 << 20, 0)], ..plain.clone() }), 5);
    // A spare entry, and a CPU that may be plugged in.
    let mut spare = plain.clone();
    spare.memory.push(Memory { flags: 0, ..memory(6, 0, 0) });
    assert_eq!(invented(&spare), 7);
    // No number is above all: the lowest that is free.
    let mut sparse = Machine { ports: vec![u32::MAX, 3], matrices: vec![latencies(&[2, 5])], ..plain };
    sparse.windows.push((66 * GIB, GIB));
    let (topology, _) = sparse.tables().discover(0);
    assert_eq!((topology.proximity(node(2)), topology.proximity(node(3))), (4, 6));
}

#[test]
fn more_windows_than_nodes() {
    let mut machine = domains(2);
    machine.windows = (0..8).map(|window| ((64 + 2 * window) * GIB, GIB)).collect();
    let (topology, said) = machine.tables().discover_in_place(0);
    check_shape(&topology);
    assert_eq!(topology.node_count(), 8);
    let left_out = |window: u64| Diagnostic::TooManyWindows {
        window: range((64 + 2 * window) * GIB, (65 + 2 * window) * GIB),
        most: 8,
    };
    assert_eq!(said, [left_out(6), left_out(7)]);
}

/// Two domains have memory in one window, which goes on behind them: the rest is the nearer domain's.
#[test]
fn the_rest_of_a_window_is_its_domains() {
    let mut machine = domains(3);
    machine.memory[1].base = 9 * GIB;
    machine.memory[2].base = 11 * GIB;
    machine.windows = vec![(8 * GIB, 8 * GIB)];
    let (topology, said) = machine.tables().discover(0);
    assert_eq!(said, []);
    assert_eq!(topology.node_count(), 3);
    let expected = [
        (0, GIB, 0),
        (8 * GIB, 9 * GIB, 1),
        (9 * GIB, 10 * GIB, 1),
        (10 * GIB, 11 * GIB, 2),
        (11 * GIB, 12 * GIB, 2),
        (12 * GIB, 16 * GIB, 2),
    ];
    assert_eq!(ranges(&topology), expected);
    assert_eq!(topology.memory_ranges()[5].kind, MemoryKind::CxlWindow);
}

/// Without an SRAT, a window may lie over the memory that the machine boots from.
#[test]
fn boot_memory_in_a_window_is_node_zeros() {
    let machine = Machine { windows: vec![(0, 2 * GIB), (3 * GIB, 5 * GIB), (16 * GIB, GIB)], ..domains(1) };
    let Tables { madt, cedt, .. } = machine.tables();
    let tables = Tables { madt, cedt, ..Tables::default() };
    let (topology, said) = tables.discover(0);
    let low = |start, end| Diagnostic::WindowOverBootMemory(range(start * GIB, end * GIB));
    assert_eq!(said, [low(0, 2), low(3, 4)]);
    let end = MemoryRange::EVERYTHING.end.as_u64();
    let expected = [
        (0, 4 * GIB, 0),
        (4 * GIB, 8 * GIB, 1),
        (8 * GIB, 16 * GIB, 0),
        (16 * GIB, 17 * GIB, 2),
        (17 * GIB, end, 0),
    ];
    assert_eq!(ranges(&topology), expected);
    // Memory above 4 GiB that is there at boot is node 0's, too.
    let mut map = Box::new(MemoryMap::new());
    map.add_usable(range(GIB, 6 * GIB)).unwrap();
    map.add_usable(range(16 * GIB, 17 * GIB)).unwrap();
    let pieces: Vec<_> = map.pieces(&topology).map(|piece| (piece.range, piece.node)).collect();
    assert_eq!(pieces, [(range(GIB, 6 * GIB), node(0)), (range(16 * GIB, 17 * GIB), node(0))]);

    // With an SRAT, the domains have what it says, and the window's rest is theirs.
    let (topology, said) = machine.tables().discover(0);
    assert_eq!((said.len(), topology.node_of_addr(PhysAddr::new(GIB))), (0, node(0)));
}
