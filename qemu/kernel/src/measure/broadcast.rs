//! From issue to acknowledged by all: the instructions of all CPUs, beside a bare broadcast's.

use topomem::shootdown::Invalidation;
use topomem::{ProtectError, Protection};

use super::MeasureError;
use super::bare;
use super::helpers::{Helpers, Role};
use super::repetitions::Repetitions;
use super::samples::Samples;
use super::space::{Measured, leave, pages};
use super::unit::Unit;
use crate::memory::platform::pin;
use crate::memory::service::SERVICE;

pub(super) async fn measure(unit: Unit, n: Repetitions) -> Result<(), MeasureError> {
    let measured = Measured::new()?;
    measured.activate();
    let helpers = Helpers::start(&measured, Role::Halt).await?;
    let result = with_helpers(&measured, unit, n.changes);
    helpers.stop().await?;
    leave();
    result
}

#[inline(never)]
fn with_helpers(measured: &Measured, unit: Unit, repetitions: usize) -> Result<(), MeasureError> {
    let (pin, page) = (pin(), pages(0, 1));
    bare::measure("broadcast_ack", unit, repetitions)?;
    measured.map(page)?;
    let mut samples = Samples::of(repetitions)?;
    for _ in 0..repetitions {
        let change = Invalidation::pages(page);
        let domain = measured.space.domain();
        samples.time(|| SERVICE.shootdown().invalidate(&pin, domain, change).wait(&pin));
    }
    samples.report("broadcast_ack", unit, 1);
    let mut samples = Samples::of(repetitions)?;
    for _ in 0..repetitions {
        samples.time(|| {
            measured.space.protect(&pin, page, Protection::USER_READ_ONLY)?.wait(&pin);
            Ok::<(), ProtectError>(())
        })?;
        measured.space.protect(&pin, page, Protection::USER_DATA)?.wait(&pin);
    }
    samples.report("broadcast_protect", unit, 1);
    Ok(())
}
