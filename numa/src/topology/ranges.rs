//! Which physical addresses belong to which node.

use arrayvec::ArrayVec;
use topomem_percpu::NodeId;
use x86_64::PhysAddr;

use crate::MemoryRange;

/// How many disjoint ranges fit.
pub(super) const MAX_RANGES: usize = 256;

/// What a range is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MemoryKind {
    /// RAM that is there from the start.
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
    /// Whose memory it is.
    pub node: NodeId,
    /// What it is for.
    pub kind: MemoryKind,
}

/// No room for (all of) a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NoRoom;

/// Disjoint ranges, sorted.
#[derive(Debug)]
pub(super) struct RangeList {
    ranges: ArrayVec<NodeRange, MAX_RANGES>,
}

/// What a machine without any description has.
const ONE_NODE: &[NodeRange] =
    &[NodeRange { range: MemoryRange::EVERYTHING, node: NodeId::ZERO, kind: MemoryKind::Conventional }];

impl RangeList {
    pub(super) const fn new() -> RangeList {
        RangeList { ranges: ArrayVec::new_const() }
    }

    pub(super) fn clear(&mut self) {
        self.ranges.clear();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    pub(super) fn as_slice(&self) -> &[NodeRange] {
        if self.ranges.is_empty() { ONE_NODE } else { &self.ranges }
    }

    /// The lowest range that has some of `range`.
    pub(super) fn first_within(&self, range: &MemoryRange) -> Option<&NodeRange> {
        let first = self.ranges.partition_point(|known| known.range.end <= range.start);
        self.ranges.get(first).filter(|known| known.range.start < range.end)
    }

    /// The node of `addr` (node 0 where no range has it) and the first address above it where
    /// the answer may differ.
    pub(super) fn span_at(&self, addr: PhysAddr) -> (NodeId, PhysAddr) {
        let ranges = self.as_slice();
        let next = ranges.partition_point(|known| known.range.end <= addr);
        match ranges.get(next) {
            Some(known) if known.range.start <= addr => (known.node, known.range.end),
            Some(known) => (NodeId::ZERO, known.range.start),
            None => (NodeId::ZERO, MemoryRange::EVERYTHING.end),
        }
    }

    /// Adds what of `new` no earlier range has, in as many parts as that takes; calls `overlap`
    /// with each earlier range that has some of it.
    pub(super) fn insert(
        &mut self,
        new: NodeRange,
        overlap: &mut dyn FnMut(&NodeRange),
    ) -> Result<(), NoRoom> {
        let mut start = new.range.start;
        let mut index = self.ranges.partition_point(|known| known.range.end <= start);
        while start < new.range.end {
            let gap_end =
                self.ranges.get(index).map_or(new.range.end, |known| known.range.start.min(new.range.end));
            if let Some(range) = MemoryRange::new(start, gap_end) {
                self.ranges.try_insert(index, NodeRange { range, ..new }).map_err(|_| NoRoom)?;
                index += 1;
            }
            let Some(known) = self.ranges.get(index) else { break };
            if known.range.start >= new.range.end {
                break;
            }
            overlap(known);
            start = known.range.end;
            index += 1;
        }
        Ok(())
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

    #[test]
    fn first_wins_and_the_rest_is_cut() {
        let mut list = RangeList::new();
        let mut overlaps = Vec::new();
        list.insert(range(0x2000, 0x3000, 1), &mut |_| unreachable!()).unwrap();
        list.insert(range(0x5000, 0x6000, 2), &mut |_| unreachable!()).unwrap();
        list.insert(range(0x1000, 0x8000, 3), &mut |known| overlaps.push(known.node.index())).unwrap();
        assert_eq!(overlaps, [1, 2]);
        let nodes: Vec<_> = list.as_slice().iter().map(|known| known.node.index()).collect();
        assert_eq!(nodes, [3, 1, 3, 2, 3]);
        assert_eq!(list.as_slice()[2], range(0x3000, 0x5000, 3));
        assert_eq!(list.span_at(PhysAddr::new(0x2fff)), (NodeId::new(1).unwrap(), PhysAddr::new(0x3000)));
        assert_eq!(list.span_at(PhysAddr::new(0)), (NodeId::ZERO, PhysAddr::new(0x1000)));
    }

    #[test]
    fn swallowed_whole_adds_nothing() {
        let mut list = RangeList::new();
        list.insert(range(0x1000, 0x8000, 0), &mut |_| {}).unwrap();
        list.insert(range(0x2000, 0x3000, 1), &mut |_| {}).unwrap();
        assert_eq!(list.as_slice(), [range(0x1000, 0x8000, 0)]);
    }

    #[test]
    fn full_list_says_so() {
        let mut list = RangeList::new();
        for index in 0..MAX_RANGES as u64 {
            list.insert(range(index * 0x2000, index * 0x2000 + 0x1000, 0), &mut |_| {}).unwrap();
        }
        assert_eq!(list.insert(range(0x1000, 0x2000, 1), &mut |_| {}), Err(NoRoom));
    }
}
