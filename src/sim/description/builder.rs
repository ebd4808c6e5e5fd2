//! From a few numbers to a [`Blueprint`], and to the [`Sim`] that plays it.

use std::vec;
use std::vec::Vec;

use topomem_numa::frames::{Watermarks, ZoneWatermarks};
use topomem_percpu::{CpuId, PhysAddr};
use topomem_shootdown::TlbFeatures;

use super::blueprint::{Blueprint, BlueprintError, Node};
use crate::PagingFeatures;
use crate::sim::Sim;
use crate::sim::cpu::interrupt::Delivery;

/// Describes a [`Sim`]: one node, one CPU and 64 MiB unless told otherwise.
///
/// CPUs and memory are spread evenly over the nodes that were not given amounts of their own.
#[derive(Debug, Clone)]
pub struct Builder {
    nodes: usize,
    cpus: usize,
    bytes: u64,
    base: u64,
    chunk: Option<u64>,
    node_cpus: Vec<(usize, usize)>,
    node_bytes: Vec<(usize, u64)>,
    distances: Vec<(usize, usize, u8)>,
    delivery: Delivery,
    tlb: TlbFeatures,
    paging: PagingFeatures,
    watermarks: ZoneWatermarks,
}

impl Default for Builder {
    fn default() -> Builder {
        Builder {
            nodes: 1,
            cpus: 1,
            bytes: 64 << 20,
            base: 1 << 20,
            chunk: None,
            node_cpus: Vec::new(),
            node_bytes: Vec::new(),
            distances: Vec::new(),
            delivery: Delivery::default(),
            tlb: TlbFeatures::NONE,
            paging: PagingFeatures::BASIC.with_giant_pages(),
            watermarks: ZoneWatermarks::Frames(Watermarks::NONE),
        }
    }
}

impl Builder {
    /// How many nodes.
    #[must_use]
    pub fn nodes(mut self, nodes: usize) -> Builder {
        self.nodes = nodes;
        self
    }

    /// How many CPUs on all nodes together.
    #[must_use]
    pub fn cpus(mut self, cpus: usize) -> Builder {
        self.cpus = cpus;
        self
    }

    /// How much RAM on all nodes together, in bytes.
    #[must_use]
    pub fn memory(mut self, bytes: u64) -> Builder {
        self.bytes = bytes;
        self
    }

    /// Where RAM begins; 1 MiB unless told otherwise.
    #[must_use]
    pub fn base(mut self, base: PhysAddr) -> Builder {
        self.base = base.as_u64();
        self
    }

    /// `node` has `cpus` CPUs of the total; 0 makes it a memory-only node.
    #[must_use]
    pub fn node_cpus(mut self, node: usize, cpus: usize) -> Builder {
        self.node_cpus.push((node, cpus));
        self
    }

    /// `node` has `bytes` of the total RAM; 0 makes it a memoryless node.
    #[must_use]
    pub fn node_memory(mut self, node: usize, bytes: u64) -> Builder {
        self.node_bytes.push((node, bytes));
        self
    }

    /// The distance between `a` and `b`, both ways; 20 unless told otherwise.
    #[must_use]
    pub fn distance(mut self, a: usize, b: usize, distance: u8) -> Builder {
        self.distances.push((a, b, distance));
        self
    }

    /// Deals RAM to the nodes in turn, in chunks of `bytes`, instead of one range each.
    #[must_use]
    pub fn interleave(mut self, bytes: u64) -> Builder {
        self.chunk = Some(bytes);
        self
    }

    /// Delays each interrupt by up to `polls` poll points of the CPU that receives it, drawn
    /// from `seed`.
    #[must_use]
    pub fn delay_interrupts(mut self, polls: u32, seed: u64) -> Builder {
        self.delivery = Delivery { longest: polls, seed };
        self
    }

    /// What the TLBs offer; nothing unless told otherwise.
    #[must_use]
    pub fn tlb(mut self, features: TlbFeatures) -> Builder {
        self.tlb = features;
        self
    }

    /// What the page walkers offer: pages of 1 GiB and 52 bits of physical addresses unless told
    /// otherwise.
    #[must_use]
    pub fn paging(mut self, features: PagingFeatures) -> Builder {
        self.paging = features;
        self
    }

    /// What a service spares of each zone; nothing unless told otherwise, so that tests can use every frame.
    #[must_use]
    pub fn watermarks(mut self, watermarks: ZoneWatermarks) -> Builder {
        self.watermarks = watermarks;
        self
    }

