//! Statistics of nodes and CPUs.

use topomem_percpu::{CpuId, NodeId, Platform};

use crate::frames::Frames;
use crate::frames::node::Node;
use crate::frames::region::bitmap::maximal_runs;
use crate::frames::region::block::BlockState;
use crate::frames::region::word::Word;
use crate::frames::region::{BlockIndex, Region};
use crate::frames::types::{BLOCK, MagazineStats, NodeStats, Pressure, Zone, ZoneStats};

impl<P: Platform> Frames<P> {
    /// Returns the number of nodes, numbered from 0: those of the boot memory. Returns 0 before [`Frames::init`].
    ///
    /// ```
    /// # mod machine { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/machine.rs")); }
    /// # machine::run(|frames, pin| {
    /// assert_eq!(frames.node_count(), 1);
    /// # let _ = pin;
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub fn node_count(&self) -> usize {
        self.state().map_or(0, |state| state.nodes().count())
    }

    /// Returns one node's memory and counters, or `None` if the machine has no such node. Exact
    /// only without concurrent allocations.
    ///
    /// Cost: linear in the node's blocks; for the cheap estimate see [`Frames::free_estimate`].
    ///
    /// ```
    /// # mod machine { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/machine.rs")); }
    /// # machine::run(|frames, pin| {
    /// use topomem_numa::NodeId;
    ///
    /// assert!(frames.stats(NodeId::ZERO).unwrap().all_free() > 1000);
    /// assert!(frames.stats(NodeId::new(1).unwrap()).is_none());
    /// # let _ = pin;
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub fn stats(&self, node: NodeId) -> Option<NodeStats> {
        let state = self.state()?;
        let node_state = state.node(node)?;
        let zones = Zone::ALL.map(|zone| zone_stats(node_state, zone));
        let (mut local, remote, foreign) = node_state.counters.load();
        let (mut in_magazines, mut zeroed) = (0, node_state.zeroed.stats());
        // Including offline CPUs: their counts stay.
        for magazine in state.magazines[node.index()] {
            // Runs from magazines are always local.
            local += magazine.taken_locally();
            zeroed.misses += magazine.zeroed_misses();
        }
        for magazine in self.magazines.iter() {
            if magazine.node == node {
                in_magazines += magazine.blocks().count() as u64 * BLOCK;
            }
            let here = magazine.words().filter(|word| {
                state
                    .region_of(word.key.first_frame() + 63)
                    .or_else(|| state.region_of(word.key.first_frame()))
                    .is_some_and(|region| region.node == node)
            });
            in_magazines += here.map(Word::frames).sum::<u64>();
        }
        let pressure = Zone::ALL
            .into_iter()
            .map(|zone| (&node_state.zones[zone.index()], zones[zone.index()].free))
            .filter(|(zone, _)| zone.managed > 0)
            .map(|(zone, free)| zone.watermarks.pressure(free))
            .min()
            .unwrap_or(Pressure::None);
        Some(NodeStats { zones, in_magazines, zeroed, local, remote, foreign, pressure })
    }

    /// Returns the number of free frames of a zone, without those in magazines and pools. The number is exact to within
    /// 256 frames for each CPU of the node.
    ///
    /// Cost: one load.
    pub fn free_estimate(&self, node: NodeId, zone: Zone) -> u64 {
        let node_state = self.state().and_then(|state| state.node(node));
        node_state.map_or(0, |node_state| node_state.zones[zone.index()].free().max(0) as u64)
    }

    /// Returns the counters of one CPU's magazine, or `None` if it has none. May be called on any
    /// CPU at any time.
    ///
    /// ```
    /// # mod machine { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/machine.rs")); }
    /// # machine::run(|frames, pin| {
    /// assert_eq!(frames.cpu_stats(pin.cpu()).unwrap().hits, 0);
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub fn cpu_stats(&self, cpu: CpuId) -> Option<MagazineStats> {
        Some(self.magazines.get(cpu)?.stats())
    }
}

fn zone_stats(node: &Node, zone: Zone) -> ZoneStats {
    let node_state = &node.zones[zone.index()];
    let mut stats = ZoneStats { managed: node_state.managed, ..ZoneStats::default() };
    for region in node_state.regions.iter() {
        add_runs(region, &mut stats);
        stats.retired += region.retired.complete_count();
    }
    stats
}

/// Adds a region's free runs.
fn add_runs(region: &Region, stats: &mut ZoneStats) {
    for index in 0..region.blocks() {
        let block = BlockIndex(index);
        if matches!(region.entry(block).load().state(), BlockState::Bitmap | BlockState::Promoting) {
            let runs = maximal_runs(&region.line(block).snapshot());
            stats.runs.iter_mut().zip(runs).for_each(|(sum, more)| *sum += more);
        }
    }
    for chunk in region.chunks {
        let runs = maximal_runs(&chunk.whole.snapshot());
        stats.runs[9..].iter_mut().zip(runs).for_each(|(sum, more)| *sum += more);
    }
    stats.free = stats.runs.iter().enumerate().map(|(order, runs)| runs << order).sum();
}
