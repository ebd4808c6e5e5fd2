//! Memory of one program on several CPUs: making a region, the faults of its pages, and removing it.
//!
//! Each CPU works on regions of its own. No CPU runs in the space, so that no shootdown is sent: what those
//! cost is counted elsewhere, and is the same for both subjects.

mod platform;
mod rw_lock;
mod subjects;

use std::cell::RefCell;
use std::rc::Rc;

use topomem::VirtAddr;

use super::counts::Counts;
use super::machine;
use super::suite::{CPUS, SEEDS};
use crate::sample::{Key, Summary};

use subjects::{OneLevel, PAGES, Space, TwoLevel};

/// Regions that each CPU makes and removes before the count begins, and in it.
const WARM_UP: usize = 20;
const COUNTED: usize = 40;

type Build = fn(usize) -> Rc<dyn Space>;

const SUBJECTS: [(&str, Build); 2] =
    [("two-level", |cpus| Rc::new(TwoLevel::new(cpus))), ("topomem", |cpus| Rc::new(OneLevel::new(cpus)))];

/// What is counted, of all CPUs.
#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    mmap: Counts,
    fault: Counts,
    munmap: Counts,
    /// Claims of page tables that had to be waited for.
    claims_contended: u64,
    regions: u64,
}

impl Tally {
    fn all(&self) -> Counts {
        let mut sum = self.mmap;
        sum += self.fault;
        sum += self.munmap;
        sum
    }
}

/// Picks what is told of a run, and per how many.
type Pick = fn(&Tally) -> (u64, u64);

const CASES: [(&str, Pick, &str); 6] = [
    ("mmap_lines", |tally| (tally.mmap.transfers, tally.regions), "per call"),
    ("fault_lines", |tally| (tally.fault.transfers, tally.regions * PAGES), "per call"),
    ("munmap_lines", |tally| (tally.munmap.transfers, tally.regions), "per call"),
    ("locks_contended", |tally| (tally.all().contended + tally.claims_contended, tally.regions), PER_REGION),
    ("cas_retries", |tally| (tally.all().retries, tally.regions), PER_REGION),
    ("read_modify_writes", |tally| (tally.all().modifications, tally.regions), PER_REGION),
];

/// A region's mmap, the faults of all its pages, and its munmap.
const PER_REGION: &str = "per region";

/// Every case on both subjects and every number of CPUs.
#[must_use]
pub fn run() -> Vec<Summary> {
    let mut summaries = Vec::new();
    for cpus in CPUS {
        for (subject, build) in SUBJECTS {
            let runs: Vec<Tally> = (0..SEEDS).map(|seed| measure(build(cpus), cpus, seed)).collect();
            summaries.extend(CASES.map(|(case, pick, unit)| {
                let values: Vec<f64> = runs.iter().map(|tally| ratio(pick(tally))).collect();
                Key { suite: "spaces", case, subject, cpus, unit }.summary(&values)
            }));
        }
    }
    summaries
}

fn ratio((events, operations): (u64, u64)) -> f64 {
    events as f64 / operations as f64
}

fn measure(space: Rc<dyn Space>, cpus: usize, seed: u64) -> Tally {
    machine::reset();
    let phase = |regions: usize| {
        let tally = Rc::new(RefCell::new(Tally::default()));
        let program = |cpu: usize| -> Box<dyn FnOnce()> {
            let (space, tally) = (space.clone(), tally.clone());
            Box::new(move || (0..regions).for_each(|_| one_region(&*space, cpu, &tally)))
        };
        let contended = space.claims_contended();
        machine::run((0..cpus).map(program).collect(), seed);
        let claims_contended = space.claims_contended() - contended;
        Tally { claims_contended, ..tally.take() }
    };
    phase(WARM_UP);
    phase(COUNTED)
}

/// Makes a region, has all its pages mapped, and removes it.
fn one_region(space: &dyn Space, cpu: usize, tally: &RefCell<Tally>) {
    let (start, mmap) = counted(|| space.mmap(cpu));
    let ((), fault) = counted(|| (0..PAGES).for_each(|page| space.fault(cpu, page_of(start, page))));
    let ((), munmap) = counted(|| space.munmap(cpu, start));
    let mut tally = tally.borrow_mut();
    tally.mmap += mmap;
    tally.fault += fault;
    tally.munmap += munmap;
    tally.regions += 1;
}

/// The page of the number `page` from `start` on.
fn page_of(start: VirtAddr, page: u64) -> VirtAddr {
    VirtAddr::new_truncate(start.as_u64() + (page << 12))
}

/// Calls `body`, and returns what it counted on its CPU.
fn counted<R>(body: impl FnOnce() -> R) -> (R, Counts) {
    let before = machine::counts();
    let result = body();
    (result, machine::counts() - before)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_with_regions_of_their_own_wait_for_no_claim() {
        let tally = measure(Rc::new(OneLevel::new(4)), 4, 1);
        assert_eq!(tally.regions, 4 * COUNTED as u64);
        assert_eq!((tally.claims_contended, tally.all().contended, tally.all().retries), (0, 0, 0));
    }

    #[test]
    fn faults_of_cpus_with_regions_of_their_own_use_no_common_line() {
        for cpus in [4, 16] {
            let tally = measure(Rc::new(OneLevel::new(cpus)), cpus, 1);
            assert_eq!(tally.fault.transfers, 0, "{cpus} CPUs: {tally:?}");
        }
    }

    #[test]
    fn a_lock_around_the_regions_is_waited_for() {
        let tally = measure(Rc::new(TwoLevel::new(4)), 4, 1);
        assert_eq!(tally.all().locks, tally.regions * (2 + PAGES));
        assert!(tally.all().contended > tally.regions, "{tally:?}");
    }
}
