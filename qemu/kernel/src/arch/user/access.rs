//! Supervisor-mode access prevention (SMAP): the kernel's accesses to user pages fault, save those that
//! mean to.

use core::arch::asm;
use core::arch::x86_64::{__cpuid, __cpuid_count};
use core::sync::atomic::{AtomicBool, Ordering};

use x86_64::registers::control::{Cr4, Cr4Flags};

/// Do the CPUs prevent such accesses? Written by the boot CPU before there are others. Relaxed: it says
/// only which instructions may be used.
static PREVENTED: AtomicBool = AtomicBool::new(false);

/// Decides whether CPUs prevent such accesses: if the boot CPU can, unless `word` is `off`. All CPUs of a machine
/// can or none. Where KVM has no hardware to run on, it tells the host's features, and knows no STAC.
pub(crate) fn choose_access_prevention(word: Option<&str>) {
    let has = __cpuid(0).eax >= 7 && __cpuid_count(7, 0).ebx >> 20 & 1 == 1;
    PREVENTED.store(has && word != Some("off"), Ordering::Relaxed);
}

/// Turns the prevention on for the executing CPU, if it was chosen.
pub(crate) fn enable_access_prevention() {
    if PREVENTED.load(Ordering::Relaxed) {
        // SAFETY: the CPU can, and every access of the kernel to user pages is within `allow_access`.
        unsafe { Cr4::write(Cr4::read() | Cr4Flags::SUPERVISOR_MODE_ACCESS_PREVENTION) };
    }
}

/// Calls `access`, which may read and write user pages. It does nothing else: an interrupt that comes
/// meanwhile may, too.
#[inline(always)]
pub(crate) fn allow_access<R>(access: impl FnOnce() -> R) -> R {
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
