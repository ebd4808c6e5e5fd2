//! The service, the heap, and the places in the kernel that call them.

use topomem::{KernelHeap, Lazy, MemoryService, OnlineError, WakersDue};

use super::platform::{Kernel, pin};

/// Frames, shootdowns, page tables, address spaces.
pub(crate) static SERVICE: MemoryService<Kernel> = MemoryService::new(Kernel);

/// The kernel's heap: over the service's frames, so empty until it has some.
#[cfg(not(feature = "hardening"))]
#[global_allocator]
pub(crate) static HEAP: KernelHeap<Kernel> = KernelHeap::new(Kernel, &SERVICE);

/// The kernel's heap, with all measures against wrong uses.
#[cfg(feature = "hardening")]
#[global_allocator]
pub(crate) static HEAP: KernelHeap<Kernel> =
    KernelHeap::with_hardening(Kernel, &SERVICE, topomem::percpu::Hardening::ALL);

/// Brings the executing CPU, not the boot CPU, online.
///
/// # Errors
///
/// [`OnlineError`].
///
/// # Safety
///
/// The CPU runs on the kernel's page tables, polls where it spins, and will take interrupts.
pub(crate) unsafe fn cpu_online() -> Result<(), OnlineError> {
    // SAFETY: the caller's promise; each CPU brings itself up, once.
    unsafe { SERVICE.cpu_online(&pin()) }
}

/// The shootdown interrupt.
pub(crate) fn on_shootdown() {
    let pin = pin();
    // A long task need not end before those that wait for this CPU's answer may go on.
    if SERVICE.on_shootdown_ipi(&pin) == WakersDue::Perhaps {
        SERVICE.wake_due(&pin);
    }
}

/// At the end of the timer's interrupt: what has come due is woken. The kernel's wakers queue a task
/// and send an interrupt, both with interrupts off, so they may run here.
pub(crate) fn after_tick() {
    let pin = pin();
    if SERVICE.wake_is_due(&pin) {
        SERVICE.wake_due(&pin);
    }
}

/// In spin loops.
pub(crate) fn poll() {
    SERVICE.poll_shootdown(&pin());
}

/// Between tasks: those that wait for memory or shootdowns may go on.
pub(crate) fn between_tasks() {
    SERVICE.wake_due(&pin());
}

/// With nothing else to do: zeroes a few frames ahead. False where there are enough.
pub(crate) fn while_idle() -> bool {
    SERVICE.frames().refill_zeroed(&pin(), 4) > 0
}

/// The executing CPU is about to halt, interrupts off: shootdowns pass it by from now on.
/// Afterwards tasks may be runnable.
pub(crate) fn enter_idle() {
    let pin = pin();
    // SAFETY: until `leave_idle` only interrupt handlers run here, and they touch nothing but
    // the image, the direct map, stacks and devices, whose mappings never change.
    unsafe { SERVICE.shootdown().enter_lazy(&pin, Lazy::Idle) };
    // Those who waited for this CPU alone need not wait any more.
    SERVICE.wake_due(&pin);
}

/// Ends [`enter_idle`], before anything else runs.
pub(crate) fn leave_idle() {
    SERVICE.shootdown().leave_lazy(&pin());
}
