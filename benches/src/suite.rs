//! Runs the cases over all subjects, interleaved, and keeps every sample.

use std::collections::BTreeMap;

use topomem_percpu::Order;

use crate::frames::{self, FRAMES, FreeOrder};
use crate::sample::{Key, Summary};
use crate::subject::Subject;
use crate::subjects::{Bitmap, Buddy, Paranoid, Topomem};

/// The samples of a run, and where each figure's row is.
#[derive(Debug, Default)]
pub struct Samples(BTreeMap<(usize, Key), Vec<f64>>);

impl Samples {
    pub(crate) fn add(&mut self, row: usize, key: Key, value: f64) {
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

/// What is measured. Every sample has a fresh allocator, so that none inherits another's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Case {
    Pair(&'static str, Order, usize),
    BulkAlloc,
    BulkFree(&'static str, FreeOrder),
    ListFree,
    CrossFree,
    HugeLeft(&'static str, usize),
}

const fn order(order: u8) -> Order {
    match Order::new(order) {
        Some(order) => order,
        None => panic!("no such order"),
    }
}

/// All cases, in the order of the rows.
const CASES: [Case; 15] = [
    Case::Pair("pair_burst32", Order::FRAME, 32),
    Case::Pair("pair_burst512", Order::FRAME, 512),
    Case::BulkAlloc,
    Case::BulkFree("bulk_free", FreeOrder::InOrder),
    Case::BulkFree("bulk_free_random", FreeOrder::Random),
    Case::ListFree,
    Case::Pair("pair_order1", order(1), 32),
    Case::Pair("pair_order3", order(3), 32),
    Case::Pair("pair_order6", order(6), 32),
    Case::Pair("pair_order8", order(8), 32),
    Case::Pair("pair_order9", Order::HUGE, 8),
    Case::CrossFree,
    Case::BulkFree("alternate_free", FreeOrder::Alternate),
    Case::HugeLeft("huge_left_50", 50),
    Case::HugeLeft("huge_left_90", 90),
];

impl Case {
    /// Its name, and what its figures count.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Case::Pair(name, ..) | Case::BulkFree(name, _) => (name, "ns"),
            Case::BulkAlloc => ("bulk_alloc", "ns"),
            Case::ListFree => ("list_free_random", "ns"),
            Case::CrossFree => ("cross_free", "ns"),
            Case::HugeLeft(name, _) => (name, "%"),
        }
    }

    fn takes_part(self, cpus: usize) -> bool {
        self != Case::CrossFree || cpus == 2
    }

    /// What is left of huge pages hardly varies, and takes long.
    fn is_due(self, round: usize, effort: Effort) -> bool {
        let huge = matches!(self, Case::HugeLeft(..));
        !huge || round < if effort == Effort::Quick { 1 } else { 3 }
    }

    fn sample<S: Subject>(self, cpus: usize, effort: Effort) -> f64 {
        let subject = S::new(FRAMES, cpus);
        let frames = if effort == Effort::Quick { 1 << 16 } else { 1 << 19 };
        match self {
            // An aligned run of 512 costs a peer as much as a thousand frames.
            Case::Pair(_, Order::HUGE, burst) => {
                frames::pairs(&subject, cpus, Order::HUGE, burst, frames / 1024)
            }
            Case::Pair(_, order, burst) => {
                let rounds = frames / burst / order.frames().min(32) as usize;
                frames::pairs(&subject, cpus, order, burst, rounds)
            }
            Case::BulkAlloc => frames::bulk_alloc(&subject, cpus),
            Case::BulkFree(_, order) => frames::bulk_free(&subject, cpus, order),
            Case::ListFree => frames::list_free(&subject, cpus),
            Case::CrossFree => frames::cross_free(&subject, frames),
            Case::HugeLeft(_, fill) => frames::huge_left(&subject, cpus, fill),
        }
    }
}

/// Measures every subject on every case: in each round, case by case, one subject after the
/// other, a different one first each time.
#[must_use]
pub fn run(effort: Effort) -> Samples {
    let rounds = if effort == Effort::Quick { 3 } else { 15 };
    let mut samples = Samples::default();
    for round in 0..rounds {
        let due = |(_, case): &(usize, Case)| case.is_due(round, effort);
        for (row, case) in CASES.into_iter().enumerate().filter(due) {
            for cpus in [1, 2].into_iter().filter(|&cpus| case.takes_part(cpus)) {
                let mut subjects = [add::<Topomem>, add::<Paranoid>, add::<Bitmap>, add::<Buddy>];
                subjects.rotate_left(round % 4);
                subjects.iter().for_each(|add| add(&mut samples, row, case, cpus, effort));
            }
        }
    }
    samples
}

/// Adds a sample of one subject.
fn add<S: Subject>(samples: &mut Samples, row: usize, case: Case, cpus: usize, effort: Effort) {
    let (name, unit) = case.names();
    samples.add(row, Key { cpus, ..key::<S>(name, unit) }, case.sample::<S>(cpus, effort));
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
    [of::<Topomem>(), of::<Paranoid>(), of::<Bitmap>(), of::<Buddy>()].into_iter().flatten().collect()
}
