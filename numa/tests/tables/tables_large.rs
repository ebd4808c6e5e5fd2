//! Topologies of more nodes and ranges than are built in.
// Miri has 16 nodes, all of them built in.
#![cfg(not(miri))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests")]

mod tables_support;

use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;
use tables_support::model::{Cpu, Machine, Matrix, Memory};
use tables_support::{check_shape, node};
use topomem_numa::{
    ApicId, CpuId, Diagnostic, Distance, MAX_CPUS, MAX_NODES, MemoryMap, MemoryRange, PhysAddr, Platform,
    Topology,
};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Physical memory from 1 GiB on.
struct Ram {
    bytes: &'static mut [u128],
    is_used: AtomicBool,
}

impl Ram {
    /// Memory full of rubbish, as firmware leaves it.
    fn new(mib: u64) -> Ram {
        let bytes = vec![u128::MAX / 3; (mib * MIB / 16) as usize].leak();
        Ram { bytes, is_used: AtomicBool::new(false) }
    }

    fn map(&self) -> Box<MemoryMap> {
        let mut map = Box::new(MemoryMap::new());
        let range = MemoryRange::from_length(GIB, size_of_val::<[u128]>(self.bytes) as u64);
        map.add_usable(range.unwrap()).unwrap();
        map
    }
}

// SAFETY: one thread uses it, and asks for addresses in the map only.
unsafe impl Platform for Ram {
    fn current_cpu(&self) -> CpuId {
        CpuId::BOOT
    }

    fn phys_to_virt(&self, addr: PhysAddr) -> NonNull<u8> {
        self.is_used.store(true, Ordering::Relaxed);
        let offset = (addr.as_u64() - GIB) as usize;
        assert!(offset < size_of_val::<[u128]>(self.bytes));
        NonNull::new(self.bytes.as_ptr().cast::<u8>().cast_mut().wrapping_add(offset)).unwrap()
    }
}

/// A machine of `nodes` nodes in pairs, pairs of pairs and so on, each with a CPU and two ranges of memory. Domains
/// are sparse.
fn machine(nodes: u32) -> Machine {
    let domain = |index: u32| 3 * index;
    let range = |index: u32, half: u64| Memory {
        proximity: domain(index),
        base: (half * u64::from(nodes) + u64::from(index) + 1) * GIB,
        bytes: GIB,
        flags: 1,
    };
    let distance = |from: u32, to: u32| match from ^ to {
        0 => 10,
        _ if !from.is_multiple_of(3) || !to.is_multiple_of(3) => 254,
        apart => 12 + 2 * (apart / 3).checked_ilog2().unwrap_or(0) as u8,
    };
    let last = domain(nodes);
    Machine {
        cpus: (0..nodes).map(|i| Cpu { apic: i, proximity: Some(domain(i)), enabled: true }).collect(),
        memory: (0..nodes).flat_map(|index| [range(index, 0), range(index, 1)]).collect(),
        distances: Some((0..last).map(|from| (0..last).map(|to| distance(from, to)).collect()).collect()),
        ..Machine::default()
    }
}

fn discover(machine: &Machine, ram: &Ram) -> (Box<Topology>, Vec<Diagnostic>, Box<MemoryMap>) {
    let (mut topology, mut map) = (Box::new(Topology::new()), ram.map());
    let mut said = Vec::new();
    let tables = machine.tables();
    topology.discover_in(ram, &mut map, &tables.firmware(), ApicId(0), &mut |found| said.push(found));
    (topology, said, map)
}

