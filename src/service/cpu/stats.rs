//! Counters of CPUs.

use topomem_numa::frames::MagazineStats;
use topomem_percpu::{CpuHeapStats, CpuId, NodeId};

use crate::Machine;
use crate::service::MemoryService;

/// Counters of a single CPU.
///
/// ```
/// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
/// # booted::run(|service, pin| {
/// let stats = service.cpu_stats(pin.cpu());
/// println!("{stats:?}");
/// # Ok(())
/// # }).unwrap();
/// ```
#[derive(Debug, Clone)]
pub struct CpuStats {
    /// The node the CPU works on ([`MemoryService::node_of_cpu`]).
    pub node: NodeId,
    /// The CPU's magazine of frames, if any.
    pub magazine: Option<MagazineStats>,
    /// The CPU's magazines of objects, if any.
    pub heap: Option<CpuHeapStats>,
    /// The CPU's shootdowns, interrupts and flushes.
    pub shootdown: topomem_shootdown::Stats,
}

impl<P: Machine> MemoryService<P> {
    /// Returns the counts of `cpu`. [`Frames::stats`] returns the counts of nodes.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// let stats = service.cpu_stats(pin.cpu());
    /// assert_eq!(stats.node, service.node_of_cpu(pin.cpu()));
    /// # Ok(())
    /// # }).unwrap();
    /// ```
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
