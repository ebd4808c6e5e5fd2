//! The free parts of a memory map, node by node.

use core::fmt;

use topomem_percpu::{NodeId, PhysAddr};

use super::{ADDRESS_END, FRAME_SIZE, LOW_MEMORY, MemoryMap, MemoryRange, align_up};
use crate::Topology;

/// Free RAM of one node, on frame boundaries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// The frames.
    pub range: MemoryRange,
    /// The node of every frame in it; a frame that straddles nodes belongs to the node of its first
    /// byte.
    pub node: NodeId,
}

/// Iterator over the free [`Piece`]s of a [`MemoryMap`], by address.
#[derive(Clone)]
pub struct Pieces<'a> {
    map: &'a MemoryMap,
    topology: &'a Topology,
    /// The next usable range to visit.
    usable: usize,
    /// The number of reserved regions that begin at or below `at`, and the end of the last of them.
    reserved: usize,
    reserved_until: PhysAddr,
    /// Everything below has been visited.
    at: PhysAddr,
    /// Regions of this name count as free.
    but: Option<&'static str>,
}

impl<'a> Pieces<'a> {
    pub(super) fn new(map: &'a MemoryMap, topology: &'a Topology) -> Pieces<'a> {
        let (at, reserved_until) = (PhysAddr::ZERO, LOW_MEMORY.range.end);
        Pieces { map, topology, usable: 0, reserved: 0, reserved_until, at, but: None }
    }

    /// Returns the pieces that are free but for the regions reserved for `name`.
    pub(super) fn but(map: &'a MemoryMap, topology: &'a Topology, name: &'static str) -> Pieces<'a> {
        Pieces { but: Some(name), ..Pieces::new(map, topology) }
    }

    /// Returns the end of the reserved memory around `start`, or the start of the next: both only
    /// grow.
    fn reserved_around(&mut self, start: PhysAddr) -> (PhysAddr, Option<PhysAddr>) {
        let regions = self.map.reserved_by_start();
        while let Some(region) = regions.get(self.reserved).filter(|region| region.range.start <= start) {
            if self.but != Some(region.name) {
                self.reserved_until = self.reserved_until.max(region.range.end);
            }
            self.reserved += 1;
        }
        let next = regions[self.reserved..].iter().find(|region| self.but != Some(region.name));
        (self.reserved_until, next.map(|region| region.range.start))
    }

    /// Returns the node of the frame at `frame`, and the next frame above it that may have another
    /// node. A node's memory may end inside a frame: that frame belongs to the node of its first
    /// byte.
    fn node_until(&self, frame: PhysAddr) -> (NodeId, PhysAddr) {
        let (node, end) = self.topology.boot_span_at(frame);
        let end = align_up(end.as_u64(), FRAME_SIZE).min(ADDRESS_END);
        (node, PhysAddr::new(end))
    }
}

impl Iterator for Pieces<'_> {
    type Item = Piece;

    fn next(&mut self) -> Option<Piece> {
        loop {
            let usable = self.map.usable().get(self.usable)?;
            let Some(usable) = usable.whole_frames().filter(|usable| usable.end > self.at) else {
                self.usable += 1;
                continue;
            };
            let start = usable.start.max(self.at);
            let (reserved_until, next_reserved) = self.reserved_around(start);
            if reserved_until > start {
                self.at = reserved_until;
                continue;
            }
            let limit = next_reserved.map_or(usable.end, |next| next.min(usable.end));
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