#[test]
fn as_many_nodes_as_there_can_be() {
    let ram = Ram::new(32);
    let mut machine = machine(MAX_NODES as u32);
    // From the first and the last node to some others: latencies, and bandwidths as large.
    let (first, last) = (0, 3 * (MAX_NODES as u32 - 1));
    for data_type in [1, 4] {
        machine.matrices.push(Matrix {
            hierarchy: 0,
            data_type,
            base_unit: 1000,
            initiators: vec![first, last],
            targets: vec![first, 3 * 64, last],
            entries: vec![1, 2, 3, 4, 5, 6],
        });
    }
    machine.caches.push((last, 64 * MIB, 0x1111));
    let (topology, said, map) = discover(&machine, &ram);
    assert_eq!(said, []);
    assert_eq!((topology.node_count(), topology.cpus().len()), (MAX_NODES, MAX_NODES));
    assert_eq!(topology.memory_ranges().len(), 2 * MAX_NODES);
    check_shape(&topology);
    for index in [0, 63, 64, 65, 500, MAX_NODES - 1] {
        let domain = 3 * index as u32;
        assert_eq!(topology.proximity(node(index)), domain);
        assert_eq!(topology.node_of_proximity(domain), Some(node(index)));
        assert_eq!(topology.cpus()[index].node, node(index));
        for half in [0, MAX_NODES as u64] {
            let at = PhysAddr::new((half + index as u64 + 1) * GIB + 4096);
            assert_eq!(topology.node_of_addr(at), node(index));
        }
        assert_eq!(topology.distance(node(index), node(index)), Distance::LOCAL);
        let neighbour = topology.nearest(node(index))[1];
        let nearest = topology.nodes().filter(|&to| to != node(index));
        assert_eq!(nearest.map(|to| topology.distance(node(index), to)).min().unwrap(), {
            topology.distance(node(index), neighbour)
        });
    }
    let (first, last) = (node(0), node(MAX_NODES - 1));
    assert_eq!(topology.latency(last, node(64)).map(|latency| latency.0), Some(5000));
    assert_eq!(topology.bandwidth(first, last).map(|bandwidth| bandwidth.0), Some(3000));
    assert_eq!(topology.latency(node(64), last), None);
    assert_eq!(topology.memory_side_cache(last).map(|cache| cache.bytes), Some(64 * MIB));
    assert_eq!(topology.memory_side_cache(node(64)), None);
    let taken: Vec<_> = map.reserved().filter(|region| region.name == "boot allocations").collect();
    assert_eq!(taken.len(), 1, "reserved for good: {taken:?}");
}

#[test]
fn eighty_nodes_and_then_two() {
    let ram = Ram::new(4);
    let (mut topology, said, mut map) = discover(&machine(80), &ram);
    assert_eq!(said, []);
    assert_eq!(topology.node_count(), 80);
    check_shape(&topology);
    // The room stays, and is used again.
    for nodes in [2, 70, 80] {
        let tables = machine(nodes).tables();
        let before = format!("{map:?}");
        let heard = &mut |found: Diagnostic| panic!("{found}");
        topology.discover_in(&ram, &mut map, &tables.firmware(), ApicId(0), heard);
        assert_eq!((topology.node_count(), format!("{map:?}")), (nodes as usize, before));
        check_shape(&topology);
        topology.discover(&tables.firmware(), ApicId(0), heard);
        assert_eq!(topology.node_count(), nodes as usize);
    }
}

#[test]
fn small_machines_take_no_memory() {
    let ram = Ram::new(4);
    for nodes in [1, 2, 5] {
        let (topology, said, map) = discover(&machine(nodes), &ram);
        assert_eq!((topology.node_count(), said), (nodes as usize, vec![]));
        assert_eq!(map.reserved().count(), ram.map().reserved().count());
    }
    assert!(!ram.is_used.load(Ordering::Relaxed));
}

#[test]
fn without_room_the_rest_is_node_0s() {
    // 80 nodes take 70 KiB, and 481 ranges 15 KiB.
    let mut ram = Ram::new(1);
    ram.bytes = &mut std::mem::take(&mut ram.bytes)[..64 * 1024 / 16];
    let (topology, said, map) = discover(&machine(80), &ram);
    check_shape(&topology);
    assert_eq!((topology.node_count(), topology.cpus().len()), (8, 64));
    let nodes = said.iter().filter(|said| matches!(said, Diagnostic::TooManyNodes { most: 8, .. }));
    // Of a kind, 64 are given.
    assert_eq!(nodes.count(), 64);
    for cpu in 64..80 {
        assert!(said.contains(&Diagnostic::TooManyCpus(ApicId(cpu))), "{said:?}");
    }
    assert_eq!(map.reserved().count(), ram.map().reserved().count(), "nothing was taken");
}

#[test]
fn more_nodes_than_numbers() {
    let ram = Ram::new(32);
    let mut machine = machine(2);
    machine.distances = None;
    let memory =
        |index: u32| Memory { proximity: index, base: u64::from(index + 1) * GIB, bytes: GIB, flags: 1 };
    machine.memory = (0..MAX_NODES as u32 + 6).map(memory).collect();
    let (topology, said, _) = discover(&machine, &ram);
    assert_eq!(topology.node_count(), MAX_NODES);
    let left_out = (0..6).map(|more| Diagnostic::TooManyNodes { proximity: 1024 + more, most: MAX_NODES });
    assert_eq!(said, left_out.collect::<Vec<_>>());
    check_shape(&topology);
}

