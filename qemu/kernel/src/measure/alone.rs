//! One CPU by itself: what the operations cost without anybody to tell.

use topomem::{ProtectError, Protection, UnmapError};

use super::MeasureError;
use super::repetitions::Repetitions;
use super::samples::Samples;
use super::space::{Measured, apart, leave, pages, touch};
use super::unit::Unit;
use crate::memory::platform::pin;

/// Unmaps of a burst.
pub(super) const BURST: u64 = 16;

pub(super) fn measure(unit: Unit, n: Repetitions) -> Result<(), MeasureError> {
    let measured = Measured::new()?;
    measured.activate();
    let result = protect(&measured, unit, n.changes)
        .and_then(|()| unmap(&measured, unit, "unmap_1", 1, n.changes))
        .and_then(|()| unmap(&measured, unit, "unmap_64", 64, n.changes))
        .and_then(|()| unmap(&measured, unit, "unmap_512", 512, n.changes))
        .and_then(|()| burst(&measured, unit, ("unmap_burst16", Layout::Holes), n.bursts))
        .and_then(|()| burst(&measured, unit, ("unmap_burst16_apart", Layout::Apart), n.bursts));
    leave();
    result
}

/// A page becomes read-only.
#[inline(never)]
fn protect(measured: &Measured, unit: Unit, repetitions: usize) -> Result<(), MeasureError> {
    let (pin, page) = (pin(), pages(0, 1));
    let mut samples = Samples::of(repetitions)?;
    measured.map(page)?;
    for _ in 0..repetitions {
        samples.time(|| {
            measured.space.protect(&pin, page, Protection::USER_READ_ONLY)?.wait(&pin);
            Ok::<(), ProtectError>(())
        })?;
        measured.space.protect(&pin, page, Protection::USER_DATA)?.wait(&pin);
        touch(page)?;
    }
    measured.space.unmap(&pin, page)?.wait(&pin);
    samples.report("protect_1", unit, 1);
    Ok(())
}

/// `count` pages go, and their frames are free.
#[inline(never)]
fn unmap(
    measured: &Measured,
    unit: Unit,
    case: &str,
    count: u64,
    repetitions: usize,
) -> Result<(), MeasureError> {
    let (pin, range) = (pin(), pages(512, count));
    let mut samples = Samples::of(repetitions)?;
    for _ in 0..repetitions {
        measured.map(range)?;
        samples.time(|| {
            measured.space.unmap(&pin, range)?.wait(&pin);
            Ok::<(), UnmapError>(())
        })?;
    }
    samples.report(case, unit, 1);
    Ok(())
}

/// Unmaps every other page of a range, one by one, with one wait for all. The pages between are
/// mapped (`Holes`) or not (`Apart`).
#[inline(never)]
fn burst(
    measured: &Measured,
    unit: Unit,
    (case, layout): (&str, Layout),
    repetitions: usize,
) -> Result<(), MeasureError> {
    let (pin, range) = (pin(), pages(512, 2 * BURST));
    let mut samples = Samples::of(repetitions)?;
    for _ in 0..repetitions {
        match layout {
            Layout::Holes => measured.map(range)?,
            Layout::Apart => measured.map_apart(BURST)?,
        }
        samples.time(|| {
            let mut batch = measured.space.batch(&pin);
            (0..BURST).map(apart).try_for_each(|page| batch.unmap(page))?;
            batch.issue().wait(&pin);
            Ok::<(), MeasureError>(())
        })?;
        if let Layout::Holes = layout {
            measured.space.unmap(&pin, range)?.wait(&pin);
        }
    }
    samples.report(case, unit, BURST);
    Ok(())
}

/// What lies between the pages of a burst.
#[derive(Debug, Clone, Copy)]
enum Layout {
    /// Pages that stay.
    Holes,
    /// Nothing.
    Apart,
}
