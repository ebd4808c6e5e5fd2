//! Memory maps and boot allocations against a model that knows every frame.
// Safe code throughout, and Miri takes minutes for it.
#![cfg(not(miri))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests")]

mod tables_support;

use proptest::collection::vec;
use proptest::prelude::*;
use tables_support::model::{Cpu, Machine, Memory};
use tables_support::node;
use topomem_numa::{AddressBits, BootAllocError, BootAllocator, MemoryMap, MemoryRange, NodeId, Topology};
use topomem_percpu::PhysAddr;

const FRAMES: u64 = 1024;
const FRAME: u64 = 4096;
/// The model's frames start here, below the end of the low 1 MiB.
const BASE: u64 = 0xc_0000;

fn config() -> ProptestConfig {
    ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() }
}

/// Ranges that mostly do not start or end on a frame.
fn ranges(count: usize) -> impl Strategy<Value = Vec<(u64, u64)>> {
    let end = FRAMES * FRAME;
    vec((0..end, 1..end / 4), 0..count).prop_map(move |ranges| {
        ranges.into_iter().map(|(start, length)| (BASE + start, BASE + (start + length).min(end))).collect()
    })
}

/// Four nodes, their ranges interleaved, with bounds anywhere and holes between.
fn topology(parts: &[(u64, u64)]) -> Box<Topology> {
    let memory = parts.iter().zip((0..4).cycle());
    let machine = Machine {
        cpus: (0..4).map(|apic| Cpu { apic, proximity: Some(apic), enabled: true }).collect(),
        memory: memory
            .map(|(part, proximity)| Memory { proximity, base: part.0, bytes: part.1 - part.0, flags: 1 })
            .collect(),
        distances: Some(vec![vec![10, 30, 20, 255], vec![30, 10, 20, 40], vec![20; 4], vec![20; 4]]).map(
            |mut rows| {
                (rows[2][2], rows[3][3]) = (10, 10);
                rows
            },
        ),
        ..Machine::default()
    };
    machine.tables().discover(0).0
}

fn map(usable: &[(u64, u64)], reserved: &[(u64, u64)]) -> MemoryMap {
    let mut map = MemoryMap::new();
    let range = |bounds: &(u64, u64)| MemoryRange::from_bounds(bounds.0, bounds.1).unwrap();
    let names = ["ACPI", "kernel image", "module"];
    usable.iter().for_each(|bounds| map.add_usable(range(bounds)).unwrap());
    for (bounds, name) in reserved.iter().zip(names.iter().cycle()) {
        map.reserve(range(bounds), name).unwrap();
    }
    map
}

/// The owner of each frame that is free.
fn model(usable: &[(u64, u64)], reserved: &[(u64, u64)], topology: &Topology) -> Vec<Option<NodeId>> {
    (0..FRAMES)
        .map(|index| {
            let (start, end) = (BASE + index * FRAME, BASE + (index + 1) * FRAME);
            // Two ranges may meet inside a frame.
            let mut at = start;
            while let Some(range) = usable.iter().find(|range| range.0 <= at && at < range.1 && at < end) {
                at = range.1;
            }
            let whole = at >= end;
            let touched = reserved.iter().any(|range| range.0 < end && start < range.1);
            (start >= 0x10_0000 && whole && !touched).then(|| topology.node_of_addr(PhysAddr::new(start)))
        })
        .collect()
}

fn free(map: &MemoryMap, topology: &Topology) -> Vec<Option<NodeId>> {
    let mut frames = vec![None; FRAMES as usize];
    let mut last = PhysAddr::ZERO;
    for piece in map.pieces(topology) {
        let MemoryRange { start, end } = piece.range;
        assert!(last <= start && start < end);
        assert!(start.is_aligned(FRAME) && end.is_aligned(FRAME));
        last = end;
        for index in (start.as_u64() - BASE) / FRAME..(end.as_u64() - BASE) / FRAME {
            frames[index as usize] = Some(piece.node);
        }
    }
    frames
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn pieces_are_the_free_frames(usable in ranges(8), reserved in ranges(8), parts in ranges(12)) {
        let topology = topology(&parts);
        let map = map(&usable, &reserved);
        // Two ranges that only together cover a frame leave it out: the model asks for one range.
        prop_assert_eq!(free(&map, &topology), model(&usable, &reserved, &topology));
    }

    #[test]
    fn boot_allocations_are_free_memory_of_the_nearest_node(
        usable in ranges(6),
        reserved in ranges(4),
        parts in ranges(12),
        requests in vec((1u64..200_000, 0u32..18, 0usize..4, 0u64..FRAMES), 1..24),
    ) {
        let topology = topology(&parts);
        let mut map = map(&usable, &reserved);
        let mut left = free(&map, &topology);
        let mut boot = BootAllocator::new(&mut map, &topology);
        for (bytes, shift, wanted, limit) in requests {
            let (align, count) = (1u64 << shift, bytes.div_ceil(FRAME));
            let limit = BASE + limit * FRAME;
            // All the memory is below 16 MiB, so no frame is better than another of its node.
            let fits = |wanted: NodeId| {
                (0..FRAMES - count).find(|&first| {
                    (BASE + first * FRAME).is_multiple_of(align)
                        && BASE + (first + count) * FRAME <= limit
                        && (first..first + count).all(|index| left[index as usize] == Some(wanted))
                })
            };
            let expected = topology.nearest(node(wanted)).iter().find_map(|&near| fits(near));
            let limit = PhysAddr::new(limit);
            match boot.alloc_below(bytes, align, node(wanted), limit) {
                Ok(start) => {
                    let first = (start.as_u64() - BASE) / FRAME;
                    prop_assert_eq!(Some(first), expected);
                    (first..first + count).for_each(|index| left[index as usize] = None);
                }
                Err(BootAllocError::Exhausted { .. }) => prop_assert_eq!(expected, None),
                Err(other) => prop_assert!(false, "{}", other),
            }
        }
        let map = boot.finish();
        prop_assert_eq!(free(map, &topology), left);
    }
}

