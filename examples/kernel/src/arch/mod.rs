//! What the kernel needs of the machine.

pub mod apic;
pub mod clock;
pub mod cpu;
pub mod entry;
pub mod interrupts;
pub mod serial;
pub mod start;

/// Sets up the executing CPU as number `index`. Interrupts stay off.
///
/// # Safety
///
/// Called once by each CPU, with a number of its own; by the boot CPU first, after [`interrupts::fill`].
pub unsafe fn set_up_cpu(index: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        cpu::install(index);
        interrupts::load();
    }
    apic::set_up();
}
