//! The same figure of several boots, as one.

use crate::run::record::Measurement;

/// The unit of times.
pub(super) const TIME: &str = "us";

/// The units of what changes cost the machine.
pub(super) const COUNTS: [&str; 5] = ["IPIs", "ICR writes", "full flushes", "partial flushes", "elisions"];

/// A figure over all boots.
#[derive(Clone, Debug)]
pub(in crate::bench) struct Pooled {
    /// Medians over the boots, of the median and of both tenths; the samples of all.
    pub(in crate::bench) result: Measurement,
    /// The median absolute deviation of the boots' medians: half of them are closer to `result.median`.
    pub(super) deviation: f64,
    /// The lowest and the highest of the boots' figures that are judged.
    pub(super) boots: (f64, f64),
    /// How many boots.
    pub(super) number: usize,
    /// Samples of each of them; the fewest, should they differ.
    pub(super) per_boot: u64,
}

impl Pooled {
    /// What subjects are compared by: of times the boot that the host disturbed least.
    pub(in crate::bench) fn judged(&self) -> f64 {
        if self.result.unit == TIME { self.boots.0 } else { self.result.median }
    }

    /// Is it the same figure, whoever's?
    pub(super) fn is_beside(&self, other: &Measurement) -> bool {
        let key = |result: &Measurement| (result.case.clone(), result.cpus, result.unit.clone());
        key(&self.result) == key(other)
    }
}

/// Of times the lowest tenth, as only that is without what else the host does; of counts the median.
fn judged(result: &Measurement) -> f64 {
    if result.unit == TIME { result.low } else { result.median }
}

/// Puts together what belongs together, in the order of first appearance.
pub(super) fn over_boots(results: Vec<Measurement>) -> Vec<Pooled> {
    let mut groups: Vec<Vec<Measurement>> = Vec::new();
    for result in results {
        let is_same = |other: &Measurement| {
            (&other.case, &other.subject, other.cpus, &other.unit)
                == (&result.case, &result.subject, result.cpus, &result.unit)
        };
        match groups.iter_mut().find(|group| group.first().is_some_and(is_same)) {
            Some(group) => group.push(result),
            None => groups.push(vec![result]),
        }
    }
    groups.iter().filter_map(|group| pool(group)).collect()
}

fn pool(boots: &[Measurement]) -> Option<Pooled> {
    let first = boots.first()?;
    let median = |figure: fn(&Measurement) -> f64| middle(&sorted(boots, figure));
    let judged = sorted(boots, judged);
    let result = Measurement {
        median: median(|result| result.median),
        low: median(|result| result.low),
        high: median(|result| result.high),
        n: boots.iter().map(|result| result.n).sum(),
        ..first.clone()
    };
    let boots_judged = (*judged.first()?, *judged.last()?);
    let per_boot = boots.iter().map(|result| result.n).min()?;
    let deviation = middle(&sorted(boots, |boot| (boot.median - result.median).abs()));
    Some(Pooled { result, deviation, boots: boots_judged, number: boots.len(), per_boot })
}

/// The lower median of some figures.
fn middle(sorted: &[f64]) -> f64 {
    sorted.len().checked_sub(1).and_then(|last| sorted.get(last / 2)).copied().unwrap_or(f64::NAN)
}

fn sorted(boots: &[Measurement], figure: impl Fn(&Measurement) -> f64) -> Vec<f64> {
    let mut figures: Vec<f64> = boots.iter().map(figure).collect();
    figures.sort_unstable_by(f64::total_cmp);
    figures
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::limits::tests::result;

    #[test]
    fn boots_of_one_figure_become_one() {
        let time = |subject, median| result("unmap_wait", subject, 2, (median, TIME));
        let interrupts = result("unmap_wait", "linux", 2, (1.0, "IPIs"));
        let pooled = over_boots(vec![
            time("topomem", 9.0),
            time("linux", 20.0),
            interrupts,
            time("topomem", 4.0),
            time("topomem", 6.0),
        ]);
        assert_eq!(pooled.len(), 3);
        let own = &pooled[0];
        assert_eq!((own.result.low, own.result.median, own.result.high, own.result.n), (3.0, 6.0, 12.0, 30));
        assert_eq!((own.judged(), own.boots), (2.0, (2.0, 4.5)));
        assert_eq!(own.deviation, 2.0, "of 9, 4 and 6");
        assert_eq!((own.number, own.per_boot), (3, 10));
        assert_eq!(pooled[2].judged(), 1.0);
        assert!(own.is_beside(&pooled[1].result) && !own.is_beside(&pooled[2].result));
    }
}
