//! Delays and time stamps.

use core::arch::x86_64::_rdtsc;

use x86_64::instructions::port::Port;

/// Returns the time stamp counter.
pub(crate) fn ticks() -> u64 {
    // SAFETY: every x86-64 CPU has it.
    unsafe { _rdtsc() }
}

/// Waits about so long: a write to this port, which nothing listens to, takes about a microsecond on a PC.
/// In an emulator it takes less, so the time stamp counter is waited for, too, as if it ran with 1 GHz.
pub(crate) fn delay_microseconds(count: u64) {
    let end = ticks() + count * 1000;
    while ticks() < end {
        // SAFETY: the port does nothing.
        unsafe { Port::<u8>::new(0x80).write(0) };
    }
}
