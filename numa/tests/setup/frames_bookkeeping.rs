//! Where the bookkeeping of each node lies: on that node, as far as it has room.
// These fill memory, which takes Miri minutes; what is unsafe runs in frames_basic.
#![cfg(not(any(loom, miri)))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests")]

#[path = "../frames/frames_support/mod.rs"]
mod frames_support;
#[path = "../tables/tables_support/mod.rs"]
mod tables_support;

use frames_support::{Host, MIB, build, number, online, pin};
use tables_support::model::{Cpu, Machine, Memory};
use tables_support::node;
use topomem_numa::frames::{DoubleFrees, FrameRequest, Frames, FramesConfig, PerFrameTable, ZeroedFrames};
use topomem_numa::{BootAllocator, MemoryMap, MemoryRange};

/// A machine with a CPU on each node, by real tables: start and end in bytes, node.
fn frames(ranges: &[(u64, u64, u32)], distances: Vec<Vec<u8>>) -> &'static Frames<Host> {
    let machine = Machine {
        cpus: (0..distances.len() as u32)
            .map(|apic| Cpu { apic, proximity: Some(apic), enabled: true })
            .collect(),
        memory: ranges
            .iter()
            .map(|&(base, end, proximity)| Memory { proximity, base, bytes: end - base, flags: 1 })
            .collect(),
        distances: Some(distances),
        ..Machine::default()
    };
    let (topology, diagnostics) = machine.tables().discover(0);
    assert_eq!(diagnostics, []);
    let mut map = MemoryMap::new();
    for &(start, end, _) in ranges {
        map.add_usable(MemoryRange::from_bounds(start, end).unwrap()).unwrap();
    }
    let config = FramesConfig {
        table: PerFrameTable::Present,
        double_frees: DoubleFrees::FoundAtOnce,
        zeroed: ZeroedFrames::Frames(16),
        ..FramesConfig::without_reserve()
    };
    let host = Host::with(ranges.iter().map(|range| range.1).max().unwrap());
    build(host, &mut BootAllocator::new(&mut map, &topology), &config)
}

/// The parts of a node's bookkeeping: what, start, end.
fn parts(frames: &Frames<Host>, index: usize) -> Vec<(&'static str, u64, u64)> {
    let mut parts = Vec::new();
    frames.bookkeeping(node(index), |part| {
        let start = frames.platform().address_of(part.first);
        parts.push((part.what, start, start + part.bytes));
    });
    parts
}

/// Fails if a part of the bookkeeping of node `index` is not wholly in one of `ranges`.
fn assert_in(frames: &Frames<Host>, index: usize, ranges: &[(u64, u64)]) {
    for (what, start, end) in parts(frames, index) {
        let holds = |range: &(u64, u64)| range.0 <= start && end <= range.1;
        assert!(
            ranges.iter().any(holds),
            "{what} of node {index} at {start:#x}..{end:#x}, not in {ranges:x?}"
        );
    }
}

/// Fails if two parts overlap, or the allocator hands out memory of one. Returns how many frames it handed out.
fn assert_apart(frames: &Frames<Host>, nodes: usize) -> usize {
    let mut all: Vec<(u64, u64)> = Vec::new();
    (0..nodes).for_each(|index| all.extend(parts(frames, index).iter().map(|part| (part.1, part.2))));
    all.sort_unstable();
    assert!(all.windows(2).all(|pair| pair[0].1 <= pair[1].0), "{all:x?}");
    online(frames, nodes);
    let taken: Vec<u64> =
        std::iter::from_fn(|| frames.alloc(&pin(0), &FrameRequest::frame().emergency()).ok())
            .map(number)
            .collect();
    for &frame in &taken {
        let (start, end) = (frame * 4096, (frame + 1) * 4096);
        assert!(all.iter().all(|part| part.1 <= start || end <= part.0), "frame {frame:#x} is bookkeeping");
    }
    assert_eq!(frames.validate().unwrap().free, 0);
    taken.len()
}

#[test]
fn each_nodes_bookkeeping_lies_on_that_node() {
    let ranges =
        [(16 * MIB, 32 * MIB, 0), (32 * MIB, 48 * MIB, 1), (48 * MIB, 56 * MIB, 0), (60 * MIB, 72 * MIB, 2)];
    let frames = frames(&ranges, vec![vec![10, 20, 20], vec![20, 10, 20], vec![20, 20, 10]]);
    assert_in(frames, 0, &[(16 * MIB, 32 * MIB), (48 * MIB, 56 * MIB)]);
    assert_in(frames, 1, &[(32 * MIB, 48 * MIB)]);
    assert_in(frames, 2, &[(60 * MIB, 72 * MIB)]);
    for index in 0..3 {
        let what: Vec<&str> = parts(frames, index).iter().map(|part| part.0).collect();
        for kind in ["node", "pool of zeroed frames", "magazines", "region", "managed spans", "bitmaps"] {
            assert!(what.contains(&kind), "node {index} has no {kind}: {what:?}");
        }
        for kind in ["states of blocks", "buddy", "marks", "per-frame table"] {
            assert!(what.contains(&kind), "node {index} has no {kind}: {what:?}");
        }
    }
    assert!(assert_apart(frames, 3) > 13_000);
}

/// Node 1 has no memory. Node 2 is nearer to it than node 0 is.
#[test]
fn bookkeeping_of_a_node_without_memory_lies_on_the_nearest_that_has_some() {
    let ranges = [(16 * MIB, 32 * MIB, 0), (32 * MIB, 48 * MIB, 2)];
    let frames = frames(&ranges, vec![vec![10, 30, 20], vec![30, 10, 15], vec![20, 15, 10]]);
    assert_eq!(parts(frames, 1).len(), 1, "its counters: its CPU has its magazine from node 2");
    assert_in(frames, 1, &[(32 * MIB, 48 * MIB)]);
    assert_apart(frames, 3);
}

/// Node 1 has two frames and node 2 one, less than their bookkeeping needs: the rest lies on the nearest node that has
/// room, and all is whole.
#[test]
fn bookkeeping_that_a_node_has_no_room_for_lies_on_the_nearest_that_has() {
    let small = 32 * MIB;
    let ranges = [
        (16 * MIB, 24 * MIB, 0),
        (small, small + 8192, 1),
        (small + 8192, small + 12288, 2),
        (40 * MIB, 48 * MIB, 3),
    ];
    let distances =
        vec![vec![10, 20, 20, 20], vec![20, 10, 40, 15], vec![20, 40, 10, 30], vec![20, 15, 30, 10]];
    let frames = frames(&ranges, distances);
    assert_in(frames, 0, &[(16 * MIB, 24 * MIB)]);
    assert_in(frames, 1, &[(small, small + 8192), (40 * MIB, 48 * MIB)]);
    assert_in(frames, 2, &[(small + 8192, small + 12288), (16 * MIB, 24 * MIB)]);
    let own = |part: &(&str, u64, u64)| (small..small + 12288).contains(&part.1);
    assert!(parts(frames, 1).iter().any(own) && parts(frames, 2).iter().any(own), "what fits is there");
    assert!(assert_apart(frames, 4) > 4_000);
}
