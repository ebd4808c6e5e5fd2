//! Scarce memory: allocations note the pressure, and a later call reclaims.
//!
//! As in Linux, an allocation that leaves a zone with less than `low` free frames wakes a task that reclaims until
//! `high` are free, in the background. Ordinary requests fail only below `min`. The allocation itself notes the
//! pressure in two words of the machine, and does no more. If a reclaim frees nothing, the zone's next alarm comes when
//! half as many frames are left, and at ever fewer of the failing requests. Memory that cannot be reclaimed therefore
//! costs a few attempts, and no loop.

use topomem_percpu::sync::atomic::Ordering;
use topomem_percpu::{CpuPin, CpuSet, Platform};

use crate::frames::Frames;
use crate::frames::types::NodeSet;

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

impl<P: Platform> Frames<P> {
    /// Returns whether a node is under pressure: an allocation has left less than
    /// [`low`](crate::frames::Watermarks::low) frames of a zone since the last [`Frames::reclaim`]. Cost: two loads.
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
        self.state().is_some_and(|state| state.pressure.any())
    }

    /// Returns whether a node came under pressure since the last call of [`Frames::take_pressure_due`]. Cost: two
    /// loads.
    #[inline]
    pub fn pressure_due(&self) -> bool {
        self.state().is_some_and(|state| state.pressure.is_due())
    }

    /// Returns whether a node came under pressure since the last call, for waking the task that reclaims. Of several
    /// calls, one returns true.
    #[inline]
    pub fn take_pressure_due(&self) -> bool {
        self.pressure_due() && self.state().is_some_and(|state| state.pressure.take_due())
    }

    /// Reclaims frames of the nodes under pressure ([`Frames::is_pressed`]) until each zone of the nodes has
    /// [`high`](crate::frames::Watermarks::high) free frames: sends home the frames of the pinned CPU's magazine and of
    /// the nodes' pools of zeroed frames, asks other CPUs to drain, and calls `more` until `more` returns `None`.
    /// Returns `None` if no node is under pressure.
    ///
    /// `more` frees frames that the caller keeps elsewhere, step by step, and returns their number. If neither `more`
    /// nor the pools had any, the next alarm of a zone that stays below `low` is when half as many frames are left, or
    /// at the first, second, fourth, eighth… request that is refused; so a service task that reclaims whenever
    /// [`Frames::is_pressed`] never loops.
    ///
    /// For service tasks and idle loops. Bound: as [`Frames::drain`], and a look at each slot of the pools and at
    /// each CPU's magazine.
    pub fn reclaim(&self, pin: &CpuPin, mut more: impl FnMut() -> Option<u64>) -> Option<Reclaimed> {
        let ready = self.ready().filter(|ready| ready.state.pressure.any())?;
        // Before the work: pressure noted from here on is for the next call.
        let nodes = ready.state.pressure.take();
        let mut reclaimed = Reclaimed { nodes, freed: 0, asked: CpuSet::new() };
        for magazine in self.magazines.iter().filter(|magazine| nodes.contains(magazine.node)) {
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
        let mut progress: u64 = ready.state.members(&nodes).map(|node| ready.spill_zeroed(node)).sum();
        while !ready.state.is_relieved(&nodes)
            && let Some(freed) = more()
        {
            progress += freed;
        }
        for (zone, free) in ready.state.zones_of(&nodes) {
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
