//! The cases, in the order of their rows.

use super::across::{BATCH, Batches, Sizes, hand_over};
use super::churn::{Churn, LargeChurn};
use super::counted;
use super::held::{self, held};
use super::pairs::{Batch, Growth, Pair, Zeroed};
use super::subject::Subject;
use super::work::{Work, nanoseconds};
use crate::suite::Effort;

/// A case: its name, and how it is measured.
#[derive(Debug, Clone, Copy)]
pub(super) struct Case {
    pub name: &'static str,
    pub what: What,
    /// Numbers of threads.
    pub cpus: &'static [usize],
    /// Operations of each thread in a full run.
    pub operations: usize,
    pub peers: Peers,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    Pair(Bytes),
    Batch,
    Churn,
    Across(Sizes),
    LargeChurn,
    Growth,
    Zeroed(Bytes),
    /// Several figures: see [`held`].
    Held,
}

/// Sizes that there is a case of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bytes {
    B8,
    B64,
    B256,
    K1,
    K4,
    K16,
    K32,
    K64,
    M2,
}

/// Who takes part beside topomem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Peers {
    /// All.
    All,
    /// All but those whose time grows with the number of free blocks.
    NoLists,
    /// Those that map their memory themselves.
    Mapping,
}

const fn case(
    name: &'static str,
    what: What,
    cpus: &'static [usize],
    operations: usize,
    peers: Peers,
) -> Case {
    Case { name, what, cpus, operations, peers }
}

/// All cases.
pub(super) const CASES: [Case; 17] = [
    case("hot_8", What::Pair(Bytes::B8), &[1], 2_000_000, Peers::All),
    case("hot_64", What::Pair(Bytes::B64), &[1, 2], 2_000_000, Peers::All),
    case("hot_256", What::Pair(Bytes::B256), &[1], 2_000_000, Peers::All),
    case("hot_1k", What::Pair(Bytes::K1), &[1], 2_000_000, Peers::All),
    case("hot_4k", What::Pair(Bytes::K4), &[1], 2_000_000, Peers::All),
    case("hot_16k", What::Pair(Bytes::K16), &[1], 1_000_000, Peers::All),
    case("batch_512", What::Batch, &[1, 2], 2_000_000, Peers::All),
    case("churn", What::Churn, &[1, 2], 500_000, Peers::NoLists),
    case("pc_64", What::Across(Sizes::Same), &[2], 1_000_000, Peers::NoLists),
    case("pc_mixed", What::Across(Sizes::Mixed), &[2], 500_000, Peers::NoLists),
    case("large_32k", What::Pair(Bytes::K32), &[1], 500_000, Peers::All),
    case("large_churn", What::LargeChurn, &[2], 200_000, Peers::NoLists),
    case("growth", What::Growth, &[1], 500, Peers::All),
    case("zeroed_4k", What::Zeroed(Bytes::K4), &[1], 200_000, Peers::All),
    case("zeroed_64k", What::Zeroed(Bytes::K64), &[1], 10_000, Peers::All),
    case("zeroed_2m", What::Zeroed(Bytes::M2), &[1], 200, Peers::All),
    case("held", What::Held, &[1, 2], 1, Peers::Mapping),
];

/// Names the work of a case in an expression.
macro_rules! with_work {
    ($what:expr, $work:ident => $body:expr, $($other:pat => $otherwise:expr),+) => {
        match $what {
            What::Pair(Bytes::B8) => with_work!(@ $work = Pair<8> => $body),
            What::Pair(Bytes::B64) => with_work!(@ $work = Pair<64> => $body),
            What::Pair(Bytes::B256) => with_work!(@ $work = Pair<256> => $body),
            What::Pair(Bytes::K1) => with_work!(@ $work = Pair<1024> => $body),
            What::Pair(Bytes::K4) => with_work!(@ $work = Pair<4096> => $body),
            What::Pair(Bytes::K16) => with_work!(@ $work = Pair<{ 16 << 10 }> => $body),
            What::Pair(Bytes::K32) => with_work!(@ $work = Pair<{ 32 << 10 }> => $body),
            What::Zeroed(Bytes::K4) => with_work!(@ $work = Zeroed<4096> => $body),
            What::Zeroed(Bytes::K64) => with_work!(@ $work = Zeroed<{ 64 << 10 }> => $body),
            What::Zeroed(Bytes::M2) => with_work!(@ $work = Zeroed<{ 2 << 20 }> => $body),
            What::Batch => with_work!(@ $work = Batch => $body),
            What::Churn => with_work!(@ $work = Churn => $body),
            What::LargeChurn => with_work!(@ $work = LargeChurn => $body),
            What::Growth => with_work!(@ $work = Growth => $body),
            $($other => $otherwise,)+
        }
    };
    (@ $work:ident = $type:ty => $body:expr) => {{
        type $work = $type;
        $body
    }};
}

impl Case {
    /// The case called `name`.
    pub(super) fn named(name: &str) -> Option<Case> {
        CASES.into_iter().find(|case| case.name == name)
    }

    /// The rows that a sample has figures for, and what they count.
    pub(super) fn rows(self) -> Vec<(&'static str, &'static str)> {
        if self.what == What::Held { held::ROWS.to_vec() } else { vec![(self.name, "ns")] }
    }

    /// One sample, on a fresh heap: a figure for each row.
    pub(super) fn sample<A: Subject>(self, cpus: usize, effort: Effort) -> Vec<f64> {
        let operations = if effort == Effort::Quick { self.operations / 8 } else { self.operations };
        with_work!(self.what, W => {
            let turns = operations / <W as Work<A>>::OPERATIONS;
            vec![nanoseconds::<A, W>(&A::new(cpus), cpus, turns.max(1))]
        },
        What::Across(sizes) => {
            let counted = operations / BATCH;
            let batches = Batches { before: 0, counted, at_once: 64 };
            let elapsed = hand_over(&A::new(cpus), sizes, batches);
            vec![elapsed.as_nanos() as f64 / (counted * BATCH) as f64]
        },
        What::Held => held::<A>(cpus).figures(),
        other => unreachable!("no case measures {other:?}"))
    }

    /// Does so many operations where they are counted, on a fresh heap and one thread; two if memory goes
    /// from one to another.
    pub(super) fn count<A: Subject>(self, operations: usize) {
        with_work!(self.what, W => {
            let heap = A::new(1);
            heap.enter(0);
            let mut work = <W as Work<A>>::new(&heap, 0, 1);
            (0..<W as Work<A>>::WARM_UP).for_each(|_| work.turn(&heap));
            counted::turns::<A, W>(&heap, &mut work, operations / <W as Work<A>>::OPERATIONS);
            work.end(&heap);
        },
        What::Across(sizes) => {
            let batches = Batches { before: 64, counted: operations / BATCH, at_once: 1 };
            hand_over(&A::new(2), sizes, batches);
        },
        other => panic!("nothing is counted of {other:?}"));
    }
}
