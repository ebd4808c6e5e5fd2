//! The free parts of a memory map, node by node.

use core::fmt;

use topomem_percpu::NodeId;
use x86_64::PhysAddr;

use super::{ADDRESS_END, FRAME_SIZE, MemoryMap, MemoryRange, align_up};
use crate::Topology;

/// Free RAM of one node, on frame boundaries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// The frames.
    pub range: MemoryRange,
    /// The node of every frame in it; a frame that straddles nodes belongs to that of its first
    /// byte.
    pub node: NodeId,
}

/// Iterator over the free [`Piece`]s of a [`MemoryMap`], by address.
#[derive(Clone)]
pub struct Pieces<'a> {
    map: &'a MemoryMap,
    topology: &'a Topology,
    /// Everything below has been visited.
    at: PhysAddr,
}

impl<'a> Pieces<'a> {
    pub(super) fn new(map: &'a MemoryMap, topology: &'a Topology) -> Pieces<'a> {
        Pieces { map, topology, at: PhysAddr::zero() }
    }

    /// The node of the frame at `frame`, and the next frame above it that may have another. A
    /// node's memory may end inside a frame: that frame stays with its first byte.
    fn node_until(&self, frame: PhysAddr) -> (NodeId, PhysAddr) {
        let (node, end) = self.topology.span_at(frame);
        let end = align_up(end.as_u64(), FRAME_SIZE).min(ADDRESS_END);
        (node, PhysAddr::new_truncate(end))
    }
}

impl Iterator for Pieces<'_> {
    type Item = Piece;

    fn next(&mut self) -> Option<Piece> {
        loop {
            let usable = self.map.usable().iter().find(|range| range.end > self.at)?;
            let start = usable.start.max(self.at);
            if let Some(taken) = self.map.reserved().find(|region| region.range.contains(start)) {
                self.at = taken.range.end;
                continue;
            }
            let taken = self.map.reserved().map(|region| region.range.start).filter(|&taken| taken > start);
            let limit = taken.fold(usable.end, PhysAddr::min);
            let (node, mut end) = self.node_until(start);
            while end < limit {
                let (next, next_end) = self.node_until(end);
                if next != node {
                    break;
                }
                end = next_end;
            }
            let end = end.min(limit);
            self.at = end;
            return Some(Piece { range: MemoryRange { start, end }, node });
        }
    }
}

impl fmt::Debug for Pieces<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.clone()).finish()
    }
}
