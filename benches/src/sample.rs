//! Samples of one case on one subject, and what is said of them.

use serde::Serialize;

/// One line of a result file: the median of `n` runs, with the lowest and highest tenth.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// The group of cases, such as `frames`.
    pub suite: &'static str,
    /// The case, such as `pair_burst32`.
    pub case: &'static str,
    /// Who was measured: a crate's name.
    pub subject: &'static str,
    /// How many threads took part.
    pub cpus: usize,
    /// What the figures count.
    pub unit: &'static str,
    /// Half of the runs were below.
    pub median: f64,
    /// A tenth of the runs were below.
    pub low: f64,
    /// A tenth of the runs were above.
    pub high: f64,
    /// How many runs.
    pub n: usize,
}

/// What a figure belongs to, in the order in which rows are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// The group of cases.
    pub suite: &'static str,
    /// The case.
    pub case: &'static str,
    /// Who is measured.
    pub subject: &'static str,
    /// How many threads take part.
    pub cpus: usize,
    /// What the figures count.
    pub unit: &'static str,
}

impl Key {
    /// What is said of the runs that gave `samples`.
    #[must_use]
    pub fn summary(self, samples: &[f64]) -> Summary {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let Key { suite, case, subject, cpus, unit } = self;
        let (median, low, high) = (quantile(&sorted, 0.5), quantile(&sorted, 0.1), quantile(&sorted, 0.9));
        Summary { suite, case, subject, cpus, unit, median, low, high, n: sorted.len() }
    }
}

/// The value below which the share `q` of the sorted `samples` lies.
#[must_use]
pub fn quantile(sorted: &[f64], q: f64) -> f64 {
    match sorted.len() {
        0 => f64::NAN,
        len => sorted[((len - 1) as f64 * q).round() as usize],
    }
}

#[cfg(test)]
mod tests {
    use super::quantile;

    #[test]
    fn quantiles_of_eleven() {
        let sorted: Vec<f64> = (0..11).map(f64::from).collect();
        assert_eq!(quantile(&sorted, 0.5), 5.0);
        assert_eq!(quantile(&sorted, 0.1), 1.0);
        assert_eq!(quantile(&sorted, 0.9), 9.0);
    }
}
