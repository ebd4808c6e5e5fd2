//! The trap flag of the CPU: while it is set, the host sends `SIGTRAP` after each instruction.

use std::arch::asm;

use crate::breakpoint;

/// The bit of the flags register.
pub(crate) const TRAP: u64 = 1 << 8;

fn flags() -> u64 {
    let flags: u64;
    // SAFETY: reads the flags through the stack, and changes nothing.
    unsafe { asm!("pushfq", "pop {}", out(reg) flags) };
    flags
}

/// Sets the flags in `flags`: [`TRAP`], or none. The first trap comes after the `nop`, so that the
/// first stop point is before all instructions of the caller's.
///
/// # Safety
///
/// This thread has a handler for `SIGTRAP` that lets it go on.
#[inline(always)]
unsafe fn set(flags: u64) {
    // SAFETY: by the caller; other flags stay as they are.
    unsafe { asm!("pushfq", "or qword ptr [rsp], {}", "popfq", "nop", in(reg) flags) };
}

/// Clears the flag.
#[inline(always)]
fn clear() {
    // SAFETY: without the flag the CPU does what it does usually; other flags stay.
    unsafe { asm!("pushfq", "and qword ptr [rsp], {}", "popfq", const !(TRAP as i32)) };
}

/// Clears the flag when it goes out of scope, by a panic too.
struct Clear;

impl Drop for Clear {
    fn drop(&mut self) {
        clear();
    }
}

/// Calls `f` with the flags in `flags` set: [`TRAP`], or none.
///
/// There is one copy of this code, whatever is called, so that a breakpoint meets the same
/// instructions as a trap.
///
/// # Safety
///
/// As for [`set`].
#[inline(never)]
pub(crate) unsafe fn trapping(flags: u64, f: &mut dyn FnMut()) {
    let _clear = Clear;
    // SAFETY: by the caller.
    unsafe { set(flags) };
    f();
}

/// Sets the flag when it goes out of scope, if it was set before, and lets a breakpoint count.
struct Restore {
    was_set: bool,
}

impl Drop for Restore {
    fn drop(&mut self) {
        breakpoint::enable();
        if self.was_set {
            // SAFETY: the flag was set on this thread before, so the handler is there.
            unsafe { set(TRAP) };
        }
    }
}

/// Calls `f`, whose instructions are no stop points: as if interrupts were masked meanwhile.
///
/// Test platforms use this where the stopped code would hold something that a nested context
/// needs, for instance the host's heap or a lock of a simulated device.
pub fn masked<R>(f: impl FnOnce() -> R) -> R {
    let _restore = Restore { was_set: flags() & TRAP != 0 };
    clear();
    breakpoint::disable();
    f()
}
