//! Does the machine work: does each CPU hear interrupts, and wake for tasks?

extern crate alloc;

use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use topomem::{CpuId, CpuSet};
use topomem_boot::Leaves;

use super::{TIMEOUT, failure};
use crate::arch::exit::Outcome;
use crate::arch::interrupt::vector;
use crate::arch::{clock, features, probe};
use crate::executor::{spawn_on, yield_now};
use crate::smp::ipi;
use crate::{log, per_cpu};

/// An address in the kernel's half that is never mapped.
pub(super) const UNMAPPED: u64 = 0xffff_e000_dead_0000;
/// Tasks that each CPU is given, one after another.
const TURNS: usize = 20;

/// Interrupts all CPUs at once, every second, and each by itself, passes tasks around, and
/// probes an address that is not mapped. The first page tables must have only `leaves` that the CPU
/// knows: emulators accept others.
pub(super) async fn run(leaves: &Leaves) -> Outcome {
    let mut outcome = Outcome::Success;
    let mut fail = |what: core::fmt::Arguments<'_>| {
        failure(what, "machine");
        outcome = Outcome::Failures;
    };
    let running = ipi::running();
    let mut others = running.clone();
    others.remove(per_cpu::current().cpu);
    let odd: CpuSet = others.iter().filter(|cpu| cpu.index() % 2 == 1).collect();
    for round in [others.clone(), odd].into_iter().chain(others.iter().map(CpuSet::of)) {
        let unanswered = interrupt(&round);
        for cpu in unanswered.iter() {
            fail(format_args!("{cpu} did not hear an interrupt sent to {} CPUs", round.len()));
        }
    }
    for cpu in relay(&running).await.iter() {
        fail(format_args!("{cpu} does not take turns with {}", per_cpu::current().cpu));
    }
    if leaves.huge != 0 && !features::has_gigabyte_pages() {
        fail(format_args!("{} leaves of 1 GiB, which the CPU does not have", leaves.huge));
    }
    if probe::load(UNMAPPED).is_ok() {
        fail(format_args!("an unmapped address was readable"));
    }
    log!("{} CPUs up and listening", running.len());
    outcome
}

/// Awaits, on each CPU in turn, a task that itself takes turns: wakes cross CPUs both ways, and
/// a lost one hangs the run. Returns the CPUs that took no task.
async fn relay(running: &CpuSet) -> CpuSet {
    let mut unable = CpuSet::new();
    for cpu in running.iter() {
        for _ in 0..TURNS {
            let task = spawn_on(cpu, || async {
                yield_now().await;
                per_cpu::current().cpu
            });
            let ran_on = match task {
                Ok(task) => Some(task.await),
                Err(_) => None,
            };
            if ran_on != Some(cpu) {
                unable.insert(cpu);
            }
        }
    }
    unable
}

/// Interrupts `targets`, and returns those that did not count it in time.
fn interrupt(targets: &CpuSet) -> CpuSet {
    let heard = |cpu| per_cpu::of(cpu).map_or(0, |area| area.counters.reschedules.load(Ordering::Relaxed));
    let before = heard_by(targets, heard);
    ipi::send(vector::RESCHEDULE, targets);
    let start = clock::now();
    loop {
        let unanswered: CpuSet = targets
            .iter()
            .zip(before.iter())
            .filter(|&(cpu, &count)| heard(cpu) == count)
            .map(|(cpu, _)| cpu)
            .collect();
        if unanswered.is_empty() || clock::elapsed(start) > TIMEOUT {
            return unanswered;
        }
        per_cpu::relax();
    }
}

fn heard_by(targets: &CpuSet, heard: impl Fn(CpuId) -> u64) -> Vec<u64> {
    targets.iter().map(heard).collect()
}
