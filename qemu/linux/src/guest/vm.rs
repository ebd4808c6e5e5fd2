//! What memory costs a program: from user mode to user mode, the same program on both kernels.
//!
//! A sample that a timer interrupt falls into is larger.

mod neighbours;
mod objects;

use std::time::Duration;

use rustix::io::Errno;
use rustix::process::getppid;

use super::system::child::{self, Child};
use super::system::clock::{Stopwatch, ticks_per_microsecond};
use super::system::cpu::{self, CpuNumber};
use crate::guest::error::GuestError;
use crate::guest::pages::{self, Layout, Pages};
use crate::guest::record::{Measured, Origin, Record};
use crate::guest::request::{Metric, Subject};
use crate::guest::shapes::{Party, SHAPES};
use crate::guest::spread::Spread;

/// Samples that are not counted: they bring what stays from then on.
const WARM_UP: u64 = 4;
/// Pages of a large operation: those of one page table.
const MANY: usize = 512;
/// Pages of a mebibyte.
const MIB: usize = 256;
/// How long the kernel gets to do what it does while idle, and a child to fall asleep.
const REST: Duration = Duration::from_millis(20);

/// A case, and how many figures each of its samples is the sum of.
struct Case {
    name: &'static str,
    parts: usize,
    /// Of so many samples of a small case, one is taken.
    rarity: u64,
    samples: fn(&Bench) -> Result<Vec<u64>, GuestError>,
}

const CASES: [Case; 18] = [
    case("empty_syscall", |bench| {
        bench.sample(|| {
            bench.time(|| {
                let _ = getppid();
                Ok(())
            })
        })
    }),
    case("mmap_touch_munmap", |bench| bench.sample(|| bench.time(pages::use_one))),
    case("munmap_1", |bench| unmap(bench, 1)),
    case("munmap_64", |bench| unmap(bench, 64)),
    case("munmap_512", |bench| unmap(bench, MANY)),
    Case { parts: 2, ..case("mprotect_1", protect) },
    case("dontneed_1", discard),
    case("fault_zero", |bench| {
        // None of what the kernel has zeroed ahead is left.
        let _rest = populated()?;
        faults(bench, Pages::write)
    }),
    case("fault_zero_pool", |bench| {
        std::thread::sleep(REST);
        faults(bench, Pages::write)
    }),
    case("fault_read", |bench| faults(bench, Pages::read)),
    Case { parts: MANY, ..case("populate_512", populate) },
    case("fork_small", fork_alone),
    case("fork_1m", |bench| fork(bench, MIB)),
    case("fork_16m", |bench| fork(bench, 16 * MIB)),
    case("fork_64m", |bench| fork(bench, 64 * MIB)),
    Case { rarity: 4, ..case("fork_256m", |bench| fork(bench, 256 * MIB)) },
    case("cow_fault", copy_on_write),
    case("fork_touch_512", fork_and_touch),
];

const fn case(name: &'static str, samples: fn(&Bench) -> Result<Vec<u64>, GuestError>) -> Case {
    Case { name, parts: 1, rarity: 1, samples }
}

/// What all cases share.
struct Bench {
    samples: u64,
    stopwatch: Stopwatch,
}

/// Runs all cases, and writes their results. A case whose system call is not there is reported as such.
pub(crate) fn run(subject: Subject, metric: Metric, samples: u64) -> Result<(), GuestError> {
    let cpus = cpu::allowed()?.len();
    cpu::pin(CpuNumber::FIRST)?;
    let origin = Origin { suite: "vm", subject: subject.name(), cpus };
    let (unit, ticks) = match metric {
        Metric::Instructions => ("instructions", 1.0),
        Metric::Time => ("us", ticks_per_microsecond()),
    };
    let stopwatch = Stopwatch::new();
    let report = |name: &str, parts: usize, sampled: Result<Vec<u64>, GuestError>| match sampled {
        Ok(sampled) => {
            let each = ticks * parts as f64;
            if let Some(spread) = Spread::of(sampled.into_iter().map(|sample| sample as f64 / each)) {
                Record::Result(Measured::new(origin, name, unit, spread)).write();
            }
            Ok(())
        }
        Err(GuestError::Call { call, error: Errno::NOSYS }) => {
            Record::Absent { case: name, subject: origin.subject, call }.write();
            Ok(())
        }
        Err(error) => Err(error),
    };
    for case in CASES.iter().chain(&objects::CASES).chain(&neighbours::CASES) {
        let bench = Bench { samples: samples.div_ceil(case.rarity), stopwatch };
        report(case.name, case.parts, (case.samples)(&bench))?;
    }
    for shape in &SHAPES {
        for party in Party::ALL {
            let name = format!("{}_{}", shape.name, party.name());
            report(&name, shape.parts(), shape.sample(party, cpus, samples, stopwatch))?;
        }
    }
    Ok(())
}

