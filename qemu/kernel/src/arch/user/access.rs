//! Supervisor-mode access prevention (SMAP): the kernel's accesses to user pages fault, save those that
//! mean to.

use core::arch::asm;
use core::arch::x86_64::{__cpuid, __cpuid_count};
use core::sync::atomic::{AtomicBool, Ordering};

use x86_64::registers::control::{Cr4, Cr4Flags};

/// Do the CPUs prevent such accesses? Written by the boot CPU before there are others. Relaxed: it says
/// only which instructions exist.
static PREVENTED: AtomicBool = AtomicBool::new(false);

/// Turns the prevention on, if the executing CPU has it; all CPUs of a machine have the same.
pub fn enable_access_prevention() {
    let has = __cpuid(0).eax >= 7 && __cpuid_count(7, 0).ebx >> 20 & 1 == 1;
    if has {
        // SAFETY: every access of the kernel to user pages is within `allow_access`.
        unsafe { Cr4::write(Cr4::read() | Cr4Flags::SUPERVISOR_MODE_ACCESS_PREVENTION) };
    }
    PREVENTED.store(has, Ordering::Relaxed);
}

/// Calls `access`, which may read and write user pages. It does nothing else: an interrupt that comes
/// meanwhile may, too.
#[inline(always)]
pub fn allow_access<R>(access: impl FnOnce() -> R) -> R {
    let prevented = PREVENTED.load(Ordering::Relaxed);
    if prevented {
        // SAFETY: the CPU has the instruction; it sets a flag that only the prevention looks at.
        unsafe { asm!("stac", options(nostack)) };
    }
    let result = access();
    if prevented {
        // SAFETY: as above.
        unsafe { asm!("clac", options(nostack)) };
    }
    result
}