/// Two nodes' memory, a range of each in turn; and one within another.
#[test]
fn any_number_of_ranges() {
    let ram = Ram::new(4);
    let mut machine = machine(2);
    let stated = |index: u32| Memory {
        proximity: index % 2 * 3,
        base: u64::from(index + 1) * 2 * GIB,
        bytes: GIB,
        flags: 1,
    };
    let within = |index: u32| Memory { bytes: MIB, base: stated(index).base + MIB, ..stated(index + 1) };
    machine.memory = (0..1000).map(stated).chain((0..1000).map(within)).collect();
    let (topology, said, _) = discover(&machine, &ram);
    assert!(said.iter().all(|said| !matches!(said, Diagnostic::TooManyRanges(_))), "{said:?}");
    assert_eq!(topology.memory_ranges().len(), 3000);
    for index in 0..1000 {
        let at = |offset| topology.node_of_addr(PhysAddr::new(stated(index).base + offset)).index() as u32;
        assert_eq!([at(0), at(MIB), at(2 * MIB)], [index % 2, 1 - index % 2, index % 2]);
    }
}

/// As many CPUs as there can be on one node, which alone need memory.
#[test]
fn as_many_cpus_as_there_can_be() {
    let ram = Ram::new(4);
    let mut machine = machine(1);
    machine.cpus =
        (0..MAX_CPUS as u32 + 3).map(|apic| Cpu { apic, proximity: Some(0), enabled: true }).collect();
    let (topology, said, map) = discover(&machine, &ram);
    let left_out = (0..3).map(|more| Diagnostic::TooManyCpus(ApicId(MAX_CPUS as u32 + more)));
    assert_eq!(said, left_out.collect::<Vec<_>>());
    assert_eq!(topology.cpus().len(), MAX_CPUS);
    assert!(
        topology
            .cpus()
            .iter()
            .enumerate()
            .all(|(index, cpu)| { (cpu.cpu.index(), cpu.apic_id) == (index, ApicId(index as u32)) })
    );
    let taken = map.reserved().filter(|region| region.name == "boot allocations");
    assert_eq!(taken.map(|region| region.range.bytes()).sum::<u64>(), 48 << 10 | 4096, "12 bytes a CPU");
    check_shape(&topology);
}

/// Without domains node 0 is there beside the windows' nodes.
#[test]
fn windows_without_domains() {
    let ram = Ram::new(4);
    for windows in [63, 64, 65, 70, 200] {
        let machine = Machine {
            windows: (0..windows).map(|index| ((index + 8) * GIB, GIB)).collect(),
            bridges: 0,
            ..Machine::default()
        };
        let (topology, said, _) = discover(&machine, &ram);
        // The tables name no CPU.
        let boot = [Diagnostic::CpuWithoutAffinity(ApicId(0)), Diagnostic::BootCpuMissing(ApicId(0))];
        assert_eq!((topology.node_count() as u64, &said[..]), (windows + 1, &boot[..]));
        check_shape(&topology);
    }
}

#[test]
fn host_bridges_are_no_nodes() {
    let ram = Ram::new(4);
    let machine = Machine { windows: vec![(4096 * GIB, GIB)], bridges: 40, ..machine(4) };
    let (topology, said, _) = discover(&machine, &ram);
    assert_eq!((topology.node_count(), said), (5, vec![]));
    assert!(!ram.is_used.load(Ordering::Relaxed), "5 nodes and 9 ranges are built in");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// However ranges and windows lie over each other, there is room for all.
    #[test]
    fn what_the_first_pass_counts_has_room(
        domains in 0_u32..200,
        memory in proptest::collection::vec((0_u32..200, 0_u64..2000, 1_u64..400), 0..300),
        windows in proptest::collection::vec((0_u64..2000, 1_u64..400), 0..100),
    ) {
        let ram = Ram::new(4);
        let page = 4096;
        let memory = memory.into_iter().filter(|stated| stated.0 < domains).map(|(proximity, base, bytes)| {
            Memory { proximity, base: (4 << 30) + base * page, bytes: bytes * page, flags: 1 }
        });
        let machine = Machine {
            memory: memory.collect(),
            windows: windows.into_iter().map(|(base, bytes)| ((4 << 30) + base * page, bytes * page)).collect(),
            ..Machine::default()
        };
        let (topology, said, _) = discover(&machine, &ram);
        check_shape(&topology);
        let lost = |said: &&Diagnostic| matches!(
            said,
            Diagnostic::TooManyRanges(_) | Diagnostic::TooManyNodes { .. } | Diagnostic::TooManyWindows { .. }
        );
        prop_assert_eq!(said.iter().find(lost), None);
    }
}
