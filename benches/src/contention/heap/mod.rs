//! What CPUs cost each other that use one heap.
//!
//! Three uses: each CPU allocates and frees an object of its own; each frees what another one has allocated, on
//! another node; each holds a few large objects, some of which others free. An owner writes to an object when
//! it has it, and before it gives it up, so what its lines cost is counted, for both subjects. What heaps read
//! and write inside of free objects is not observed.

mod subjects;
mod uses;

use std::rc::Rc;

use super::counts::Counts;
use super::machine;
use super::suite::{CPUS, SEEDS};
use crate::sample::{Key, Summary};

use subjects::{Magazines, Objects, SpinLocked};
use uses::{LARGE, OWN, PASSED, Use};

type Build = fn(usize) -> Rc<dyn Objects>;

const SUBJECTS: [(&str, Build); 2] =
    [("spin-lock", |_| Rc::new(SpinLocked::new())), ("topomem", |cpus| Rc::new(Magazines::new(cpus)))];

/// Picks what is told of a run.
type Pick = fn(&Counts) -> u64;

/// What is told of each use, per alloc or free.
const CASES: [(&str, &Use, Pick); 9] = [
    ("own_lines", &OWN, |counts| counts.transfers),
    ("own_retries", &OWN, |counts| counts.retries),
    ("own_read_modify_writes", &OWN, |counts| counts.modifications),
    ("passed_lines", &PASSED, |counts| counts.transfers),
    ("passed_retries", &PASSED, |counts| counts.retries),
    ("passed_read_modify_writes", &PASSED, |counts| counts.modifications),
    ("large_lines", &LARGE, |counts| counts.transfers),
    ("large_retries", &LARGE, |counts| counts.retries),
    ("large_read_modify_writes", &LARGE, |counts| counts.modifications),
];

/// Every case on both subjects and every number of CPUs.
#[must_use]
pub fn run() -> Vec<Summary> {
    let mut summaries = Vec::new();
    for cpus in CPUS {
        for (subject, build) in SUBJECTS {
            for kind in [&OWN, &PASSED, &LARGE] {
                let runs: Vec<Counts> =
                    (0..SEEDS).map(|seed| measure(build(cpus), kind, cpus, seed)).collect();
                let cases = CASES.iter().filter(|(_, its, _)| its.name == kind.name);
                summaries.extend(cases.map(|&(case, _, pick)| {
                    let per_operation = |counts: &Counts| pick(counts) as f64 / counts.operations as f64;
                    let values: Vec<f64> = runs.iter().map(per_operation).collect();
                    let unit = "per operation";
                    Key { suite: "heap-contention", case, subject, cpus, unit }.summary(&values)
                }));
            }
        }
    }
    summaries
}

/// Counts one use on `cpus` CPUs, after they have used the heap for a while.
fn measure(subject: Rc<dyn Objects>, kind: &Use, cpus: usize, seed: u64) -> Counts {
    machine::reset();
    let workers = uses::workers(&subject, cpus, seed);
    let phase = |turns: usize| {
        let program = |worker: &uses::Shared| -> Box<dyn FnOnce()> {
            let (worker, work) = (worker.clone(), kind.work);
            Box::new(move || work(&mut worker.borrow_mut(), turns))
        };
        machine::run(workers.iter().map(program).collect(), seed)
    };
    phase(kind.turns);
    phase(kind.turns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_with_objects_of_their_own_use_no_common_line() {
        for cpus in [4, 16] {
            let counts = measure(Rc::new(Magazines::new(cpus)), &OWN, cpus, 1);
            assert_eq!(counts.operations, (2 * cpus * OWN.turns) as u64);
            assert_eq!((counts.transfers, counts.modifications, counts.retries), (0, 0, 0), "{cpus} CPUs");
        }
    }

    #[test]
    fn what_others_free_costs_less_than_behind_a_lock() {
        for cpus in [4, 16] {
            let ours = measure(Rc::new(Magazines::new(cpus)), &PASSED, cpus, 1);
            let locked = measure(Rc::new(SpinLocked::new()), &PASSED, cpus, 1);
            // An object's own line moves twice for two operations.
            assert!(ours.transfers > ours.operations * 9 / 10, "{ours:?}");
            assert!(ours.transfers * 2 < locked.transfers, "{cpus} CPUs: {ours:?}, {locked:?}");
        }
    }

    #[test]
    fn a_lock_around_the_heap_is_waited_for() {
        for kind in [&OWN, &PASSED, &LARGE] {
            let counts = measure(Rc::new(SpinLocked::new()), kind, 4, 1);
            assert_eq!(counts.locks, counts.operations, "{}", kind.name);
            assert!(
                counts.contended > counts.locks / 2 && counts.transfers > 3 * counts.operations,
                "{counts:?}"
            );
        }
    }
}
