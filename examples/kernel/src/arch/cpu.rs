//! What each CPU has for itself: reached through GS, so that one instruction finds or changes it, whatever
//! interrupts come before and after.

use core::arch::asm;
use core::cell::{Cell, UnsafeCell};
use core::sync::atomic::{AtomicU32, Ordering};

use x2apic::lapic::LocalApic;
use x86_64::VirtAddr;
use x86_64::registers::model_specific::GsBase;

use crate::task::{Registers, TaskIndex};

/// The most CPUs that the kernel runs on.
pub(crate) const MAX_CPUS: usize = 16;

/// A CPU's own state. `asm!` below knows where the first two fields lie.
#[repr(C)]
pub(crate) struct Cpu {
    index: Cell<u32>,
    /// How many contexts have turned preemption off.
    preemption_off: Cell<u32>,
    apic_id: AtomicU32,
    /// The task that runs; `None` while the CPU idles.
    pub(crate) current: Cell<Option<TaskIndex>>,
    /// Where the CPU idles, while a task runs.
    pub(crate) idle: UnsafeCell<Registers>,
    pub(crate) apic: UnsafeCell<Option<LocalApic>>,
}

// SAFETY: each CPU uses its own alone, with interrupts off where a handler uses the same field.
unsafe impl Sync for Cpu {}

static CPUS: [Cpu; MAX_CPUS] = [const {
    Cpu {
        index: Cell::new(0),
        preemption_off: Cell::new(0),
        apic_id: AtomicU32::new(0),
        current: Cell::new(None),
        idle: UnsafeCell::new(Registers::NONE),
        apic: UnsafeCell::new(None),
    }
}; MAX_CPUS];

/// Makes the executing CPU number `index`.
///
/// # Safety
///
/// Called once by each CPU, with a number of its own.
pub(crate) unsafe fn install(index: usize) {
    let cpu = &CPUS[index];
    cpu.index.set(index as u32);
    cpu.apic_id.store(apic_id(), Ordering::Relaxed);
    GsBase::write(VirtAddr::from_ptr(cpu));
}

/// Returns the executing CPU's APIC id, as firmware numbers it.
pub(crate) fn apic_id() -> u32 {
    core::arch::x86_64::__cpuid(1).ebx >> 24
}

/// Returns the APIC id of CPU number `index`, which has been installed.
#[allow(dead_code, reason = "not every tier needs it")]
pub(crate) fn apic_id_of(index: usize) -> u32 {
    CPUS[index].apic_id.load(Ordering::Relaxed)
}

/// Returns the executing CPU's number. Unless preemption is off it may be another's right after.
pub(crate) fn index() -> usize {
    let index: u32;
    // SAFETY: GS holds the address of this CPU's `Cpu`, which begins with the number.
    unsafe { asm!("mov {0:e}, gs:[0]", out(reg) index, options(nostack, readonly, preserves_flags)) };
    index as usize
}

/// Returns the executing CPU's state. Called with preemption or interrupts off.
pub(crate) fn this() -> &'static Cpu {
    &CPUS[index()]
}

/// Turns preemption off until the matching [`preemption_on`].
#[allow(dead_code, reason = "not every tier needs it")]
pub(crate) fn preemption_off() {
    // SAFETY: as in `index`. One instruction: it is this CPU's count, wherever the context was before.
    unsafe { asm!("inc dword ptr gs:[4]", options(nostack)) };
}

/// Ends what the last [`preemption_off`] of this context began.
#[allow(dead_code, reason = "not every tier needs it")]
pub(crate) fn preemption_on() {
    // SAFETY: as in `index`; the context has not migrated since `preemption_off`.
    unsafe { asm!("dec dword ptr gs:[4]", options(nostack)) };
}

impl Cpu {
    /// Says whether the interrupted context may be preempted. For interrupt handlers.
    pub(crate) fn is_preemptible(&self) -> bool {
        self.preemption_off.get() == 0
    }
}
