//! Tables that QEMU's firmware wrote, and the machines that they describe. How they were dumped:
//! `tests/tables/README.md`.
#![cfg(not(miri))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests")]

mod tables_support;

use tables_support::{dump, node};
use topomem_numa::{
    ApicId, CacheAssociativity, CacheWritePolicy, CpuId, Diagnostic, Distance, MegabytesPerSecond,
    MemoryKind, MemoryRange, MemorySideCache, Picoseconds, Topology,
};

use MemoryKind::{Conventional, CxlWindow, HotPluggable, NonVolatile};

/// The topology of a machine whose tables are faultless.
fn faultless(name: &str) -> Box<Topology> {
    let (topology, said) = dump::machine(name).discover(0);
    assert_eq!(said, [], "{name}");
    topology
}

fn cpus(topology: &Topology) -> Vec<Vec<usize>> {
    let of = |node| topology.cpus_of(node).iter().map(|cpu| cpu.index()).collect();
    topology.nodes().map(of).collect()
}

fn ranges(topology: &Topology) -> Vec<(u64, u64, usize, MemoryKind)> {
    let ranges = topology.memory_ranges().iter();
    ranges.map(|r| (r.range.start.as_u64(), r.range.end.as_u64(), r.node.index(), r.kind)).collect()
}

fn distances(topology: &Topology) -> Vec<Vec<u8>> {
    let row = |from| topology.nodes().map(|to| topology.distance(from, to).get()).collect();
    topology.nodes().map(row).collect()
}

fn nearest(topology: &Topology, from: usize) -> Vec<usize> {
    topology.nearest(node(from)).iter().map(|node| node.index()).collect()
}

/// What every PC's first node starts with: the low 640 KiB.
const LOW: (u64, u64, usize, MemoryKind) = (0, 0xa_0000, 0, Conventional);

#[test]
fn one_node() {
    let topology = faultless("one-node");
    assert_eq!(cpus(&topology), [[0, 1]]);
    let all = MemoryRange::EVERYTHING;
    assert_eq!(ranges(&topology), [(0, all.end.as_u64(), 0, Conventional)]);
    assert_eq!(distances(&topology), [[10]]);
}

#[test]
fn two_nodes() {
    let topology = faultless("two-nodes");
    assert_eq!(cpus(&topology), [[0, 1], [2, 3]]);
    assert_eq!(
        ranges(&topology),
        [LOW, (0x10_0000, 0x2000_0000, 0, Conventional), (0x2000_0000, 0x4000_0000, 1, Conventional)]
    );
    assert_eq!(distances(&topology), [[10, 20], [20, 10]]);
    assert_eq!(nearest(&topology, 1), [1, 0]);
}

#[test]
fn four_nodes_asymmetric() {
    let topology = faultless("four-nodes-asymmetric");
    assert_eq!(cpus(&topology), [[0], [1], [2], [3]]);
    let rows = [[10, 21, 31, 41], [22, 10, 32, 42], [33, 23, 10, 43], [44, 34, 24, 10]];
    assert_eq!(distances(&topology), rows);
    assert_eq!(nearest(&topology, 0), [0, 1, 2, 3]);
    assert_eq!(nearest(&topology, 2), [2, 1, 0, 3]);
    assert_eq!(nearest(&topology, 3), [3, 2, 1, 0]);
}

#[test]
fn eight_nodes_64_cpus() {
    let topology = faultless("eight-nodes-64-cpus");
    let rows: Vec<Vec<usize>> = (0..8).map(|node| (node * 8..node * 8 + 8).collect()).collect();
    assert_eq!(cpus(&topology), rows);
    assert_eq!(topology.memory_ranges().len(), 9);
    assert_eq!(ranges(&topology)[8], (0x7000_0000, 0x8000_0000, 7, Conventional));
}

#[test]
fn node_without_memory() {
    let topology = faultless("memoryless-node");
    assert_eq!(cpus(&topology), [vec![0], vec![1, 2], vec![3]]);
    assert!(ranges(&topology).iter().all(|range| range.2 != 1));
    assert_eq!(ranges(&topology)[2], (0x1000_0000, 0x2000_0000, 2, Conventional));
}

