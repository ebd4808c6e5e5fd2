//! Interrupts between CPUs, in as few ICR writes as the set of targets allows.

use core::sync::atomic::Ordering;

use topomem::percpu::AtomicCpuSet;
use topomem::{CpuId, CpuSet};
use topomem_boot::{Destination, LogicalId, Message};

use crate::arch::interrupt::apic;
use crate::arch::interrupt::vector::Vector;
use crate::memory::service;
use crate::per_cpu::{self, PerCpu};

/// The CPUs that take interrupts. A CPU joins before it enables them.
static RUNNING: AtomicCpuSet = AtomicCpuSet::new();

/// The executing CPU takes interrupts from now on.
pub(crate) fn join() {
    RUNNING.insert(per_cpu::current().cpu, Ordering::SeqCst);
}

/// The CPUs that take interrupts.
pub(crate) fn running() -> CpuSet {
    RUNNING.load(Ordering::SeqCst)
}

/// Interrupts every CPU of `to` but the executing one.
///
/// One ICR write where `to` holds all others that run; in xAPIC mode one for up to eight CPUs, or
/// one per four (CPUs that share a logical cluster); else one per target.
// Always: each caller has its vector, and a call would cost as much as the comparison.
#[inline(always)]
pub(crate) fn send(vector: Vector, to: &CpuSet) {
    let me = per_cpu::current();
    if RUNNING.others_are_in(to, me.cpu, Ordering::SeqCst) {
        return send_to(Destination::Others, vector, me);
    }
    send_to_some(vector, to, me);
}

#[inline]
fn send_to(destination: Destination, vector: Vector, me: &PerCpu) {
    me.counters.messages_sent.fetch_add(1, Ordering::Relaxed);
    apic::send(Message::Fixed(vector.0), destination);
}

#[inline(never)]
fn send_to_some(vector: Vector, to: &CpuSet, me: &PerCpu) {
    let send = |destination| send_to(destination, vector, me);
    let mut gathered: Option<LogicalId> = None;
    for area in to.iter().filter(|&cpu| cpu != me.cpu).filter_map(per_cpu::of) {
        let Some(id) = apic::logical_id(area.cpu) else {
            send(Destination::Physical(area.apic_id));
            continue;
        };
        // Clusters are runs of CPU numbers, which the set yields in order.
        gathered = match gathered.map(|ids| (ids, apic::join(ids, id))) {
            Some((_, Some(joined))) => Some(joined),
            Some((ids, None)) => {
                send(Destination::Logical(ids));
                Some(id)
            }
            None => Some(id),
        };
    }
    if let Some(ids) = gathered {
        send(Destination::Logical(ids));
    }
}

/// Interrupts `cpu`, if it runs and is not the executing one.
#[inline]
pub(crate) fn send_one(vector: Vector, cpu: CpuId) {
    let me = per_cpu::current();
    if let Some(area) = per_cpu::of(cpu)
        && cpu != me.cpu
    {
        send_to(Destination::Physical(area.apic_id), vector, me);
    }
}

/// The shootdown interrupt's handler.
pub(crate) fn on_shootdown() {
    service::on_shootdown();
}
