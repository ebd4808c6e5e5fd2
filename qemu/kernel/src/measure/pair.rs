//! Two CPUs, in time: the other one uses the space, or idles in it.

use topomem::shootdown::Stats;
use topomem::{ProtectError, Protection, UnmapError};

use super::MeasureError;
use super::alone;
use super::bare;
use super::counts::Counts;
use super::helpers::{Helpers, Role};
use super::samples::{Samples, report_one};
use super::space::{Measured, leave, pages, touch};
use super::unit::Unit;
use crate::memory::platform::pin;
use crate::memory::service::SERVICE;

const REPETITIONS: usize = 2000;
/// Of what is counted, and varies little.
const COUNTED: u64 = 200;

pub async fn measure(unit: Unit) -> Result<(), MeasureError> {
    let measured = Measured::new()?;
    measured.activate();
    measured.map(pages(0, 2))?;
    let helpers = Helpers::start(&measured, Role::Spin(pages(0, 1).start())).await?;
    let spinning = beside_spinning(&measured, unit);
    helpers.stop().await?;
    spinning?;
    let alone = idle(&measured, unit, "idle_alone")?;
    let helpers = Helpers::start(&measured, Role::Idle).await?;
    let idle = idle(&measured, unit, "idle_ipis");
    helpers.stop().await?;
    leave();
    report_one("idle_ipis", "topomem", "over one CPU", idle? / alone);
    Ok(())
}

fn beside_spinning(measured: &Measured, unit: Unit) -> Result<(), MeasureError> {
    bare::measure("bare_ipi", unit, REPETITIONS)?;
    protect_wait(measured, unit)?;
    alone::unmap(measured, unit, "unmap_wait", 1, REPETITIONS)?;
    unmap_issue(measured, unit)?;
    count(measured)?;
    let before = sent();
    alone::burst(measured, unit, ("burst16_wait", alone::Layout::Apart), REPETITIONS)?;
    let interrupts = sent().ipis_sent - before.ipis_sent;
    report_one("burst16_wait", "topomem", "IPIs", interrupts as f64 / REPETITIONS as f64);
    Ok(())
}

/// The page that the other CPU reads becomes read-only.
fn protect_wait(measured: &Measured, unit: Unit) -> Result<(), MeasureError> {
    let (pin, page) = (pin(), pages(0, 1));
    let mut samples = Samples::of(REPETITIONS)?;
    for _ in 0..REPETITIONS {
        samples.time(|| {
            measured.space.protect(&pin, page, Protection::USER_READ_ONLY)?.wait(&pin);
            Ok::<(), ProtectError>(())
        })?;
        measured.space.protect(&pin, page, Protection::USER_DATA)?.wait(&pin);
        touch(page)?;
    }
    samples.report("protect_wait", unit, 1);
    Ok(())
}

/// A page goes; nobody waits for it until the clock has stopped.
#[inline(never)]
fn unmap_issue(measured: &Measured, unit: Unit) -> Result<(), MeasureError> {
    let (pin, page) = (pin(), pages(512, 1));
    let mut samples = Samples::of(REPETITIONS)?;
    for _ in 0..REPETITIONS {
        measured.map(page)?;
        samples.time(|| measured.space.unmap(&pin, page))?.wait(&pin);
    }
    samples.report("unmap_issue", unit, 1);
    Ok(())
}

/// What the changes that are waited for cost, counted apart from the times: reading the counters
/// makes the CPU slower.
#[inline(never)]
fn count(measured: &Measured) -> Result<(), MeasureError> {
    let (pin, read, page) = (pin(), pages(0, 1), pages(512, 1));
    let (mut protects, mut unmaps) = (Counts::default(), Counts::default());
    for _ in 0..COUNTED {
        let before = Counts::now();
        measured.space.protect(&pin, read, Protection::USER_READ_ONLY)?.wait(&pin);
        protects.add(&before, &Counts::now());
        measured.space.protect(&pin, read, Protection::USER_DATA)?.wait(&pin);
        measured.map(page)?;
        let before = Counts::now();
        measured.space.unmap(&pin, page)?.wait(&pin);
        unmaps.add(&before, &Counts::now());
    }
    protects.report("protect_wait", COUNTED);
    unmaps.report("unmap_wait", COUNTED);
    Ok(())
}

/// Unmaps a page, with the other CPU idle or nowhere. Returns the lowest decile.
fn idle(measured: &Measured, unit: Unit, case: &str) -> Result<f64, MeasureError> {
    let (pin, page) = (pin(), pages(512, 1));
    let mut samples = Samples::of(REPETITIONS)?;
    let before = sent();
    for _ in 0..REPETITIONS {
        measured.map(page)?;
        samples.time(|| {
            measured.space.unmap(&pin, page)?.wait(&pin);
            Ok::<(), UnmapError>(())
        })?;
    }
    let interrupts = sent().ipis_sent - before.ipis_sent;
    let low = samples.low() as f64;
    samples.report(case, unit, 1);
    report_one(case, "topomem", "IPIs", interrupts as f64 / REPETITIONS as f64);
    Ok(low)
}

/// What the executing CPU has counted.
fn sent() -> Stats {
    SERVICE.shootdown().stats(pin().cpu())
}
