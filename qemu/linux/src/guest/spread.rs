//! Many samples in a few numbers.

/// A median between tenths.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    /// A tenth of the samples is below.
    pub(crate) low: f64,
    /// A tenth of the samples is above.
    pub(crate) high: f64,
    pub(crate) n: u64,
}

impl Spread {
    /// The spread of `samples`; `None` when there are none.
    pub(crate) fn of(samples: impl IntoIterator<Item = f64>) -> Option<Self> {
        let sorted = sorted(samples);
        let last = sorted.len().checked_sub(1)?;
        let at = |tenths: usize| sorted.get(last * tenths / 10).copied();
        Some(Self { median: at(5)?, low: at(1)?, high: at(9)?, n: sorted.len() as u64 })
    }
}

/// The first percentile to the 99th; `None` when there are no samples.
pub(crate) fn percentiles(samples: impl IntoIterator<Item = f64>) -> Option<Vec<f64>> {
    let sorted = sorted(samples);
    let last = sorted.len().checked_sub(1)?;
    (1..100).map(|percent| sorted.get(last * percent / 100).copied()).collect()
}

fn sorted(samples: impl IntoIterator<Item = f64>) -> Vec<f64> {
    let mut sorted: Vec<f64> = samples.into_iter().collect();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_tenths() {
        let spread = Spread::of((0..=100).rev().map(f64::from)).unwrap();
        assert_eq!(spread, Spread { median: 50.0, low: 10.0, high: 90.0, n: 101 });
    }

    #[test]
    fn takes_percentiles() {
        let taken = percentiles((0..=100).rev().map(f64::from)).unwrap();
        assert_eq!(taken, (1..100).map(f64::from).collect::<Vec<_>>());
        assert_eq!(percentiles([3.0]).unwrap(), [3.0; 99]);
        assert_eq!(percentiles([]), None);
    }

    #[test]
    fn few_samples_will_do_but_not_none() {
        assert_eq!(Spread::of([3.0]).unwrap(), Spread { median: 3.0, low: 3.0, high: 3.0, n: 1 });
        assert_eq!(Spread::of([]), None);
    }
}
