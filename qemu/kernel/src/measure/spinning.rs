//! Changes of mappings while the other CPUs spin in the space, having read the pages just before:
//! their TLBs hold what is changed, and each has to be interrupted.

extern crate alloc;

use alloc::vec::Vec;

use topomem::{CpuPin, Protection};

use super::MeasureError;
use super::alone::BURST;
use super::bare;
use super::counts::Counts;
use super::helpers::{Helpers, Role};
use super::repetitions::{Repetitions, counted};
use super::samples::{OutOfMemory, Samples};
use super::space::{Measured, apart, leave};
use super::unit::Unit;
use crate::memory::platform::pin;

/// Unmaps that are issued before the first is waited for.
const IN_FLIGHT: u64 = 64;

pub(super) async fn measure(unit: Unit, repetitions: Repetitions) -> Result<(), MeasureError> {
    let measured = Measured::new()?;
    measured.activate();
    let helpers = Helpers::start(&measured, Role::Follow).await?;
    let result = Spinning { measured: &measured, helpers: &helpers, unit }.all(repetitions);
    helpers.stop().await?;
    leave();
    result
}

struct Spinning<'a> {
    measured: &'a Measured,
    helpers: &'a Helpers,
    unit: Unit,
}

/// What is done how often.
struct Case {
    name: &'static str,
    /// Pages that are changed, apart from each other, as those of different threads are.
    pages: u64,
    /// Changes that one figure of the counts is for.
    counted: u64,
    samples: usize,
}

impl Spinning<'_> {
    fn all(&self, n: Repetitions) -> Result<(), MeasureError> {
        bare::measure("bare_ipi", self.unit, n.changes)?;
        let change = |name| Case { name, pages: 1, counted: 1, samples: n.changes };
        let space = &self.measured.space;
        let page = apart(0);
        self.waited(change("protect_wait"), |pin| {
            space.protect(pin, page, Protection::USER_READ_ONLY)?.wait(pin);
            Ok(())
        })?;
        self.waited(change("unmap_wait"), |pin| {
            space.unmap(pin, page)?.wait(pin);
            Ok(())
        })?;
        // Nobody waits until the clock has stopped.
        let unmap = |pin: &CpuPin| Ok(space.unmap(pin, page)?);
        self.case(change("unmap_issue"), unmap, |pin, unmapping| unmapping.wait(pin))?;
        let burst = Case { name: "burst16_wait", pages: BURST, counted: BURST, samples: n.bursts };
        self.waited(burst, |pin| {
            let mut batch = space.batch(pin);
            (0..BURST).map(apart).try_for_each(|page| batch.unmap(page))?;
            batch.issue().wait(pin);
            Ok(())
        })?;
        let mut in_flight = Vec::new();
        in_flight.try_reserve_exact(IN_FLIGHT as usize).map_err(|_| OutOfMemory)?;
        let many = Case { name: "inflight64", pages: IN_FLIGHT, counted: 1, samples: n.in_flight };
        self.waited(many, |pin| {
            for page in (0..IN_FLIGHT).map(apart) {
                in_flight.push(space.unmap(pin, page)?);
            }
            in_flight.drain(..).for_each(|unmapping| unmapping.wait(pin));
            Ok(())
        })
    }

    /// A case whose work has waited for all that it did.
    fn waited(
        &self,
        case: Case,
        work: impl FnMut(&CpuPin) -> Result<(), MeasureError>,
    ) -> Result<(), MeasureError> {
        self.case(case, work, |_, ()| ())
    }

    /// Times the work, and counts what it costs the machine in further samples: reading the counters
    /// makes the CPU slower. `finish` comes after the clock has stopped.
    #[inline(never)]
    fn case<T>(
        &self,
        case: Case,
        mut work: impl FnMut(&CpuPin) -> Result<T, MeasureError>,
        finish: impl Fn(&CpuPin, T),
    ) -> Result<(), MeasureError> {
        if case.samples == 0 {
            return Ok(());
        }
        let pin = pin();
        let mut samples = Samples::of(case.samples)?;
        for _ in 0..case.samples {
            self.prepare(&case)?;
            let done = samples.time(|| work(&pin))?;
            finish(&pin, done);
            self.clear(&case)?;
        }
        samples.report(case.name, self.unit, case.pages);
        let mut counts = Counts::default();
        for _ in 0..counted(case.samples) {
            self.prepare(&case)?;
            let before = Counts::now();
            let done = work(&pin)?;
            finish(&pin, done);
            counts.add(&before, &Counts::now());
            self.clear(&case)?;
        }
        counts.report(case.name, counted(case.samples) as u64 * case.pages / case.counted);
        Ok(())
    }

    /// Fresh pages, which every CPU's TLB holds.
    fn prepare(&self, case: &Case) -> Result<(), MeasureError> {
        self.measured.map_apart(case.pages)?;
        self.helpers.read(case.pages);
        Ok(())
    }

    /// Takes away what the case has left.
    fn clear(&self, case: &Case) -> Result<(), MeasureError> {
        let pin = pin();
        (0..case.pages).map(apart).try_for_each(|page| {
            self.measured.space.unmap(&pin, page)?.wait(&pin);
            Ok(())
        })
    }
}
