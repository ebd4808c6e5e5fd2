//! Shootdown alone: the page tables are the kernel's own, and so are the frames.

use topomem_shootdown::prelude::*;

use crate::arch::{apic, cpu, interrupts};
use crate::machine::Machine;
use crate::{must, pages};

pub(crate) struct Kernel;

// SAFETY: CPUs have dense numbers of their own; with preemption off only interrupt handlers come between.
unsafe impl Platform for Kernel {
    fn current_cpu(&self) -> CpuId {
        CpuId::new(cpu::index()).unwrap_or(CpuId::BOOT)
    }
    fn disable_migration(&self) -> Saved {
        cpu::preemption_off();
        Saved::default()
    }
    fn enable_migration(&self, _: Saved) {
        cpu::preemption_on();
    }
}

// SAFETY: the flushes are the library's own; the write to the interrupt controller comes after all stores, and the
// handler calls the queue.
unsafe impl Tlb for Kernel {
    fn send_ipi(&self, to: &CpuSet) {
        to.iter().for_each(|cpu| apic::send(interrupts::TIER, cpu.index()));
    }
    fn on_unresponsive(&self, report: Unresponsive) {
        panic!("{report:?}");
    }
}

pub(crate) static QUEUE: Shootdown<Kernel> = Shootdown::new(Kernel);
static STATES: [CpuState; cpu::MAX_CPUS] = [const { CpuState::new() }; cpu::MAX_CPUS];

pub(crate) fn boot(machine: &Machine) {
    pages::init(machine);
}

pub(crate) fn cpu_online() {
    let pin = Kernel.pin();
    must("shootdown", QUEUE.place(pin.cpu(), &STATES[pin.cpu().index()]));
    must("shootdown", QUEUE.cpu_online(&pin));
}

pub(crate) fn cpu_offline() {
    // SAFETY: from here on the CPU touches nothing whose mapping changes.
    must("shootdown", unsafe { QUEUE.cpu_offline(&Kernel.pin()) });
}

pub(crate) fn interrupt() {
    QUEUE.on_ipi(&Kernel.pin());
}

/// Tells all CPUs to forget `page`.
pub(crate) fn forget(pin: &CpuPin, page: u64) -> Ticket<'static, Kernel> {
    let page = VirtAddr::new_truncate(page);
    QUEUE.invalidate(pin, QUEUE.kernel(), Invalidation::page(page, PageSize::Size4KiB))
}
