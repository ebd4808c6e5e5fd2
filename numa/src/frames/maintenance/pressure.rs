//! Scarce memory: allocations note the pressure, and a later call reclaims.
//!
//! As in Linux, an allocation that leaves a zone with less than `low` free frames wakes a task that reclaims until
//! `high` are free, in the background. Ordinary requests fail only below `min`. The allocation itself notes the
//! pressure in two words of the machine, and does no more. If a reclaim frees nothing, the zone's next alarm comes when
//! half as many frames are left, and at ever fewer of the failing requests. Memory that cannot be reclaimed therefore
//! costs a few attempts, and no loop.

use topomem_percpu::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use topomem_percpu::{CpuPin, CpuSet, NodeId, Platform};

use crate::frames::Frames;
use crate::frames::node::{Node, NodeZone};
use crate::frames::state::Machine;
use crate::frames::types::{FrameRequest, NodeSet, Watermarks, Zone};

/// The nodes under pressure.
#[derive(Debug)]
pub(in crate::frames) struct PressureNotes {
    /// A bit for each node.
    nodes: AtomicU64,
    /// Set if a node was noted since the last [`Frames::take_pressure_due`].
    due: AtomicBool,
}

impl PressureNotes {
    pub(in crate::frames) fn new() -> PressureNotes {
        PressureNotes { nodes: AtomicU64::new(0), due: AtomicBool::new(false) }
    }

    fn note(&self, node: NodeId) {
        let bit = NodeSet::of(node).bits();
        // Relaxed: a hint; a reclaim counts free frames again.
        if self.nodes.load(Ordering::Relaxed) & bit == 0 {
            self.nodes.fetch_or(bit, Ordering::Relaxed);
            self.due.store(true, Ordering::Relaxed);
        }
    }

    fn any(&self) -> bool {
        self.nodes.load(Ordering::Relaxed) != 0
    }

    fn take(&self) -> NodeSet {
        if self.any() { NodeSet::from_bits(self.nodes.swap(0, Ordering::Relaxed)) } else { NodeSet::EMPTY }
    }
}

/// The result of [`Frames::reclaim`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reclaimed {
    /// The nodes that were under pressure.
    pub nodes: NodeSet,
    /// The number of frames that went home from this CPU's magazine and from pools of zeroed frames, or that the
    /// caller freed.
    pub freed: u64,
    /// The CPUs asked to drain their magazines in their next [`Frames::service`].
    pub asked: CpuSet,
}

impl Machine {
    /// Answers [`Machine::may_take`] near a watermark, by an exact count.
    #[cold]
    #[inline(never)]
    pub(in crate::frames) fn may_take_scarce(
        &self,
        node: NodeId,
        zone: Zone,
        request: &FrameRequest,
        frames: u64,
    ) -> bool {
        let Some(state) = self.node(node) else { return false };
        let left = self.free_now(state, zone) - frames as i64;
        let state = &state.zones[zone.index()];
        // Relaxed: a reclaim counts free frames again before it sets the alarm.
        let alarm = state.alarm.load(Ordering::Relaxed);
        let is_refused = !request.emergency && left < state.watermarks.min as i64;
        let is_noted = if is_refused {
            // Refusals 1, 2, 4, 8 and so on: a reclaim that frees nothing now may free something later.
            (state.refusals.fetch_add(1, Ordering::Relaxed) + 1).is_power_of_two()
        } else {
            left.max(0) < alarm as i64
        };
        if is_noted {
            self.pressure.note(node);
        } else if alarm != state.watermarks.low && left >= state.watermarks.low as i64 {
            state.alarm.store(state.watermarks.low, Ordering::Relaxed);
            state.refusals.store(0, Ordering::Relaxed);
        }
        !is_refused
    }

    /// Answers [`Machine::may_refill`] near a watermark, by an exact count.
    #[cold]
    #[inline(never)]
    pub(in crate::frames) fn may_refill_scarce(&self, node: NodeId, zone: Zone) -> bool {
        let Some(state) = self.node(node) else { return false };
        let Watermarks { min, low, high: _ } = state.zones[zone.index()].watermarks;
        let most = 64 * self.magazines[node.index()].len() as i64;
        self.free_now(state, zone) >= min.max(low) as i64 + most
    }

    /// Counts the free frames of a zone, unreported changes of CPUs included.
    pub(in crate::frames) fn free_now(&self, node: &Node, zone: Zone) -> i64 {
        let magazines = self.magazines[node.id.index()];
        node.zones[zone.index()].free()
            + magazines.iter().map(|magazine| magazine.unreported(zone)).sum::<i64>()
    }

