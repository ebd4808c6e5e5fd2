//! Many unmaps issued before any is waited for, and what each costs the machine.

extern crate alloc;

use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use topomem::shootdown::Stats;

use super::MeasureError;
use super::helpers::{Helpers, Role};
use super::samples::{OutOfMemory, Samples, report_one};
use super::space::{Measured, leave, pages};
use super::unit::Unit;
use crate::memory::platform::pin;
use crate::memory::service::SERVICE;
use crate::per_cpu;
use crate::smp::ipi;

const REPETITIONS: usize = 100;
/// Unmaps in flight.
const UNMAPS: u64 = 64;

pub async fn measure(unit: Unit) -> Result<(), MeasureError> {
    let measured = Measured::new()?;
    measured.activate();
    measured.map(pages(0, 2))?;
    let helpers = Helpers::start(&measured, Role::Spin(pages(0, 1).start())).await?;
    let result = beside_spinning(&measured, unit);
    helpers.stop().await?;
    leave();
    result
}

fn beside_spinning(measured: &Measured, unit: Unit) -> Result<(), MeasureError> {
    let pin = pin();
    let mut samples = Samples::of(REPETITIONS)?;
    let mut changes = Vec::new();
    changes.try_reserve_exact(UNMAPS as usize).map_err(|_| OutOfMemory)?;
    let mut counts = Counts::default();
    for _ in 0..REPETITIONS {
        // Apart from each other, as unmaps of different threads are.
        (0..UNMAPS).try_for_each(|page| measured.map(pages(512 + 2 * page, 1)))?;
        let before = Counts::now();
        samples.time(|| {
            for page in 0..UNMAPS {
                changes.push(measured.space.unmap(&pin, pages(512 + 2 * page, 1))?);
            }
            changes.drain(..).for_each(|change| change.wait(&pin));
            Ok::<(), MeasureError>(())
        })?;
        counts.add(&before, &Counts::now());
    }
    samples.report("inflight64", unit, UNMAPS);
    counts.report("inflight64", REPETITIONS as u64 * UNMAPS);
    Ok(())
}

/// What all CPUs have counted.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    interrupts: u64,
    writes: u64,
    full: u64,
    partial: u64,
    elisions: u64,
}

impl Counts {
    fn now() -> Counts {
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

    fn add(&mut self, before: &Counts, after: &Counts) {
        self.interrupts += after.interrupts - before.interrupts;
        self.writes += after.writes - before.writes;
        self.full += after.full - before.full;
        self.partial += after.partial - before.partial;
        self.elisions += after.elisions - before.elisions;
    }

    /// Reports them for each of `operations`.
    fn report(&self, case: &str, operations: u64) {
        for (unit, count) in [
            ("IPIs", self.interrupts),
            ("ICR writes", self.writes),
            ("full flushes", self.full),
            ("partial flushes", self.partial),
            ("elisions", self.elisions),
        ] {
            report_one(case, "topomem", unit, count as f64 / operations as f64);
        }
    }
}
