//! The host's Linux and the model.
#![cfg(all(target_os = "linux", target_arch = "x86_64", not(miri)))]

use std::collections::BTreeMap;
use std::time::Duration;

use topomem_posix::cases;
use topomem_posix::compare::answer::{Errno, Fault};
use topomem_posix::compare::campaign::Campaign;
use topomem_posix::compare::coverage::Coverage;
use topomem_posix::compare::system::System;
use topomem_posix::compare::{compare, judge};
use topomem_posix::linux::Linux;
use topomem_posix::model::{ModelSystem, Mutation};

/// Returns the number of an environment variable, or what counts without it.
fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

#[test]
fn linux_answers_the_cases_as_known() {
    let mut linux = Linux::of_host().unwrap();
    for case in cases::all(&linux.rules()) {
        case.check(&mut linux).unwrap_or_else(|wrong| panic!("{} on {}", wrong, linux.name()));
    }
}

#[test]
fn linux_and_the_model_agree_on_the_cases() {
    let mut linux = Linux::of_host().unwrap();
    for case in cases::all(&linux.rules()) {
        let result = compare(&mut linux, &case.log, None, &mut Coverage::default());
        result.unwrap_or_else(|difference| panic!("{}: {difference}", case.name));
    }
}

#[test]
fn linux_and_the_model_agree_on_random_logs() {
    let mut linux = Linux::of_host().unwrap();
    let logs = number("TOPOMEM_POSIX_LOGS", 500);
    let seed = number("TOPOMEM_POSIX_SEED", 1);
    let campaign = Campaign { seed, logs, time: Duration::MAX, mutation: None };
    let coverage = campaign.run(&mut linux).unwrap_or_else(|found| panic!("{found}"));
    println!("{}\n{coverage}", linux.name());
    assert_eq!(coverage.logs, logs);
    assert_covered(&coverage, logs);
}

/// Panics if something was hardly tried.
fn assert_covered(coverage: &Coverage, logs: u64) {
    let least = |count: u64| (count * logs / 500).max(1);
    let calls = [
        (
            "mmap",
            2000,
            &[Errno::EINVAL, Errno::ENOMEM, Errno::EEXIST, Errno::EACCES, Errno::ENODEV, Errno::EBADF][..],
        ),
        ("mmap", 2000, &[Errno::EOVERFLOW]),
        ("munmap", 500, &[Errno::EINVAL]),
        ("mprotect", 500, &[Errno::EINVAL, Errno::ENOMEM]),
        ("mremap", 300, &[Errno::EINVAL, Errno::EFAULT]),
        ("madvise", 500, &[Errno::EINVAL, Errno::ENOMEM, Errno::EACCES, Errno::EFAULT]),
        ("brk", 300, &[]),
        ("msync", 20, &[Errno::EINVAL, Errno::ENOMEM]),
        ("mincore", 10, &[Errno::EFAULT, Errno::ENOMEM]),
        ("mlock", 10, &[Errno::ENOMEM]),
        ("pwrite", 100, &[Errno::EBADF]),
        ("ftruncate", 300, &[Errno::EBADF, Errno::EINVAL]),
    ];
    for (name, successes, errors) in calls {
        assert!(coverage.of_call(name, None) >= least(successes), "{name} hardly ever worked");
        for &error in errors {
            assert!(
                coverage.of_call(name, Some(error)) >= least(10),
                "{name} hardly ever failed with {error:?}"
            );
        }
    }
    assert!(coverage.of_call("mprotect", Some(Errno::EACCES)) >= 1);
    assert!(coverage.of_call("mremap", Some(Errno::ENOMEM)) >= 1);
    for access in ["read", "write", "execute"] {
        assert!(coverage.of_access(access, None) >= least(50), "{access} hardly ever worked");
        for fault in [Fault::Unmapped, Fault::Denied, Fault::BeyondEnd] {
            assert!(coverage.of_access(access, Some(fault)) >= least(20), "{access}: hardly any {fault:?}");
        }
    }
    assert!(coverage.forks >= least(100));
    assert!(coverage.pages >= least(5000));
}

/// Each deliberate error of the model is seen, or else the comparison would not see such an error of a system.
#[test]
fn the_comparison_sees_each_mutation_of_the_model() {
    let mut linux = Linux::of_host().unwrap();
    let rules = linux.rules();
    let mut found: BTreeMap<Mutation, usize> = BTreeMap::new();
    let known = cases::all(&rules).into_iter().map(|case| case.log);
    for (number, log) in known.chain((1..=1000).map(Campaign::log)).enumerate() {
        let log = log.closed();
        let trace = linux.run(&log).unwrap_or_else(|broken| panic!("{broken}\n{log}"));
        for mutation in Mutation::ALL {
            if !found.contains_key(&mutation) && judge(rules, &log, &trace, Some(mutation)).is_err() {
                found.insert(mutation, number);
            }
        }
        if found.len() == Mutation::ALL.len() {
            break;
        }
    }
    println!("the first log that sees it: {found:?}");
    let missed: Vec<_> = Mutation::ALL.into_iter().filter(|mutation| !found.contains_key(mutation)).collect();
    assert!(missed.is_empty(), "not seen: {missed:?}");
}

#[test]
fn the_model_agrees_with_itself() {
    let rules = Linux::of_host().unwrap().rules();
    let mut model = ModelSystem { rules, mutation: None };
    let campaign = Campaign { seed: 1, logs: 200, time: Duration::MAX, mutation: None };
    campaign.run(&mut model).unwrap_or_else(|found| panic!("{found}"));
    for case in cases::all(&rules) {
        case.check(&mut model).unwrap_or_else(|wrong| panic!("{wrong}"));
    }
}
