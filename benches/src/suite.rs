//! Runs the cases over all subjects, interleaved, and keeps every sample.

use std::collections::BTreeMap;

use topomem_percpu::Order;

use crate::frames::{self, FRAMES, FreeOrder};
use crate::sample::{Summary, quantile};
use crate::subject::Subject;
use crate::subjects::{Bitmap, Buddy, Topomem};

/// What one sample belongs to, in the order in which rows are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    row: usize,
    case: &'static str,
    cpus: usize,
    subject: &'static str,
    unit: &'static str,
}

/// The samples of a run.
#[derive(Debug, Default)]
pub struct Samples(BTreeMap<Key, Vec<f64>>);

impl Samples {
    fn add(
        &mut self,
        row: usize,
        case: &'static str,
        cpus: usize,
        subject: &'static str,
        unit: &'static str,
        value: f64,
    ) {
        self.0.entry(Key { row, case, cpus, subject, unit }).or_default().push(value);
    }

    /// A line for each case and subject.
    #[must_use]
    pub fn summaries(&self) -> Vec<Summary> {
        self.0
            .iter()
            .map(|(key, values)| {
                let mut sorted = values.clone();
                sorted.sort_by(f64::total_cmp);
                Summary {
                    suite: "frames",
                    case: key.case,
                    subject: key.subject,
                    cpus: key.cpus,
                    unit: key.unit,
                    median: quantile(&sorted, 0.5),
                    low: quantile(&sorted, 0.1),
                    high: quantile(&sorted, 0.9),
                    n: sorted.len(),
                }
            })
            .collect()
    }
}

/// How long to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// A few runs: does it work, and roughly how fast.
    Quick,
    /// Enough runs for a spread worth printing.
    Full,
}

/// Measures every subject on every case, one subject after the other in each round.
#[must_use]
pub fn run(effort: Effort) -> Samples {
    let rounds = if effort == Effort::Quick { 3 } else { 15 };
    let mut samples = Samples::default();
    for _ in 0..rounds {
        subject::<Topomem>(&mut samples, effort);
        subject::<Bitmap>(&mut samples, effort);
        subject::<Buddy>(&mut samples, effort);
    }
    samples
}

fn subject<S: Subject>(samples: &mut Samples, effort: Effort) {
    let pairs = if effort == Effort::Quick { 1 << 16 } else { 1 << 18 };
    for cpus in [1, 2] {
        let fresh = || S::new(FRAMES, cpus);
        let mut add = |row, case, unit, value| samples.add(row, case, cpus, S::NAME, unit, value);
        let shared = fresh();
        add(0, "pair_burst32", "ns", frames::pairs(&shared, cpus, Order::FRAME, 32, pairs / 32));
        add(1, "pair_burst512", "ns", frames::pairs(&shared, cpus, Order::FRAME, 512, pairs / 512));
        add(5, "pair_order9", "ns", frames::pairs(&shared, cpus, Order::HUGE, 8, pairs / 1024));
        add(2, "bulk_alloc", "ns", frames::bulk_alloc(&shared, cpus));
        add(3, "bulk_free", "ns", frames::bulk_free(&shared, cpus, FreeOrder::InOrder));
        add(4, "bulk_free_random", "ns", frames::bulk_free(&fresh(), cpus, FreeOrder::Random));
        add(7, "alternate_free", "ns", frames::bulk_free(&fresh(), cpus, FreeOrder::Alternate));
        if cpus == 2 {
            add(6, "cross_free", "ns", frames::cross_free(&fresh(), pairs));
        }
        add(9, "huge_left_50", "%", frames::huge_left(&fresh(), cpus, 50));
        add(10, "huge_left_90", "%", frames::huge_left(&fresh(), cpus, 90));
    }
    if let Some(bytes) = S::new(FRAMES, 2).metadata_bytes() {
        samples.add(8, "metadata_bytes", 1, S::NAME, "bytes/frame", bytes as f64 / FRAMES as f64);
    }
}
