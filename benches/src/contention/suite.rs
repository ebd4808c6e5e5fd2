//! Runs the workload over subjects, numbers of CPUs and seeds.

use std::cell::RefCell;
use std::rc::Rc;

use super::counts::Counts;
use super::machine;
use super::subjects::{GlobalLock, Magazines, NodeLock, Shared};
use super::workload::{Inboxes, Worker};
use crate::sample::{Key, Summary};

/// Numbers of CPUs.
pub(super) const CPUS: [usize; 5] = [1, 2, 4, 8, 16];

/// Seeds, each a run.
pub(super) const SEEDS: u64 = 5;

/// Bursts of each CPU before the count begins, and in it.
const WARM_UP: usize = 50;
const COUNTED: usize = 100;

/// Builds a subject for so many CPUs.
type Build = fn(usize) -> Rc<dyn Shared>;

/// Who is compared.
const SUBJECTS: [(&str, Build); 3] = [
    ("global-lock", |_| Rc::new(GlobalLock::new())),
    ("node-lock", |_| Rc::new(NodeLock::new())),
    ("topomem", |cpus| Rc::new(Magazines::new(cpus))),
];

/// Picks what is told of a run.
type Pick = fn(&Counts) -> u64;

/// What is told of a run, per operation.
const CASES: [(&str, Pick); 5] = [
    ("locks_taken", |counts| counts.locks),
    ("locks_contended", |counts| counts.contended),
    ("cas_retries", |counts| counts.retries),
    ("read_modify_writes", |counts| counts.modifications),
    ("cache_lines", |counts| counts.transfers),
];

/// Every case on every subject and number of CPUs.
#[must_use]
pub fn run() -> Vec<Summary> {
    let mut summaries = Vec::new();
    for cpus in CPUS {
        for (subject, build) in SUBJECTS {
            let runs: Vec<Counts> = (0..SEEDS).map(|seed| measure(build(cpus), cpus, seed)).collect();
            summaries.extend(CASES.map(|(case, pick)| summary(case, subject, cpus, &runs, pick)));
        }
    }
    summaries
}

fn measure(subject: Rc<dyn Shared>, cpus: usize, seed: u64) -> Counts {
    let workers: Vec<_> = (0..cpus).map(|cpu| Rc::new(RefCell::new(Worker::new(cpu, seed)))).collect();
    let inboxes: Inboxes = Rc::new(RefCell::new(vec![Vec::new(); cpus]));
    machine::reset();
    let phase = |bursts: usize| {
        let program = |worker: &Rc<RefCell<Worker>>| -> Box<dyn FnOnce()> {
            let (worker, subject, inboxes) = (worker.clone(), subject.clone(), inboxes.clone());
            Box::new(move || worker.borrow_mut().work(&*subject, &inboxes, bursts))
        };
        machine::run(workers.iter().map(program).collect(), seed)
    };
    workers.iter().for_each(|worker| worker.borrow_mut().fill(&*subject));
    phase(WARM_UP);
    phase(COUNTED)
}

fn summary(case: &'static str, subject: &'static str, cpus: usize, runs: &[Counts], pick: Pick) -> Summary {
    let per_operation = |counts: &Counts| pick(counts) as f64 / counts.operations as f64;
    let values: Vec<f64> = runs.iter().map(per_operation).collect();
    Key { suite: "contention", case, subject, cpus, unit: "per operation" }.summary(&values)
}
