//! A bare interrupt that is counted and nothing else: what a shootdown is compared with.

use core::hint;
use core::sync::atomic::{AtomicU64, Ordering};

use super::MeasureError;
use super::samples::Samples;
use super::unit::Unit;
use crate::arch::interrupt::apic;
use crate::arch::interrupt::vector;
use crate::smp::ipi;
use topomem_boot::{Destination, Message};

/// Interrupts answered so far.
static ANSWERED: AtomicU64 = AtomicU64::new(0);

/// The bare interrupt's handler.
pub(crate) fn on_interrupt() {
    ANSWERED.fetch_add(1, Ordering::Release);
}

/// Interrupts all other CPUs with one message, and waits until each has counted it.
pub(super) fn measure(case: &str, unit: Unit, repetitions: usize) -> Result<(), MeasureError> {
    let others = ipi::running().len() as u64 - 1;
    let mut samples = Samples::of(repetitions)?;
    for _ in 0..repetitions {
        let goal = ANSWERED.load(Ordering::Acquire) + others;
        samples.time(|| {
            apic::send(Message::Fixed(vector::MEASURE.0), Destination::Others);
            while ANSWERED.load(Ordering::Acquire) < goal {
                hint::spin_loop();
            }
        });
    }
    samples.report_for(case, "bare", unit, 1);
    Ok(())
}
