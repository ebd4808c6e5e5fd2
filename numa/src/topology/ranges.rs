//! The assignment of physical addresses to nodes.

use topomem_percpu::{NodeId, PhysAddr};

use crate::MemoryRange;
use crate::list::{List, NoRoom};

/// The kind of a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MemoryKind {
    /// RAM present from the start.
    Conventional,
    /// RAM may be plugged in here, and taken out.
    HotPluggable,
    /// Keeps its contents without power.
    NonVolatile,
    /// A CXL fixed memory window: devices may be bound to it.
    CxlWindow,
}

/// A range of one node's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeRange {
    /// The addresses.
    pub range: MemoryRange,
    /// The node of the memory.
    pub node: NodeId,
    /// The kind of the memory.
    pub kind: MemoryKind,
}

/// The number of ranges that a topology describes without memory of the kernel's.
pub(super) const BUILT_IN: usize = if cfg!(miri) { 16 } else { 32 };

/// Disjoint ranges, sorted.
#[derive(Debug)]
pub(super) struct RangeList {
    ranges: List<NodeRange, BUILT_IN>,
    /// For each of the ranges, the bytes of the stated range of which it is a part.
    stated: List<u64, BUILT_IN>,
}

/// The ranges of a machine without any description.
const ONE_NODE: &[NodeRange] =
    &[NodeRange { range: MemoryRange::EVERYTHING, node: NodeId::ZERO, kind: MemoryKind::Conventional }];

impl RangeList {
    pub(super) const fn new() -> RangeList {
        RangeList { ranges: List::new(), stated: List::new() }
    }

    pub(super) fn clear(&mut self) {
        self.ranges.clear();
        self.stated.clear();
    }

    /// Empties the list, which lies in these places from now on, of one length.
    pub(super) fn move_to(&mut self, ranges: &'static mut [NodeRange], stated: &'static mut [u64]) {
        self.ranges.move_to(ranges);
        self.stated.move_to(stated);
    }

    /// Returns how many ranges have room in all.
    pub(super) fn room(&self) -> usize {
        self.ranges.len() + self.ranges.room()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    pub(super) fn as_slice(&self) -> &[NodeRange] {
        if self.ranges.is_empty() { ONE_NODE } else { &self.ranges }
    }

    /// Returns true if any range overlaps `range`.
    pub(super) fn touches(&self, range: &MemoryRange) -> bool {
        let first = self.first_above(range.start);
        self.ranges.get(first).is_some_and(|known| known.range.start < range.end)
    }

    /// Returns the lowest range that has `addr` or begins above it.
    fn first_above(&self, addr: PhysAddr) -> usize {
        self.ranges.partition_point(|known| known.range.end <= addr)
    }

    /// Returns the node of `addr`, and the first address above it at which the result may differ. A
    /// hole between two ranges of one node belongs to that node; node 0 has all other addresses
    /// without a range.
    pub(super) fn span_at(&self, addr: PhysAddr) -> (NodeId, PhysAddr) {
        let ranges = self.as_slice();
        let next = ranges.partition_point(|known| known.range.end <= addr);
        let Some(known) = ranges.get(next) else { return (NodeId::ZERO, MemoryRange::EVERYTHING.end) };
        if known.range.start <= addr {
            return (known.node, known.range.end);
        }
        let below = next.checked_sub(1).and_then(|below| ranges.get(below));
        let node = below.filter(|below| below.node == known.node).map_or(NodeId::ZERO, |below| below.node);
        (node, known.range.start)
    }

    /// Adds `new`. If `new` and an earlier range overlap, the smaller of the two, as stated by
    /// firmware, keeps the memory, and the earlier one if both are of one size; `overlap` is called
    /// with the owner, the other node and the memory.
    ///
    /// If there is no room for a part of `new`, the rest is not added either.
    pub(super) fn insert(
        &mut self,
        new: NodeRange,
        overlap: &mut dyn FnMut(NodeId, NodeId, MemoryRange),
    ) -> Result<(), NoRoom> {
        let bytes = new.range.bytes();
        let mut start = new.range.start;
        let mut index = self.first_above(start);
        // Does the range before `index` end at `start`, and is it a part of `new`?
        let mut joins = false;
        while start < new.range.end {
            let known = self.ranges.get(index).copied().filter(|known| known.range.start < new.range.end);
            let gap_end = known.map_or(new.range.end, |known| known.range.start);
            if let Some(range) = MemoryRange::new(start, gap_end) {
                index = self.place(index, NodeRange { range, ..new }, bytes, joins)?;
                joins = true;
                start = gap_end;
                continue;
            }
            let Some(known) = known else { break };
            let Some(common) = known.range.intersection(&new.range) else { break };
            if self.stated[index] <= bytes {
                overlap(known.node, new.node, common);
                index += 1;
                joins = false;
            } else {
                overlap(new.node, known.node, common);
                index = self.replace(index, NodeRange { range: common, ..new }, bytes, joins)?;
                joins = true;
            }
            start = common.end;
        }
        Ok(())
    }

    /// Adds the part of `window` without a range: to the node of the next range above with some of
    /// the window, or else to that of the last one. Adds nothing if no range has any of it.
    pub(super) fn fill(&mut self, window: MemoryRange, kind: MemoryKind) -> Result<(), NoRoom> {
        let bytes = window.bytes();
        let mut start = window.start;
        let mut index = self.first_above(start);
        let mut last = None;
        while let Some(known) = self.ranges.get(index).copied().filter(|known| known.range.start < window.end)
        {
            if let Some(range) = MemoryRange::new(start, known.range.start) {
                index = self.place(index, NodeRange { range, node: known.node, kind }, bytes, false)?;
            }
            start = known.range.end;
            last = Some(known.node);
            index += 1;
        }
        if let (Some(range), Some(node)) = (MemoryRange::new(start, window.end), last) {
            self.place(index, NodeRange { range, node, kind }, bytes, false)?;
        }
        Ok(())
    }

    /// Puts `part` before the range at `index`, or extends the range before it, which it `joins`.
    /// Returns the start of the ranges above the part.
    fn place(&mut self, index: usize, part: NodeRange, bytes: u64, joins: bool) -> Result<usize, NoRoom> {
        if joins && let Some(before) = index.checked_sub(1) {
            self.ranges[before].range.end = part.range.end;
            return Ok(index);
        }
        self.ranges.insert(index, part)?;
        // There is room, as there was for the range.
        self.stated.insert(index, bytes)?;
        Ok(index + 1)
    }

    /// Takes `part` from the range at `index`, which contains it. Returns the start of the ranges
    /// above the part.
    fn replace(&mut self, index: usize, part: NodeRange, bytes: u64, joins: bool) -> Result<usize, NoRoom> {
        let (known, stated) = (self.ranges[index], self.stated[index]);
        let below = MemoryRange::new(known.range.start, part.range.start);
        let above = MemoryRange::new(part.range.end, known.range.end);
        // One range goes, up to three come.
        let more = usize::from(below.is_some()) + usize::from(above.is_some());
        if more > self.ranges.room() {
            return Err(NoRoom);
        }
        self.ranges.remove(index);
        self.stated.remove(index);
        let mut next = index;
        if let Some(range) = below {
            next = self.place(next, NodeRange { range, ..known }, stated, false)?;
        }
        next = self.place(next, part, bytes, joins)?;
        if let Some(range) = above {
            self.place(next, NodeRange { range, ..known }, stated, false)?;
        }
        Ok(next)
    }
}

#[cfg(test)]
#[cfg(not(miri))]
mod tests {
    use std::vec::Vec;