#[test]
fn node_without_cpus() {
    let topology = faultless("cpuless-node");
    assert_eq!(cpus(&topology), [vec![0, 1], vec![]]);
    assert_eq!(ranges(&topology)[2], (0x1000_0000, 0x2000_0000, 1, Conventional));
    assert_eq!(distances(&topology), [[10, 17], [17, 10]]);
}

#[test]
fn uneven() {
    let topology = faultless("uneven");
    assert_eq!(cpus(&topology), [vec![0], vec![1, 2, 3], vec![4]]);
    assert_eq!(
        ranges(&topology)[1..],
        [
            (0x10_0000, 0x1000_0000, 0, Conventional),
            (0x1000_0000, 0x5000_0000, 1, Conventional),
            (0x5000_0000, 0x5800_0000, 2, Conventional)
        ]
    );
}

/// QEMU describes each NVDIMM, then the whole hot-plug window, which it gives to the last node.
#[test]
fn interleaved_nvdimms() {
    let (topology, said) = dump::machine("interleaved-nvdimms").discover(0);
    let overlap = |start, end| Diagnostic::OverlappingRanges {
        owner: 0,
        other: 1,
        range: MemoryRange::from_bounds(start, end).unwrap(),
    };
    assert_eq!(said, [overlap(0x1_0000_0000, 0x1_0800_0000), overlap(0x1_1000_0000, 0x1_1800_0000)]);
    assert_eq!(
        ranges(&topology)[3..],
        [
            (0x1_0000_0000, 0x1_0800_0000, 0, NonVolatile),
            (0x1_0800_0000, 0x1_1000_0000, 1, NonVolatile),
            (0x1_1000_0000, 0x1_1800_0000, 0, NonVolatile),
            (0x1_1800_0000, 0x1_2000_0000, 1, NonVolatile),
            (0x1_2000_0000, 0x2_e000_0000, 1, HotPluggable),
        ]
    );
}

/// CPUs 2 and 3 may be plugged in, so they are not there; nor does the SRAT say that the plugged
/// DIMM is node 0's: that is in the AML namespace.
#[test]
fn hot_plug() {
    let topology = faultless("hot-plug");
    assert_eq!(cpus(&topology), [vec![0, 1], vec![]]);
    assert_eq!(ranges(&topology)[3..], [(0x1_0000_0000, 0x2_6000_0000, 1, HotPluggable)]);
}

#[test]
fn hmat() {
    let topology = faultless("hmat");
    assert_eq!(topology.latency(node(0), node(0)), Some(Picoseconds(5_000)));
    assert_eq!(topology.latency(node(0), node(1)), Some(Picoseconds(10_000)));
    assert_eq!(topology.bandwidth(node(0), node(0)), Some(MegabytesPerSecond(200)));
    assert_eq!(topology.bandwidth(node(0), node(1)), Some(MegabytesPerSecond(100)));
    assert_eq!(topology.latency(node(1), node(0)), None);
    let cache = |bytes, line_bytes, associativity, write_policy| {
        Some(MemorySideCache { bytes, line_bytes, level: 1, levels: 1, associativity, write_policy })
    };
    assert_eq!(
        topology.memory_side_cache(node(0)),
        cache(16 << 10, 64, CacheAssociativity::DirectMapped, CacheWritePolicy::WriteBack)
    );
    assert_eq!(
        topology.memory_side_cache(node(1)),
        cache(64 << 10, 128, CacheAssociativity::Complex, CacheWritePolicy::WriteThrough)
    );
}

/// Reads and writes differ; reads count. No SLIT: latency alone orders the nodes.
#[test]
fn hmat_of_two_initiators() {
    let topology = faultless("hmat-two-initiators");
    assert_eq!(cpus(&topology), [vec![0, 1], vec![2, 3], vec![]]);
    let latencies = [[90, 150, 400], [150, 90, 250]];
    let bandwidths = [[20480, 10240, 4096], [10240, 20480, 8192]];
    for initiator in 0..2 {
        for target in 0..3 {
            let (from, to) = (node(initiator), node(target));
            assert_eq!(topology.latency(from, to), Some(Picoseconds(latencies[initiator][target] * 1000)));
            assert_eq!(topology.bandwidth(from, to), Some(MegabytesPerSecond(bandwidths[initiator][target])));
        }
    }
    assert_eq!(nearest(&topology, 1), [1, 0, 2]);
}

