//! Many samples in three numbers.

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
        let mut sorted: Vec<f64> = samples.into_iter().collect();
        sorted.sort_unstable_by(f64::total_cmp);
        let last = sorted.len().checked_sub(1)?;
        let at = |tenths: usize| sorted.get(last * tenths / 10).copied();
        Some(Self { median: at(5)?, low: at(1)?, high: at(9)?, n: sorted.len() as u64 })
    }
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
    fn few_samples_will_do_but_not_none() {
        assert_eq!(Spread::of([3.0]).unwrap(), Spread { median: 3.0, low: 3.0, high: 3.0, n: 1 });
        assert_eq!(Spread::of([]), None);
    }
}
