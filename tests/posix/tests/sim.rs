//! topomem on a simulated machine, and the model.
#![cfg(not(any(miri, loom)))]

use std::time::Duration;

use topomem::region::HugePages;
use topomem_posix::compare::answer::{Errno, Fault};

use topomem_posix::cases;
use topomem_posix::compare::campaign::Campaign;
use topomem_posix::compare::coverage::Coverage;
use topomem_posix::compare::rules::{Rules, Support};
use topomem_posix::compare::scope::Scope;
use topomem_posix::compare::{compare, judge};
use topomem_posix::log::operation::{
    Access, At, Call, Map, Operation, Placement, ProcessId, Protection, Sample, Sharing, Source,
};
use topomem_posix::log::{Log, Step};
use topomem_posix::sim::SimSystem;

const CPUS: usize = 4;

/// Returns the number of an environment variable, or what counts without it.
fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

#[test]
fn topomem_answers_the_cases_as_known() {
    let mut system = SimSystem::boot(CPUS).unwrap();
    let cases = cases::all(&Rules::TOPOMEM);
    let (within, beyond): (Vec<_>, Vec<_>) = cases.iter().partition(|case| Scope::TOPOMEM.has(&case.log));
    for case in &within {
        case.check(&mut system).unwrap_or_else(|wrong| panic!("{wrong}"));
    }
    println!("{} cases; {} ask for what is not there yet", within.len(), beyond.len());
    assert!(within.len() >= 40);
}

#[test]
fn topomem_and_the_model_agree_on_random_logs() {
    let mut system = SimSystem::boot(CPUS).unwrap();
    let (seed, logs) = (number("TOPOMEM_POSIX_SEED", 1), number("TOPOMEM_POSIX_LOGS", 80));
    let campaign = Campaign { seed, logs, time: Duration::MAX, mutation: None };
    let coverage = campaign.run(&mut system).unwrap_or_else(|found| panic!("{found}"));
    println!("{coverage}");
    assert_covered(&coverage);
}

/// The page of the window that begins an aligned 2 MiB of a simulated process.
const ALIGNED: u32 = 256;

/// Returns `log` with its window moved to around [`ALIGNED`], in memory that is one page of 2 MiB at first.
fn in_a_large_page(log: &Log, keep_first_map: bool) -> Result<Log, <Log as std::str::FromStr>::Err> {
    // A few pages lie below.
    let shift = ALIGNED - 6;
    let text = log.to_string();
    let mut parts = text.split("\"w");
    let mut moved = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = part.find(|next: char| !next.is_ascii_digit()).unwrap_or(part.len());
        match part[..end].parse::<u32>() {
            Ok(page) => moved += &format!("\"w{}{}", page + shift, &part[end..]),
            // Another word.
            Err(_) => moved += &format!("\"w{part}"),
        }
    }
    let mut moved: Log = moved.parse()?;
    if !keep_first_map {
        moved.steps.remove(0);
    }
    let map = Map {
        placement: Placement::Fixed(At::window(ALIGNED)),
        length: 2 << 20,
        protection: Protection::READ_WRITE,
        sharing: Sharing::Private,
        source: Source::Anonymous,
        offset: 0,
        grows_down: false,
        populate: false,
        slot: 0,
    };
    let touch =
        Operation::Touch { at: At::window(ALIGNED + 60), sample: Sample(1), access: Access::Write(9) };
    let first = [Operation::Call(Call::Map(map)), touch].map(|operation| Step(ProcessId::FIRST, operation));
    moved.steps.splice(0..0, first);
    Ok(moved.closed())
}

/// Pages of 2 MiB and pages mapped around others change no answer.
#[test]
fn large_pages_and_faults_around_change_no_answer() {
    let mut system = SimSystem::boot(CPUS).unwrap().with_faults(HugePages::Always, 16);
    let cases = cases::all(&Rules::TOPOMEM);
    for case in cases.iter().filter(|case| Scope::TOPOMEM.has(&case.log)) {
        case.check(&mut system).unwrap_or_else(|wrong| panic!("{wrong}"));
    }
    let first = number("TOPOMEM_POSIX_SEED", 1);
    let mut coverage = Coverage::default();
    for seed in first..first + number("TOPOMEM_POSIX_LOGS", 24) {
        let log = in_a_large_page(&Campaign::log(seed), seed % 4 == 0).unwrap();
        let log = Scope::TOPOMEM.adapt(&log);
        if let Err(difference) = compare(&mut system, &log, None, &mut coverage) {
            panic!("seed {seed}: {difference}");
        }
    }
}

/// Panics if something was hardly tried.
fn assert_covered(coverage: &Coverage) {
    let calls = [
        ("mmap", 300, &[Errno::EINVAL, Errno::ENOMEM, Errno::EEXIST][..]),
        ("munmap", 100, &[Errno::EINVAL]),
        ("mprotect", 100, &[Errno::EINVAL, Errno::ENOMEM]),
        ("mremap", 50, &[Errno::EINVAL, Errno::EFAULT]),
        ("madvise", 100, &[Errno::EINVAL, Errno::ENOMEM]),
        ("brk", 40, &[]),
        ("pwrite", 10, &[]),
        ("pread", 10, &[]),
        ("ftruncate", 40, &[Errno::EINVAL]),
        ("msync", 3, &[]),
        ("mincore", 1, &[]),
    ];
    for (name, successes, errors) in calls {
        assert!(coverage.of_call(name, None) >= successes, "{name} hardly ever worked");
        for &error in errors {
            assert!(coverage.of_call(name, Some(error)) >= 3, "{name} hardly ever failed with {error:?}");
        }
    }
    assert!(coverage.forks >= 30, "hardly any forks");
    for access in ["read", "write"] {
        let beyond = coverage.of_access(access, Some(Fault::BeyondEnd));
        assert!(beyond >= 5, "{access}: hardly any beyond the end of a file");
    }
    for access in ["read", "write", "execute"] {
        assert!(coverage.of_access(access, None) >= 10, "{access} hardly ever worked");
        for fault in [Fault::Unmapped, Fault::Denied] {
            assert!(coverage.of_access(access, Some(fault)) >= 30, "{access}: hardly any {fault:?}");
        }
    }
}

/// Operations of other CPUs in other parts of one address space change nothing, though they share tables.
#[test]
fn topomem_and_the_model_agree_on_several_cpus_in_one_space() {
    let mut system = SimSystem::boot(CPUS).unwrap();
    let mut coverage = Coverage::default();
    for round in 0..number("TOPOMEM_POSIX_ROUNDS", 10) {
        let logs: Vec<Log> = (0..CPUS as u64).map(|cpu| of_cpu(round, cpu)).collect();
        let traces = system.run_together(&logs).unwrap_or_else(|broken| panic!("round {round}: {broken}"));
        for (cpu, (log, trace)) in logs.iter().zip(&traces).enumerate() {
            let result = judge(Rules::TOPOMEM, log, trace, None);
            result.unwrap_or_else(|kind| panic!("round {round}, CPU {cpu}: {kind}\n{log}"));
            coverage.add(log, trace);
        }
    }
    println!("{coverage}");
}

fn of_cpu(round: u64, cpu: u64) -> Log {
    let scope = Scope { forks: Support::Absent, ..Scope::TOPOMEM };
    let mut log = scope.adapt(&Campaign::log(1_000_000 + round * CPUS as u64 + cpu));
    // The heap is the first CPU's.
    log.steps.retain(|step| cpu == 0 || !matches!(step.1, Operation::Call(Call::Break(_))));
    log.closed()
}