    use super::*;

    fn range(start: u64, end: u64, node: usize) -> NodeRange {
        NodeRange {
            range: MemoryRange::from_bounds(start, end).unwrap(),
            node: NodeId::new(node).unwrap(),
            kind: MemoryKind::Conventional,
        }
    }

    /// Returns the list's ranges as start, end and node.
    fn contents(list: &RangeList) -> Vec<(u64, u64, usize)> {
        let ranges = list.as_slice().iter();
        ranges
            .map(|known| (known.range.start.as_u64(), known.range.end.as_u64(), known.node.index()))
            .collect()
    }

    #[test]
    fn the_smaller_range_wins_in_either_order() {
        let ranges = [range(0x1000, 0x8000, 3), range(0x2000, 0x3000, 1), range(0x5000, 0x6000, 2)];
        for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2]] {
            let mut list = RangeList::new();
            let mut overlaps = Vec::new();
            for index in order {
                let heard =
                    &mut |owner: NodeId, other: NodeId, _| overlaps.push((owner.index(), other.index()));
                list.insert(ranges[index], heard).unwrap();
            }
            overlaps.sort_unstable();
            assert_eq!(overlaps, [(1, 3), (2, 3)]);
            let expected = [
                (0x1000, 0x2000, 3),
                (0x2000, 0x3000, 1),
                (0x3000, 0x5000, 3),
                (0x5000, 0x6000, 2),
                (0x6000, 0x8000, 3),
            ];
            assert_eq!(contents(&list), expected);
            assert_eq!(list.span_at(PhysAddr::new(0x2fff)), (NodeId::new(1).unwrap(), PhysAddr::new(0x3000)));
            assert_eq!(list.span_at(PhysAddr::new(0)), (NodeId::ZERO, PhysAddr::new(0x1000)));
        }
    }

    /// Part in a gap and part over a larger range: still one range.
    #[test]
    fn a_range_over_the_end_of_a_larger_one_stays_whole() {
        for order in [[0, 1], [1, 0]] {
            let ranges = [range(0x1000, 0x8000, 1), range(0x7000, 0xa000, 2)];
            let mut list = RangeList::new();
            order.iter().for_each(|&index| list.insert(ranges[index], &mut |_, _, _| {}).unwrap());
            assert_eq!(contents(&list), [(0x1000, 0x7000, 1), (0x7000, 0xa000, 2)]);
        }
        let mut list = RangeList::new();
        for larger in [range(0, 0x8000, 1), range(0x9000, 0x11000, 2)] {
            list.insert(larger, &mut |_, _, _| {}).unwrap();
        }
        list.insert(range(0x7000, 0xa000, 3), &mut |_, _, _| {}).unwrap();
        assert_eq!(contents(&list), [(0, 0x7000, 1), (0x7000, 0xa000, 3), (0xa000, 0x11000, 2)]);
    }

    /// The size stated by firmware counts, not the rest of a range.
    #[test]
    fn the_first_of_one_size_wins() {
        let mut list = RangeList::new();
        let ranges = [
            range(0x1000, 0x5000, 0),
            range(0x4000, 0x5000, 1),
            range(0x2000, 0x6000, 2),
            range(0, 0x8000, 3),
        ];
        ranges.iter().for_each(|&range| list.insert(range, &mut |_, _, _| {}).unwrap());
        let expected = [
            (0, 0x1000, 3),
            (0x1000, 0x4000, 0),
            (0x4000, 0x5000, 1),
            (0x5000, 0x6000, 2),
            (0x6000, 0x8000, 3),
        ];
        assert_eq!(contents(&list), expected);
    }

    /// The rest of a large range is no more specific than the range was.
    #[test]
    fn the_rest_of_a_large_range_gives_way() {
        let mut list = RangeList::new();
        let ranges = [range(0, 0x1_0000, 0), range(0x2000, 0xe000, 1), range(0, 0x3000, 2)];
        ranges.iter().for_each(|&range| list.insert(range, &mut |_, _, _| {}).unwrap());
        assert_eq!(contents(&list), [(0, 0x3000, 2), (0x3000, 0xe000, 1), (0xe000, 0x1_0000, 0)]);
    }

    #[test]
    fn a_hole_of_one_node_is_its_own() {
        let mut list = RangeList::new();
        for known in [range(0x1000, 0x2000, 2), range(0x4000, 0x5000, 2), range(0x7000, 0x8000, 1)] {
            list.insert(known, &mut |_, _, _| {}).unwrap();
        }
        assert_eq!(list.span_at(PhysAddr::new(0x3000)), (NodeId::new(2).unwrap(), PhysAddr::new(0x4000)));
        assert_eq!(list.span_at(PhysAddr::new(0x6000)), (NodeId::ZERO, PhysAddr::new(0x7000)));
        assert_eq!(list.span_at(PhysAddr::new(0x800)), (NodeId::ZERO, PhysAddr::new(0x1000)));
    }

    #[test]
    fn a_window_is_filled_from_above() {
        let mut list = RangeList::new();
        for known in [range(0x2000, 0x3000, 1), range(0x5000, 0x6000, 2)] {
            list.insert(known, &mut |_, _, _| {}).unwrap();
        }
        let window = |start, end| MemoryRange::from_bounds(start, end).unwrap();
        assert!(list.touches(&window(0x5fff, 0x7000)) && !list.touches(&window(0x3000, 0x5000)));
        list.fill(window(0x3000, 0x5000), MemoryKind::CxlWindow).unwrap();
        assert_eq!(list.as_slice().len(), 2);
        list.fill(window(0x1000, 0x8000), MemoryKind::CxlWindow).unwrap();
        let expected = [
            (0x1000, 0x2000, 1),
            (0x2000, 0x3000, 1),
            (0x3000, 0x5000, 2),
            (0x5000, 0x6000, 2),
            (0x6000, 0x8000, 2),
        ];
        assert_eq!(contents(&list), expected);
    }

    #[test]
    fn full_list_says_so() {
        let mut list = RangeList::new();
        for index in 0..BUILT_IN as u64 {
            list.insert(range(index * 0x2000, index * 0x2000 + 0x1000, 0), &mut |_, _, _| {}).unwrap();
        }
        assert_eq!(list.insert(range(0x1000, 0x2000, 1), &mut |_, _, _| {}), Err(NoRoom));
        // A smaller range that would cut a known one in three leaves it whole.
        assert_eq!(list.insert(range(0x2200, 0x2400, 1), &mut |_, _, _| {}), Err(NoRoom));
        assert_eq!(list.span_at(PhysAddr::new(0x2200)), (NodeId::ZERO, PhysAddr::new(0x3000)));
        // A range that takes all of a known one needs no room.
        list.insert(range(0x2000, 0x3000, 1), &mut |_, _, _| {}).unwrap();
        assert_eq!(list.as_slice().len(), BUILT_IN);
    }
}
