//! Does the machine work: is every CPU up, and does each hear interrupts from the boot CPU?

use core::sync::atomic::Ordering;
use core::time::Duration;

use topomem_percpu::CpuSet;

use super::failure;
use crate::arch::exit::Outcome;
use crate::arch::{clock, probe, vector};
use crate::boot::Booted;
use crate::smp::ipi;
use crate::{log, per_cpu};

/// How long CPUs may take to answer; the host may run them late.
const PATIENCE: Duration = Duration::from_secs(2);

/// Counts the CPUs, interrupts all of them at once and each by itself, and probes an address
/// that is not mapped.
pub fn run(booted: &Booted) -> Outcome {
    let mut outcome = Outcome::Success;
    let mut fail = |what: core::fmt::Arguments<'_>| {
        failure(what, "smoke");
        outcome = Outcome::Failures;
    };
    let listed: CpuSet = booted.topology.cpus().iter().map(|entry| entry.cpu).collect();
    let start = clock::now();
    while ipi::running() != listed && clock::elapsed(start) < PATIENCE {
        per_cpu::relax();
    }
    let running = ipi::running();
    for cpu in listed.difference(&running).iter() {
        fail(format_args!("{cpu} is not running"));
    }
    let mut others = running;
    others.remove(per_cpu::current().cpu);
    for round in [others].into_iter().chain(others.iter().map(CpuSet::of)) {
        let deaf = interrupt(&round);
        for cpu in deaf.iter() {
            fail(format_args!("{cpu} did not hear an interrupt sent to {} CPUs", round.len()));
        }
    }
    // The page under the first stack's guard; also a fault inside a fault's reach.
    if probe::load(0xffff_c000_dead_0000).is_ok() {
        fail(format_args!("an unmapped address was readable"));
    }
    log!("{} CPUs up and listening", running.len());
    outcome
}

/// Interrupts `targets`, and returns those that did not count it in time.
fn interrupt(targets: &CpuSet) -> CpuSet {
    let heard = |cpu| per_cpu::of(cpu).map_or(0, |area| area.counters.reschedules.load(Ordering::Relaxed));
    let before = heard_by(targets, heard);
    ipi::send(vector::RESCHEDULE, targets);
    let start = clock::now();
    loop {
        let deaf: CpuSet = targets
            .iter()
            .zip(before.iter())
            .filter(|&(cpu, &count)| heard(cpu) == count)
            .map(|(cpu, _)| cpu)
            .collect();
        if deaf.is_empty() || clock::elapsed(start) > PATIENCE {
            return deaf;
        }
        per_cpu::relax();
    }
}

fn heard_by(
    targets: &CpuSet,
    heard: impl Fn(topomem_percpu::CpuId) -> u64,
) -> arrayvec::ArrayVec<u64, { topomem_percpu::MAX_CPUS }> {
    targets.iter().map(heard).collect()
}
