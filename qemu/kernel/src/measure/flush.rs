//! Where single flushes become dearer than a full one: what the queue's threshold should be.

use topomem::{PageSize, Tlb};

use super::MeasureError;
use super::samples::{Samples, report_one};
use super::space::{Measured, leave, pages, touch};
use super::unit::Unit;
use crate::memory::platform::Kernel;

/// Pages in use: after a full flush each is walked for again.
const LIVE: u64 = 64;
const REPETITIONS: usize = 500;

pub(super) fn measure(unit: Unit) -> Result<(), MeasureError> {
    let measured = Measured::new()?;
    measured.activate();
    measured.map(pages(512, LIVE))?;
    let result = with_live_pages(unit);
    leave();
    result
}

fn with_live_pages(unit: Unit) -> Result<(), MeasureError> {
    let live = pages(512, LIVE);
    let mut single = Samples::of(REPETITIONS)?;
    let mut full = Samples::of(REPETITIONS)?;
    let mut none = Samples::of(REPETITIONS)?;
    for _ in 0..REPETITIONS {
        touch(live)?;
        none.time(|| touch(live))?;
        single.time(|| live.iter().for_each(|page| Kernel.flush_page(page, PageSize::Size4KiB)));
        touch(live)?;
        full.time(|| {
            Kernel.flush_non_global();
            touch(live)
        })?;
    }
    let (singly, fully, touched) = (single.low(), full.low(), none.low());
    single.report("flush_single", unit, LIVE);
    full.report("flush_full", unit, 1);
    // Pages that were unmapped are not walked for again; after a full flush all others are.
    let refilled = fully.saturating_sub(touched) as f64;
    report_one(
        "flush_break_even",
        "topomem",
        "pages",
        (refilled / (singly.max(1) as f64 / LIVE as f64), REPETITIONS as u64),
    );
    Ok(())
}
