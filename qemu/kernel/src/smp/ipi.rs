//! Interrupts between CPUs, in as few ICR writes as the set of targets allows.

use core::sync::atomic::Ordering;

use topomem_percpu::{AtomicCpuSet, CpuId, CpuSet};

use crate::arch::apic::{self, Destination, Message};
use crate::arch::vector::Vector;
use crate::per_cpu;

/// The CPUs that take interrupts. A CPU joins before it enables them.
static RUNNING: AtomicCpuSet = AtomicCpuSet::new();

/// The executing CPU takes interrupts from now on.
pub fn join() {
    RUNNING.insert(per_cpu::current().cpu, Ordering::SeqCst);
}

/// The CPUs that take interrupts.
pub fn running() -> CpuSet {
    RUNNING.load(Ordering::SeqCst)
}

/// Interrupts every CPU of `to` but the executing one.
///
/// One ICR write where `to` is all others, or where flat logical addressing reaches all CPUs
/// (xAPIC, at most eight); else one per target.
pub fn send(vector: Vector, to: &CpuSet) {
    let me = per_cpu::current();
    let mut to = *to;
    to.remove(me.cpu);
    if to.is_empty() {
        return;
    }
    let message = Message::Fixed(vector);
    let sent = |count: u64| me.counters.messages_sent.fetch_add(count, Ordering::Relaxed);
    let mut others = running();
    others.remove(me.cpu);
    if to == others {
        sent(1);
        apic::send(message, Destination::Others);
    } else if apic::has_flat_logical() {
        sent(1);
        let set = to.iter().fold(0, |set, cpu| set | 1_u8.unbounded_shl(cpu.index() as u32));
        apic::send(message, Destination::Flat(set));
    } else {
        for area in to.iter().filter_map(per_cpu::of) {
            sent(1);
            apic::send(message, Destination::Physical(area.apic_id));
        }
    }
}

/// Interrupts `cpu`, if it runs.
pub fn send_one(vector: Vector, cpu: CpuId) {
    send(vector, &CpuSet::of(cpu));
}

/// The shootdown interrupt's handler.
pub fn on_shootdown() {
    per_cpu::current().counters.shootdowns.fetch_add(1, Ordering::Relaxed);
}
