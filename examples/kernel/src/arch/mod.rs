//! What the kernel needs of the machine.

pub(crate) mod apic;
pub(crate) mod clock;
pub(crate) mod cpu;
pub(crate) mod entry;
pub(crate) mod interrupts;
pub(crate) mod serial;
pub(crate) mod start;

/// Sets up the executing CPU as number `index`. Interrupts stay off.
///
/// # Safety
///
/// Called once by each CPU, with a number of its own; by the boot CPU first, after [`interrupts::fill`].
pub(crate) unsafe fn set_up_cpu(index: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        cpu::install(index);
        interrupts::load();
    }
    apic::set_up();
}
