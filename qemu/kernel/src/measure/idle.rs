//! Unmaps while the other CPUs idle in the space, beside the same with them offline: by turns, so
//! that both are of one boot, under one emulator, on a host in the same state.

use core::time::Duration;

use topomem::CpuPin;

use super::MeasureError;
use super::counts::Counts;
use super::helpers::{self, Helpers, Role};
use super::repetitions::counted;
use super::samples::{Samples, report_one};
use super::space::{Measured, apart, leave};
use super::unit::Unit;
use crate::executor::sleep;
use crate::memory::platform::pin;

/// Unmaps in a round, each waited for.
const UNMAPS: u64 = 64;
/// How long CPUs get to fall asleep.
const DOZING_OFF: Duration = Duration::from_millis(20);

/// Where the other CPUs are.
#[derive(Debug, Clone, Copy)]
enum Others {
    Offline,
    Idle,
}

impl Others {
    const fn case(self) -> &'static str {
        match self {
            Others::Offline => "idle_alone",
            Others::Idle => "idle_ipis",
        }
    }
}

pub(super) async fn measure(unit: Unit, rounds: usize) -> Result<(), MeasureError> {
    if rounds == 0 {
        return Ok(());
    }
    let measured = Measured::new()?;
    measured.activate();
    let result = by_turns(&measured, unit, rounds).await;
    helpers::all_leave().await?;
    leave();
    result
}

async fn by_turns(measured: &Measured, unit: Unit, rounds: usize) -> Result<(), MeasureError> {
    let mut offline = Samples::of(rounds)?;
    let mut idle = Samples::of(rounds)?;
    for _ in 0..rounds {
        beside(measured, Others::Offline, |pin| offline.time(|| unmap(measured, pin))).await?;
        beside(measured, Others::Idle, |pin| idle.time(|| unmap(measured, pin))).await?;
    }
    let ratio = idle.low() as f64 / offline.low().max(1) as f64;
    offline.report(Others::Offline.case(), unit, UNMAPS);
    idle.report(Others::Idle.case(), unit, UNMAPS);
    report_one(Others::Idle.case(), "topomem", "over one CPU", (ratio, rounds as u64));
    if unit == Unit::Instructions {
        return Ok(());
    }
    for others in [Others::Offline, Others::Idle] {
        let mut counts = Counts::default();
        for _ in 0..counted(rounds) {
            beside(measured, others, |pin| {
                let before = Counts::now();
                unmap(measured, pin)?;
                counts.add(&before, &Counts::now());
                Ok(())
            })
            .await?;
        }
        counts.report(others.case(), counted(rounds) as u64 * UNMAPS);
    }
    Ok(())
}

/// Does `work` on fresh pages with the other CPUs where they are to be; idle ones have read the
/// pages.
async fn beside(
    measured: &Measured,
    others: Others,
    work: impl FnOnce(&CpuPin) -> Result<(), MeasureError>,
) -> Result<(), MeasureError> {
    measured.map_apart(UNMAPS)?;
    match others {
        Others::Offline => {
            let away = Helpers::start(measured, Role::Away).await?;
            sleep(DOZING_OFF).await;
            let result = work(&pin());
            away.stop().await?;
            result
        }
        Others::Idle => {
            helpers::idle_after_reading(measured, UNMAPS).await?;
            sleep(DOZING_OFF).await;
            work(&pin())
        }
    }
}

/// One after the other, each waited for.
// One copy for both, wherever the other CPUs are.
#[inline(never)]
fn unmap(measured: &Measured, pin: &CpuPin) -> Result<(), MeasureError> {
    (0..UNMAPS).map(apart).try_for_each(|page| {
        measured.space.unmap(pin, page)?.wait(pin);
        Ok(())
    })
}
