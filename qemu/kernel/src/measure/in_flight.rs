//! Many unmaps issued before any is waited for, and what each costs the machine.

extern crate alloc;

use alloc::vec::Vec;

use super::MeasureError;
use super::counts::Counts;
use super::helpers::{Helpers, Role};
use super::samples::{OutOfMemory, Samples};
use super::space::{Measured, leave, pages};
use super::unit::Unit;
use crate::memory::platform::pin;

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
