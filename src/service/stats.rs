//! What a CPU has done.

use topomem_numa::frames::MagazineStats;
use topomem_percpu::{CpuHeapStats, CpuId, NodeId};

use super::MemoryService;
use crate::Machine;

/// One CPU's counters.
#[derive(Debug, Clone)]
pub struct CpuStats {
    /// The node that it works on ([`MemoryService::node_of_cpu`]).
    pub node: NodeId,
    /// Its magazine of frames, if it has one.
    pub magazine: Option<MagazineStats>,
    /// Its magazines of objects, if it has some.
    pub heap: Option<CpuHeapStats>,
    /// Its shootdowns, IPIs and flushes.
    pub shootdown: topomem_shootdown::Stats,
}

impl<P: Machine> MemoryService<P> {
    /// What `cpu` has counted. Nodes' counters are [`Frames::stats`]'s.
    ///
    /// [`Frames::stats`]: topomem_numa::frames::Frames::stats
    pub fn cpu_stats(&self, cpu: CpuId) -> CpuStats {
        CpuStats {
            node: self.node_of_cpu(cpu),
            magazine: self.frames.cpu_stats(cpu),
            heap: self.heap().and_then(|heap| heap.heap().cpu_stats(cpu)),
            shootdown: self.shootdown.stats(cpu),
        }
    }
}
