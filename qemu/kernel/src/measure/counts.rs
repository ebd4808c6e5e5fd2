//! What changes cost the machine, counted: interrupts, flushes, and what was left out of both.

use core::sync::atomic::Ordering;

use topomem::shootdown::Stats;

use super::samples::report_one;
use crate::memory::service::SERVICE;
use crate::per_cpu;
use crate::smp::ipi;

/// What all CPUs have counted.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counts {
    interrupts: u64,
    writes: u64,
    full: u64,
    partial: u64,
    elisions: u64,
}

impl Counts {
    /// So far.
    pub(super) fn now() -> Counts {
        let mut counts = Counts::default();
        for cpu in ipi::running().iter() {
            let Stats { ipis_sent, full_flushes, partial_flushes, elided_pending, elided_lazy, .. } =
                SERVICE.shootdown().stats(cpu);
            let writes =
                per_cpu::of(cpu).map_or(0, |area| area.counters.messages_sent.load(Ordering::Relaxed));
            counts.interrupts += ipis_sent;
            counts.writes += writes;
            counts.full += full_flushes;
            counts.partial += partial_flushes;
            counts.elisions += elided_pending + elided_lazy;
        }
        counts
    }

    /// Adds what happened from `before` to `after`.
    pub(super) fn add(&mut self, before: &Counts, after: &Counts) {
        self.interrupts += after.interrupts - before.interrupts;
        self.writes += after.writes - before.writes;
        self.full += after.full - before.full;
        self.partial += after.partial - before.partial;
        self.elisions += after.elisions - before.elisions;
    }

    /// Reports them for each of `operations`, whatever a figure stands for.
    pub(super) fn report(&self, case: &str, operations: u64) {
        for (unit, count) in [
            ("IPIs", self.interrupts),
            ("ICR writes", self.writes),
            ("full flushes", self.full),
            ("partial flushes", self.partial),
            ("elisions", self.elisions),
        ] {
            report_one(case, "topomem", unit, (count as f64 / operations as f64, operations));
        }
    }
}