    /// The machine described so far.
    ///
    /// # Errors
    ///
    /// [`BlueprintError`] where no such machine can exist.
    pub fn blueprint(&self) -> Result<Blueprint, BlueprintError> {
        let named = self.node_cpus.iter().map(|&(node, _)| node);
        let named = named.chain(self.node_bytes.iter().map(|&(node, _)| node));
        let named = named.chain(self.distances.iter().flat_map(|&(a, b, _)| [a, b]));
        if let Some(node) = named.into_iter().find(|&node| node >= self.nodes) {
            return Err(BlueprintError::NoSuchNode(node));
        }
        let own = self.node_cpus.iter().map(|&(node, cpus)| (node, cpus as u64)).collect::<Vec<_>>();
        let cpus = spread(self.nodes, self.cpus as u64, &own);
        let own = self.node_bytes.iter().map(|&(node, bytes)| (node, bytes / 4096)).collect::<Vec<_>>();
        let frames = spread(self.nodes, self.bytes / 4096, &own);
        let mut nodes = vec![Node::default(); self.nodes];
        let mut next = 0;
        for (node, &count) in nodes.iter_mut().zip(&cpus) {
            for _ in 0..count {
                node.cpus.push(CpuId::new(next).ok_or(BlueprintError::Cpus(self.cpus))?);
                next += 1;
            }
        }
        self.place(&mut nodes, &frames);
        let mut distances = vec![vec![20; self.nodes]; self.nodes];
        for (node, row) in distances.iter_mut().enumerate() {
            row[node] = 10;
        }
        for &(a, b, distance) in &self.distances {
            distances[a][b] = distance;
            distances[b][a] = distance;
        }
        let machine =
            Blueprint { nodes, distances, tlb: self.tlb, paging: self.paging, watermarks: self.watermarks };
        machine.check()?;
        Ok(machine)
    }

    /// Deals `frames[node]` frames to each node, from `base` up.
    fn place(&self, nodes: &mut [Node], frames: &[u64]) {
        let chunk = self.chunk.map_or(u64::MAX, |bytes| (bytes / 4096).max(1));
        let mut left = frames.to_vec();
        let mut start = self.base;
        while left.iter().any(|&frames| frames > 0) {
            for (node, left) in nodes.iter_mut().zip(&mut left) {
                let take = chunk.min(*left);
                if take > 0 {
                    node.ranges.push(start..start + take * 4096);
                    start += take * 4096;
                    *left -= take;
                }
            }
        }
    }

    /// Builds the machine. It lives as long as the process, as RAM that topomem was given must.
    ///
    /// # Errors
    ///
    /// [`BlueprintError`] where no such machine can exist, or the host has no room for it.
    pub fn build(self) -> Result<&'static Sim, BlueprintError> {
        Sim::boot(self.blueprint()?, self.delivery)
    }
}

/// `total` over `nodes` shares: the given ones first, the rest evenly over the others.
fn spread(nodes: usize, total: u64, given: &[(usize, u64)]) -> Vec<u64> {
    let mut shares: Vec<Option<u64>> = vec![None; nodes];
    for &(node, amount) in given {
        shares[node] = Some(amount);
    }
    let rest = total.saturating_sub(shares.iter().flatten().sum());
    let open = shares.iter().filter(|share| share.is_none()).count() as u64;
    let mut taken = 0;
    let even = shares.into_iter().map(|share| {
        share.unwrap_or_else(|| {
            let share = rest / open + u64::from(taken < rest % open);
            taken += 1;
            share
        })
    });
    even.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spreads_evenly() {
        let blueprint = Builder::default().nodes(3).cpus(4).memory(48 << 20).blueprint().unwrap();
        let cpus: Vec<usize> = blueprint.nodes.iter().map(|node| node.cpus.len()).collect();
        assert_eq!(cpus, [2, 1, 1]);
        assert!(blueprint.nodes.iter().all(|node| node.bytes() == 16 << 20));
        assert_eq!(blueprint.span(), 1 << 20..49 << 20);
    }

    #[test]
    fn nodes_without_memory_or_cpus() {
        let builder = Builder::default().nodes(3).cpus(2).memory(32 << 20);
        let machine = builder.node_memory(0, 0).node_cpus(2, 0).distance(0, 1, 15).blueprint().unwrap();
        assert_eq!(machine.nodes[0].ranges, []);
        assert_eq!(machine.nodes[2].cpus, []);
        assert_eq!(machine.nodes[1].bytes(), 16 << 20);
        assert_eq!(machine.distances, [[10, 15, 20], [15, 10, 20], [20, 20, 10]]);
    }

    #[test]
    fn interleaved_ranges_do_not_overlap() {
        let machine = Builder::default().nodes(2).memory(16 << 20).interleave(4 << 20).blueprint().unwrap();
        assert_eq!(machine.nodes[0].ranges.len(), 2);
        assert_eq!(machine.nodes[1].ranges[0].start, machine.nodes[0].ranges[0].end);
    }

    #[test]
    fn impossible_machines_are_refused() {
        assert_eq!(Builder::default().nodes(0).blueprint(), Err(BlueprintError::Nodes(0)));
        assert_eq!(Builder::default().cpus(0).blueprint(), Err(BlueprintError::Cpus(0)));
        assert_eq!(Builder::default().memory(0).blueprint(), Err(BlueprintError::NoMemory));
        assert_eq!(Builder::default().distance(0, 1, 20).blueprint(), Err(BlueprintError::NoSuchNode(1)));
        let near = Builder::default().nodes(2).distance(0, 1, 10).blueprint();
        assert_eq!(near, Err(BlueprintError::Distance { from: 0, to: 1, distance: 10 }));
    }
}
