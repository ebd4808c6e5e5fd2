//! The flushes of every x86-64 CPU: the hooks of a kernel that names no further features.

use core::arch::asm;

use crate::{Ticks, VirtAddr};

/// CR4.PGE.
const GLOBAL_PAGES: u64 = 1 << 7;

/// Removes the translations of `address` in the current ASID and global: INVLPG, which also reaches the
/// paging-structure caches (Intel SDM volume 3A, "Operations that Invalidate TLBs and Paging-Structure Caches").
pub(crate) fn flush_page(address: VirtAddr) {
    // SAFETY: INVLPG changes nothing that the memory model knows of.
    unsafe { asm!("invlpg [{}]", in(reg) address.as_u64(), options(nostack, preserves_flags)) };
}

/// Removes all translations of all ASIDs, global translations included: a change of CR4.PGE (as above), and back.
pub(crate) fn flush_all() {
    // SAFETY: the register is as before in the end. A handler between the two writes finds the other value, which
    // decides only whether translations are kept across writes to CR3.
    unsafe {
        asm!(
            "mov {found}, cr4",
            "mov {changed}, {found}",
            "xor {changed}, {bit}",
            "mov cr4, {changed}",
            "mov cr4, {found}",
            found = out(reg) _,
            changed = out(reg) _,
            bit = const GLOBAL_PAGES,
            options(nostack),
        );
    }
}

/// Returns the time-stamp counter.
pub(crate) fn now() -> Ticks {
    // SAFETY: a kernel may read the counter.
    Ticks(unsafe { core::arch::x86_64::_rdtsc() })
}