#[test]
fn cxl_windows() {
    let topology = faultless("cxl-windows");
    assert_eq!(topology.node_count(), 4);
    assert_eq!(cpus(&topology), [vec![0], vec![1], vec![], vec![]]);
    assert_eq!(
        ranges(&topology)[3..],
        [
            (0x1_0000_0000, 0x2_e000_0000, 1, HotPluggable),
            (0x2_f000_0000, 0x3_f000_0000, 2, CxlWindow),
            (0x3_f000_0000, 0x4_7000_0000, 3, CxlWindow),
        ]
    );
    assert_eq!(topology.proximity(node(3)), 3);
}

#[test]
fn cpus_255() {
    let (topology, said) = dump::machine("255-cpus").discover(0);
    assert_eq!(said, []);
    assert_eq!(topology.cpus().len(), 255);
    assert_eq!(cpus(&topology), [(0..128).collect::<Vec<_>>(), (128..255).collect()]);
    assert_eq!(topology.cpu_of_apic(ApicId(254)), CpuId::new(254));
}

#[test]
fn above_4g() {
    let topology = faultless("above-4g");
    assert_eq!(
        ranges(&topology),
        [
            LOW,
            (0x10_0000, 0x8000_0000, 0, Conventional),
            (0x1_0000_0000, 0x1_c000_0000, 0, Conventional),
            (0x1_c000_0000, 0x2_8000_0000, 1, Conventional),
        ]
    );
}

#[test]
fn unreachable_nodes_are_the_last_fallback() {
    let topology = faultless("unreachable");
    assert_eq!(topology.distance(node(0), node(2)), Distance::UNREACHABLE);
    assert_eq!(nearest(&topology, 0), [0, 1, 2]);
    assert_eq!(nearest(&topology, 1), [1, 0, 2]);
    assert_eq!(nearest(&topology, 2), [2, 1, 0]);
}

#[test]
fn scattered_cpus() {
    let topology = faultless("scattered-cpus");
    assert_eq!(cpus(&topology), [vec![2, 3], vec![0, 1, 4, 5]]);
}

#[test]
fn sixteen_nodes() {
    let topology = faultless("sixteen-nodes");
    assert_eq!(topology.node_count(), 16);
    assert_eq!(ranges(&topology)[16], (0x7800_0000, 0x8000_0000, 15, Conventional));
}

/// Whichever CPU boots is CPU 0; the others keep their order.
#[test]
fn another_boot_cpu() {
    let (topology, said) = dump::machine("two-nodes").discover(2);
    assert_eq!(said, []);
    let ids: Vec<u32> = topology.cpus().iter().map(|entry| entry.apic_id.0).collect();
    assert_eq!(ids, [2, 0, 1, 3]);
    assert_eq!(topology.node_of_cpu(CpuId::BOOT), node(1));
}

/// One topology may be filled again and again: nothing of the last machine stays.
#[test]
fn rediscovery_forgets() {
    for first in dump::machines() {
        let (mut topology, _) = dump::machine(&first).discover(0);
        topology.discover(&dump::machine("two-nodes").firmware(), ApicId(0), &mut |_| {});
        let fresh = faultless("two-nodes");
        assert_eq!(topology.to_string(), fresh.to_string(), "{first}");
        assert_eq!(topology.cpus(), fresh.cpus(), "{first}");
        for node in fresh.nodes() {
            assert_eq!(topology.nearest(node), fresh.nearest(node), "{first}");
        }
    }
}

#[test]
fn display() {
    let text = faultless("hmat").to_string();
    let expected = "\
node0 (domain 0): CPUs 0-1
  0x000000000000..0x0000000a0000   640 KiB conventional
  0x000000100000..0x000010000000   255 MiB conventional
  memory-side cache 16 KiB, 64 byte lines
  to node0: 5.000 ns 200 MB/s
  to node1: 10.000 ns 100 MB/s
node1 (domain 1): CPUs none
  0x000010000000..0x000020000000   256 MiB conventional
  memory-side cache 64 KiB, 128 byte lines
distance    0    1
       0   10   20
       1   20   10";
    assert_eq!(text, expected);
}