/// A node's memory may end inside a frame: the frame is that of its first byte, and not lost.
#[test]
fn a_boundary_inside_a_frame() {
    let topology = topology(&[(0x10_0000, 0x10_1800), (0x10_1800, 0x10_4000)]);
    let map = map(&[(0x10_0000, 0x10_4000)], &[]);
    let pieces: Vec<_> = map.pieces(&topology).map(|piece| (piece.range, piece.node)).collect();
    let range = |start, end| MemoryRange::from_bounds(start, end).unwrap();
    assert_eq!(pieces, [(range(0x10_0000, 0x10_2000), node(0)), (range(0x10_2000, 0x10_4000), node(1))]);
}

/// Maps of hundreds of entries are seen: thousands of usable ranges, each cut by a reservation.
#[test]
fn thousands_of_entries() {
    let mut map = MemoryMap::new();
    map.extend(vec![std::mem::MaybeUninit::uninit(); 6 * 6000].leak());
    let start = |index: u64| 0x10_0000 + index * 0x1_0000;
    for index in 0..4096 {
        map.add_usable(MemoryRange::from_bounds(start(index), start(index) + 0x8000).unwrap()).unwrap();
    }
    for index in (0..4096).rev() {
        let taken = MemoryRange::from_bounds(start(index) + 0x2000, start(index) + 0x2fff).unwrap();
        map.reserve(taken, "loader").unwrap();
    }
    let topology = Topology::new();
    assert_eq!(map.pieces(&topology).count(), 2 * 4096);
    assert_eq!(map.pieces(&topology).map(|piece| piece.range.frames()).sum::<u64>(), 7 * 4096);
    // There is room for the boot allocator.
    let mut boot = BootAllocator::new(&mut map, &topology);
    (0..1000).for_each(|_| _ = boot.alloc(0x3000, 1, NodeId::ZERO).unwrap());
    assert_eq!(boot.pieces().map(|piece| piece.range.frames()).sum::<u64>(), 7 * 4096 - 3000);
}

#[test]
fn memory_beyond_the_address_bits_is_left_out() {
    let range = |start, end| MemoryRange::from_bounds(start, end).unwrap();
    let bits = AddressBits::new(36).unwrap();
    for early in [true, false] {
        let mut map = MemoryMap::new();
        if early {
            map.limit_addresses(bits);
        }
        map.add_usable(range(1 << 20, 1 << 30)).unwrap();
        map.add_usable(range((1 << 36) - 4096, (1 << 36) + 4096)).unwrap();
        map.add_usable(range(1 << 40, (1 << 40) + 4096)).unwrap();
        map.limit_addresses(bits);
        assert_eq!(map.usable(), [range(1 << 20, 1 << 30), range((1 << 36) - 4096, 1 << 36)]);
        let beyond = map.beyond_address_bits().unwrap();
        assert_eq!(beyond.range, range(1 << 36, (1 << 40) + 4096));
        assert_eq!(beyond.bits.get(), 36);
        assert!(beyond.to_string().contains("36 bits"));
    }
    assert_eq!((AddressBits::new(19), AddressBits::new(53)), (None, None));
    assert_eq!(MemoryMap::new().beyond_address_bits(), None);
}

/// The end of physical memory: whatever is asked, nothing wraps.
#[test]
fn the_last_frames_of_physical_memory() {
    let top = (1 << 52) - 1;
    let mut map = MemoryMap::new();
    let all = MemoryRange { start: PhysAddr::new(0), end: PhysAddr::new(top) };
    map.add_usable(all).unwrap();
    map.reserve(MemoryRange { start: PhysAddr::new(top - 1), end: PhysAddr::new(top) }, "top").unwrap();
    map.reserve(MemoryRange { start: PhysAddr::new(top), end: PhysAddr::new(0) }, "backwards").unwrap();
    map.add_usable(MemoryRange { start: PhysAddr::new(top), end: PhysAddr::new(0) }).unwrap();
    let topology = Topology::new();
    let pieces: Vec<_> = map.pieces(&topology).map(|piece| piece.range).collect();
    let end = MemoryRange::EVERYTHING.end;
    assert_eq!(pieces, [MemoryRange::new(PhysAddr::new(0x10_0000), end).unwrap()]);
    let mut boot = BootAllocator::new(&mut map, &topology);
    for (bytes, align) in [(u64::MAX, 1), (1 << 52, 1), (1, 1 << 63), (1 << 51, 1 << 51), (4096, 1 << 51)] {
        let limit = PhysAddr::new(top);
        let found = boot.alloc_below(bytes, align, NodeId::ZERO, limit);
        assert!(found.is_err() || found.unwrap().as_u64().is_multiple_of(align), "{bytes:#x} {align:#x}");
    }
}
