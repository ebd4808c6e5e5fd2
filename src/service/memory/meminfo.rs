//! The memory of the machine and of its nodes, for people.

use core::fmt;

use topomem_numa::frames::NodeStats;
use topomem_percpu::NodeId;

use crate::Machine;
use crate::service::MemoryService;

/// The memory of the machine, in the form of `/proc/meminfo`.
///
/// ```
/// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
/// # booted::run(|service, pin| {
/// assert!(service.meminfo().to_string().contains("MemTotal"));
/// # let _ = pin;
/// # Ok(())
/// # }).unwrap();
/// ```
pub struct MemInfo<'a, P: Machine>(&'a MemoryService<P>);

/// Counts of requests served by nodes, in the form of `numastat`: a column for each node.
pub struct NumaStat<'a, P: Machine>(&'a MemoryService<P>);

impl<P: Machine> MemoryService<P> {
    /// Returns the machine's memory for people, in the form of `/proc/meminfo`: memory managed by
    /// the allocator, free, in use and out of circulation. The figures are taken from
    /// [`Frames::stats`](topomem_numa::frames::Frames::stats) when the value is written.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, _| {
    /// println!("{}", service.meminfo());
    /// # assert!(service.meminfo().to_string().contains("MemTotal"));
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    #[must_use]
    pub const fn meminfo(&self) -> MemInfo<'_, P> {
        MemInfo(self)
    }

    /// Returns counts of requests served by nodes, for people, in the form of `numastat`. The
    /// figures are taken from [`Frames::stats`](topomem_numa::frames::Frames::stats) when the value
    /// is written.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, _| {
    /// println!("{}", service.numastat());
    /// # assert!(service.numastat().to_string().contains("numa_hit"));
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    #[must_use]
    pub const fn numastat(&self) -> NumaStat<'_, P> {
        NumaStat(self)
    }

    /// Calls `look` with the figures of each node with memory.
    fn for_each_node(&self, mut look: impl FnMut(NodeId, NodeStats) -> fmt::Result) -> fmt::Result {
        let nodes = self.topology().into_iter().flat_map(topomem_numa::Topology::nodes);
        for node in nodes {
            if let Some(stats) = self.frames.stats(node) {
                look(node, stats)?;
            }
        }
        Ok(())
    }
}

impl<P: Machine> fmt::Display for MemInfo<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut total, mut free, mut zeroed, mut cached, mut retired) = (0, 0, 0, 0, 0);
        self.0.for_each_node(|_, stats| {
            total += stats.managed();
            free += stats.all_free();
            zeroed += stats.zeroed.frames;
            cached += stats.in_magazines;
            retired += stats.retired();
            Ok(())
        })?;
        for (name, frames) in [
            ("MemTotal:", total),
            ("MemFree:", free),
            ("MemAvailable:", free),
            ("MemUsed:", total.saturating_sub(free + retired)),
            ("Zeroed:", zeroed),
            ("PerCpuFree:", cached),
            ("HardwareCorrupted:", retired),
        ] {
            writeln!(f, "{name:19}{:8} kB", frames * 4)?;
        }
        Ok(())
    }
}

/// A figure of a node.
type Figure = fn(&NodeStats) -> u64;

impl<P: Machine> fmt::Display for NumaStat<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:16}", "")?;
        self.0.for_each_node(|node, _| write!(f, "{:>15}{}", "node", node.index()))?;
        writeln!(f)?;
        let rows: [(&str, Figure); 5] = [
            ("numa_hit", |stats| stats.local),
            ("numa_miss", |stats| stats.remote),
            ("numa_foreign", |stats| stats.foreign),
            ("free_frames", NodeStats::all_free),
            ("used_frames", |stats| stats.managed().saturating_sub(stats.all_free() + stats.retired())),
        ];
        for (name, figure) in rows {
            write!(f, "{name:16}")?;
            self.0.for_each_node(|_, stats| write!(f, "{:16}", figure(&stats)))?;
            writeln!(f)?;
        }
        Ok(())
    }
}

impl<P: Machine> fmt::Debug for MemInfo<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MemInfo").finish_non_exhaustive()
    }
}

impl<P: Machine> fmt::Debug for NumaStat<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("NumaStat").finish_non_exhaustive()
    }
}