impl Bench {
    /// Times `work`.
    fn time(&self, work: impl FnOnce() -> Result<(), GuestError>) -> Result<u64, GuestError> {
        let (result, ticks) = self.stopwatch.time(work);
        result.map(|()| ticks.count())
    }

    /// Takes all samples of a case.
    fn sample(&self, mut one: impl FnMut() -> Result<u64, GuestError>) -> Result<Vec<u64>, GuestError> {
        let mut samples = Vec::with_capacity(self.samples as usize);
        for number in 0..WARM_UP + self.samples {
            let sample = one()?;
            if number >= WARM_UP {
                samples.push(sample);
            }
        }
        Ok(samples)
    }

    /// Does `work` with one page of `pages` after the other, and times each.
    fn each(&self, pages: &Pages, work: fn(&Pages, usize)) -> Result<Vec<u64>, GuestError> {
        let mut numbers = 0..;
        self.sample(|| {
            let index = numbers.next().unwrap_or(0);
            self.time(|| {
                work(pages, index);
                Ok(())
            })
        })
    }

    /// As many pages as there are samples, with those to warm up.
    fn pages(&self) -> Result<Pages, GuestError> {
        Pages::reserve((WARM_UP + self.samples) as usize, Layout::Together)
    }
}

fn unmap(bench: &Bench, count: usize) -> Result<Vec<u64>, GuestError> {
    let pages = Pages::reserve(count, Layout::Together)?;
    bench.sample(|| {
        pages.map()?;
        let sample = bench.time(|| pages.unmap_all());
        pages.clear()?;
        sample
    })
}

/// A page becomes read-only and writable again.
fn protect(bench: &Bench) -> Result<Vec<u64>, GuestError> {
    let pages = Pages::reserve(1, Layout::Together)?;
    pages.map()?;
    bench.sample(|| {
        let there = bench.time(|| pages.protect(0))?;
        pages.read(0);
        let back = bench.time(|| pages.unprotect(0))?;
        pages.write(0);
        Ok(there + back)
    })
}

fn discard(bench: &Bench) -> Result<Vec<u64>, GuestError> {
    let pages = Pages::reserve(1, Layout::Together)?;
    pages.map_untouched()?;
    bench.sample(|| {
        pages.write(0);
        bench.time(|| pages.discard(0))
    })
}

/// The first accesses to pages.
fn faults(bench: &Bench, access: fn(&Pages, usize)) -> Result<Vec<u64>, GuestError> {
    let pages = bench.pages()?;
    pages.map_untouched()?;
    let samples = bench.each(&pages, access);
    pages.clear()?;
    samples
}

fn populated() -> Result<Pages, GuestError> {
    let pages = Pages::reserve(MANY, Layout::Together)?;
    pages.populate()?;
    Ok(pages)
}

fn populate(bench: &Bench) -> Result<Vec<u64>, GuestError> {
    let pages = Pages::reserve(MANY, Layout::Together)?;
    bench.sample(|| {
        let sample = bench.time(|| pages.populate());
        pages.clear()?;
        sample
    })
}

/// The program forks, which has some tens of pages; the child ends at once.
fn fork_alone(bench: &Bench) -> Result<Vec<u64>, GuestError> {
    bench.sample(|| {
        // SAFETY: there is one thread.
        bench.time(|| unsafe { Child::fork(|| ()) }?.wait())
    })
}

/// A process forks that has so many pages more; the child ends at once.
fn fork(bench: &Bench, count: usize) -> Result<Vec<u64>, GuestError> {
    let pages = Pages::reserve(count, Layout::Together)?;
    pages.map()?;
    let samples = fork_alone(bench);
    pages.clear()?;
    samples
}

/// Writes to pages that a child has, too.
fn copy_on_write(bench: &Bench) -> Result<Vec<u64>, GuestError> {
    let pages = bench.pages()?;
    pages.map()?;
    // SAFETY: there is one thread.
    let child = unsafe { Child::fork(child::sleep_on) }?;
    std::thread::sleep(REST);
    let samples = bench.each(&pages, Pages::write);
    child.end()?;
    pages.clear()?;
    samples
}

/// A child writes to pages that it has from its parent, and ends.
fn fork_and_touch(bench: &Bench) -> Result<Vec<u64>, GuestError> {
    let pages = Pages::reserve(MANY, Layout::Together)?;
    pages.map()?;
    let samples = bench.sample(|| {
        // SAFETY: there is one thread.
        bench.time(|| unsafe { Child::fork(|| (0..MANY).for_each(|index| pages.write(index))) }?.wait())
    });
    pages.clear()?;
    samples
}
