//! What a case's repetitions cost, and the result that they make.

extern crate alloc;

use alloc::vec::Vec;
use core::fmt;

use super::unit::Unit;
use crate::arch::clock;
use crate::log::Json;
use crate::record;
use crate::smp::ipi;

/// No room for the samples.
#[derive(Debug, Clone, Copy)]
pub(super) struct OutOfMemory;

/// Ticks by repetition.
pub(super) struct Samples {
    ticks: Vec<u64>,
}

impl Samples {
    /// Room for `repetitions`, so that measuring does not allocate.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`].
    pub(super) fn of(repetitions: usize) -> Result<Samples, OutOfMemory> {
        let mut ticks = Vec::new();
        ticks.try_reserve_exact(repetitions).map_err(|_| OutOfMemory)?;
        Ok(Samples { ticks })
    }

    /// Times one repetition.
    #[inline(always)]
    pub(super) fn time<R>(&mut self, operation: impl FnOnce() -> R) -> R {
        let start = clock::now();
        let result = operation();
        let end = clock::now();
        self.ticks.push(end.0 - start.0);
        result
    }

    /// Reports `case` of topomem: what one of `each` operations of a repetition cost.
    pub(super) fn report(self, case: &str, unit: Unit, each: u64) {
        self.report_for(case, "topomem", unit, each);
    }

    /// The same for another `subject`.
    pub(super) fn report_for(mut self, case: &str, subject: &str, unit: Unit, each: u64) {
        self.ticks.sort_unstable();
        let last = self.ticks.len().saturating_sub(1);
        let at = |tenths: usize| {
            let ticks = self.ticks.get(last * tenths / 10).copied().unwrap_or(0);
            unit.of_ticks(ticks) / each as f64
        };
        let spread = Spread { low: at(1), median: at(5), high: at(9), n: self.ticks.len() as u64 };
        spread.report(case, subject, unit.name());
        if unit == Unit::Microseconds {
            let percentiles = Percentiles { ticks: &self.ticks, unit, each };
            record!(
                "{{\"t\":\"distribution\",\"case\":{},\"subject\":{},\"cpus\":{},\"unit\":{},\"n\":{},\"percentiles\":[{percentiles}]}}",
                Json(case),
                Json(subject),
                ipi::running().len(),
                Json(unit.name()),
                self.ticks.len(),
            );
        }
    }

    /// The lowest decile.
    pub(super) fn low(&mut self) -> u64 {
        self.ticks.sort_unstable();
        self.ticks.get(self.ticks.len().saturating_sub(1) / 10).copied().unwrap_or(0)
    }
}

/// The first percentile to the 99th of sorted samples.
struct Percentiles<'a> {
    ticks: &'a [u64],
    unit: Unit,
    each: u64,
}

impl fmt::Display for Percentiles<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let last = self.ticks.len().saturating_sub(1);
        (1..100).try_for_each(|percent| {
            let ticks = self.ticks.get(last * percent / 100).copied().unwrap_or(0);
            let separator = if percent == 1 { "" } else { "," };
            write!(f, "{separator}{:.3}", self.unit.of_ticks(ticks) / self.each as f64)
        })
    }
}

/// Reports a figure that has no spread, and of how many it is.
pub(super) fn report_one(case: &str, subject: &str, unit: &str, (value, n): (f64, u64)) {
    Spread { low: value, median: value, high: value, n }.report(case, subject, unit);
}

struct Spread {
    low: f64,
    median: f64,
    high: f64,
    n: u64,
}

impl Spread {
    fn report(&self, case: &str, subject: &str, unit: &str) {
        record!(
            "{{\"t\":\"result\",\"suite\":\"shootdown\",\"case\":{},\"subject\":{},\"cpus\":{},\
             \"unit\":{},\"median\":{:.4},\"low\":{:.4},\"high\":{:.4},\"n\":{}}}",
            Json(case),
            Json(subject),
            ipi::running().len(),
            Json(unit),
            self.median,
            self.low,
            self.high,
            self.n
        );
    }
}
