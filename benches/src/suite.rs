//! Runs the cases over all subjects, interleaved, and keeps every sample.

use std::collections::BTreeMap;

use topomem_percpu::Order;

use crate::frames::{self, FRAMES, FreeOrder};
use crate::sample::{Key, Summary};
use crate::subject::Subject;
use crate::subjects::{Bitmap, Buddy, Topomem};

/// The samples of a run, and where each figure's row is.
#[derive(Debug, Default)]
pub struct Samples(BTreeMap<(usize, Key), Vec<f64>>);

impl Samples {
    fn add(&mut self, row: usize, key: Key, value: f64) {
        self.0.entry((row, key)).or_default().push(value);
    }

    /// A line for each case and subject.
    #[must_use]
    pub fn summaries(&self) -> Vec<Summary> {
        self.0.iter().map(|((_, key), values)| key.summary(values)).collect()
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
        let mut add = |row, case, unit, value| samples.add(row, Key { cpus, ..key::<S>(case, unit) }, value);
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
        add(8, "huge_left_50", "%", frames::huge_left(&fresh(), cpus, 50));
        add(9, "huge_left_90", "%", frames::huge_left(&fresh(), cpus, 90));
    }
}

fn key<S: Subject>(case: &'static str, unit: &'static str) -> Key {
    Key { suite: "frames", case, subject: S::NAME, cpus: 1, unit }
}

/// The bookkeeping of the subjects that state theirs.
#[must_use]
pub fn metadata() -> Vec<Summary> {
    fn of<S: Subject>() -> Option<Summary> {
        let bytes = S::new(FRAMES, 2).metadata_bytes()?;
        Some(key::<S>("metadata_bytes", "bytes/frame").summary(&[bytes as f64 / FRAMES as f64]))
    }
    [of::<Topomem>(), of::<Bitmap>(), of::<Buddy>()].into_iter().flatten().collect()
}