    /// Returns the populated zones of `nodes`, each with the number of its free frames.
    fn zones_of(&self, nodes: NodeSet) -> impl Iterator<Item = (&'static NodeZone, i64)> {
        let nodes = nodes.iter().filter_map(|id| self.node(id));
        nodes.flat_map(move |node| {
            let zones =
                Zone::ALL.into_iter().map(move |zone| (&node.zones[zone.index()], self.free_now(node, zone)));
            zones.filter(|(zone, _)| zone.managed > 0)
        })
    }

    /// Returns whether all zones of `nodes` are back at their high watermarks.
    fn is_relieved(&self, nodes: NodeSet) -> bool {
        self.zones_of(nodes).all(|(zone, free)| free >= zone.watermarks.high as i64)
    }
}

impl<P: Platform> Frames<P> {
    /// Returns whether a node is under pressure: an allocation has left less than [`low`](crate::frames::Watermarks::low)
    /// frames of a zone since the last [`Frames::reclaim`]. Cost: two loads.
    ///
    /// ```
    /// # mod machine { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/machine.rs")); }
    /// # machine::run(|frames, pin| {
    /// assert!(!frames.is_pressed()); // no zone is below its low watermark
    /// # let _ = pin;
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    #[inline]
    pub fn is_pressed(&self) -> bool {
        self.machine().is_some_and(|machine| machine.pressure.any())
    }

    /// Returns whether a node came under pressure since the last call of [`Frames::take_pressure_due`]. Cost: two
    /// loads.
    #[inline]
    pub fn pressure_due(&self) -> bool {
        // Relaxed: a hint.
        self.machine().is_some_and(|machine| machine.pressure.due.load(Ordering::Relaxed))
    }

    /// Returns whether a node came under pressure since the last call, for waking the task that reclaims. Of several
    /// calls, one returns true.
    #[inline]
    pub fn take_pressure_due(&self) -> bool {
        self.pressure_due()
            && self.machine().is_some_and(|machine| machine.pressure.due.swap(false, Ordering::Relaxed))
    }

    /// Reclaims frames of the nodes that are under pressure ([`Frames::is_pressed`]) until each zone of theirs has
    /// [`high`](crate::frames::Watermarks::high) free frames: sends home what the pinned CPU's magazine and the nodes' pools
    /// of zeroed frames hold, asks other CPUs to drain theirs, and calls `more` until it returns `None`. `None` if no
    /// node is under pressure.
    ///
    /// `more` frees frames that the caller keeps elsewhere, step by step, and returns their number. If neither `more`
    /// nor the pools had any, the next alarm of a zone that stays below `low` is when half as many frames are left, or
    /// at the first, second, fourth, eighth… request that is refused; so a service task that reclaims whenever
    /// [`Frames::is_pressed`] never loops.
    ///
    /// For service tasks and idle loops. Bound: as [`Frames::drain`], and a look at each slot of the pools and at
    /// each CPU's magazine.
    pub fn reclaim(&self, pin: &CpuPin, mut more: impl FnMut() -> Option<u64>) -> Option<Reclaimed> {
        let machine = self.machine().filter(|machine| machine.pressure.any())?;
        // Before the work: pressure noted from here on is for the next call.
        let nodes = machine.pressure.take();
        let mut reclaimed = Reclaimed { nodes, freed: 0, asked: CpuSet::new() };
        for magazine in self.rack.iter().filter(|magazine| nodes.contains(magazine.node)) {
            let held = magazine.cached();
            if magazine.cpu == pin.cpu() {
                self.drain(pin);
                reclaimed.freed += held.saturating_sub(magazine.cached());
            } else if held > 0 && !magazine.wants_attention() {
                magazine.request_drain();
                reclaimed.asked.insert(magazine.cpu);
            }
        }
        // Magazines fill again by the next allocation, so their frames are no progress.
        let nodes_there = nodes.iter().filter_map(|node| machine.node(node));
        let mut progress: u64 = nodes_there.map(|node| self.spill_zeroed(machine, node)).sum();
        while !machine.is_relieved(nodes)
            && let Some(freed) = more()
        {
            progress += freed;
        }
        for (zone, free) in machine.zones_of(nodes) {
            let low = zone.watermarks.low;
            let in_vain = progress == 0 && free < low as i64;
            let alarm = if in_vain { free.max(0) as u64 / 2 } else { low };
            zone.alarm.store(alarm, Ordering::Relaxed);
            if !in_vain {
                zone.refusals.store(0, Ordering::Relaxed);
            }
        }
        reclaimed.freed += progress;
        Some(reclaimed)
    }
}
