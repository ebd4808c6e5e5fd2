//! The machine as it truly is: the oracle's own copy, whatever the allocator was told.

use alloc::vec::Vec;

use topomem::{CpuId, MemoryMap, NodeId, PhysFrame, Topology};

/// A run of frames and the node that it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeFrames {
    /// The first frame's number: its address / 4096.
    pub first: u64,
    /// How many frames.
    pub count: u64,
    /// Whose they are.
    pub node: NodeId,
}

/// Which CPU and which frame is on which node, and how far apart nodes are.
#[derive(Debug, Clone, Default)]
pub struct Truth {
    node_of_cpu: Vec<NodeId>,
    /// Sorted and disjoint.
    frames: Vec<NodeFrames>,
    /// Row by row, `nodes` by `nodes`.
    distances: Vec<u8>,
    /// By node, where it is known.
    bandwidths: Vec<Option<u32>>,
    nodes: usize,
}

impl Truth {
    /// A machine of `nodes` nodes. `None` without memory to note it.
    pub fn new(
        nodes: usize,
        node_of_cpu: impl Iterator<Item = NodeId>,
        frames: impl Iterator<Item = NodeFrames>,
        distance: impl Fn(NodeId, NodeId) -> u8,
    ) -> Option<Truth> {
        let mut truth = Truth { nodes, ..Truth::default() };
        for node in node_of_cpu {
            truth.node_of_cpu.try_reserve(1).ok()?;
            truth.node_of_cpu.push(node);
        }
        for run in frames {
            truth.frames.try_reserve(1).ok()?;
            truth.frames.push(run);
        }
        truth.frames.sort_unstable_by_key(|run| run.first);
        truth.distances.try_reserve_exact(nodes * nodes).ok()?;
        for from in (0..nodes).filter_map(NodeId::new) {
            truth.distances.extend((0..nodes).filter_map(NodeId::new).map(|to| distance(from, to)));
        }
        truth.bandwidths.try_reserve_exact(nodes).ok()?;
        truth.bandwidths.resize(nodes, None);
        Some(truth)
    }

    /// What `topology` and `map` say, to be taken before anything is distorted. `None` without
    /// memory to note it.
    pub fn from_topology(topology: &Topology, map: &MemoryMap) -> Option<Truth> {
        let frames = map.pieces(topology).map(|piece| NodeFrames {
            first: piece.range.start.as_u64() / 4096,
            count: (piece.range.end - piece.range.start) / 4096,
            node: piece.node,
        });
        let node_of_cpu = topology.cpus().iter().map(|entry| entry.node);
        let distance = |from, to| topology.distance(from, to).get();
        let mut truth = Truth::new(topology.node_count(), node_of_cpu, frames, distance)?;
        for (node, best) in topology.nodes().zip(&mut truth.bandwidths) {
            *best = topology.nodes().filter_map(|from| Some(topology.bandwidth(from, node)?.0)).max();
        }
        Some(truth)
    }

    /// The nodes, in order of number.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> + use<> {
        (0..self.nodes).filter_map(NodeId::new)
    }

    /// Where `cpu` is.
    #[must_use]
    pub fn node_of_cpu(&self, cpu: CpuId) -> NodeId {
        self.node_of_cpu.get(cpu.index()).copied().unwrap_or(NodeId::ZERO)
    }

    /// Whose `frame` is; `None` where no RAM is.
    #[must_use]
    pub fn node_of_frame(&self, frame: PhysFrame) -> Option<NodeId> {
        let number = frame.start_address().as_u64() / 4096;
        let after = self.frames.partition_point(|run| run.first <= number);
        let run = self.frames.get(after.checked_sub(1)?)?;
        if number < run.first + run.count { Some(run.node) } else { None }
    }

    /// The runs of frames, by address.
    #[must_use]
    pub fn frames(&self) -> &[NodeFrames] {
        &self.frames
    }

    /// How far the memory of `to` is from the CPUs of `from`; 255 is out of reach.
    #[must_use]
    pub fn distance(&self, from: NodeId, to: NodeId) -> u8 {
        self.distances.get(from.index() * self.nodes + to.index()).copied().unwrap_or(u8::MAX)
    }

    /// The share of `node` in weighted interleaving: its bandwidth, the least known one if its own is not
    /// known, or 1 if none is.
    #[must_use]
    pub fn weight(&self, node: NodeId) -> u64 {
        let with_memory = self.nodes().filter(|&node| self.frame_count(node) > 0);
        let least = with_memory.filter_map(|node| self.bandwidths.get(node.index()).copied().flatten()).min();
        let own = self.bandwidths.get(node.index()).copied().flatten();
        u64::from(own.or(least).unwrap_or(1))
    }

    /// How many frames `node` has.
    #[must_use]
    pub fn frame_count(&self, node: NodeId) -> u64 {
        self.frames.iter().filter(|run| run.node == node).map(|run| run.count).sum()
    }

    /// The nearest node to `cpu` that has memory at all.
    #[must_use]
    pub fn nearest_memory(&self, cpu: CpuId) -> NodeId {
        let home = self.node_of_cpu(cpu);
        let with_memory = self.nodes().filter(|&node| self.frame_count(node) > 0);
        with_memory.min_by_key(|&node| (self.distance(home, node), node)).unwrap_or(home)
    }
}

#[cfg(test)]
mod tests {
    use topomem::PhysAddr;

    use super::*;

    fn node(index: usize) -> NodeId {
        NodeId::new(index).unwrap()
    }

    fn truth() -> Truth {
        let runs = [
            NodeFrames { first: 300, count: 10, node: node(2) },
            NodeFrames { first: 256, count: 16, node: node(1) },
        ];
        let distance = |from: NodeId, to: NodeId| if from == to { 10 } else { 10 + to.index() as u8 };
        Truth::new(3, [node(0), node(2)].into_iter(), runs.into_iter(), distance).unwrap()
    }

    #[test]
    fn frames_have_the_node_of_their_run() {
        let of =
            |number: u64| truth().node_of_frame(PhysFrame::containing_address(PhysAddr::new(number * 4096)));
        assert_eq!(of(256), Some(node(1)));
        assert_eq!(of(271), Some(node(1)));
        assert_eq!(of(272), None);
        assert_eq!(of(309), Some(node(2)));
        assert_eq!(of(255), None);
    }

    #[test]
    fn a_silent_node_weighs_least() {
        let mut truth = truth();
        assert_eq!([0, 1, 2].map(|index| truth.weight(node(index))), [1, 1, 1]);
        // Node 0 has no memory: its figure counts for nobody else.
        truth.bandwidths = alloc::vec![Some(5), Some(400), None];
        assert_eq!((truth.weight(node(1)), truth.weight(node(2))), (400, 400));
    }

    #[test]
    fn a_memoryless_node_looks_to_the_nearest() {
        assert_eq!(truth().nearest_memory(CpuId::BOOT), node(1));
        assert_eq!(truth().nearest_memory(CpuId::new(1).unwrap()), node(2));
    }
}
