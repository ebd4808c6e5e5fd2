//! Loads and stores that return a page fault as a value.
//!
//! The two instructions that may fault are known by address; the fault handler sends a fault at
//! one of them to its fix-up, which reports failure to the caller.

use core::arch::global_asm;

use super::interrupt::trap::TrapFrame;
use super::paging::LEVELS;
use super::user::allow_access;

/// The probed address has no translation that allows the access.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProbeFault {
    /// The address that faulted.
    pub addr: u64,
}

global_asm!(
    r#"
    .section .text.probe, "ax", @progbits
    .globl probe_load
probe_load:                     // rdi: address; rax: value, rdx: 1 where it was read
probe_load_access:
    mov rax, [rdi]
    mov edx, 1
    ret
    .globl probe_store
probe_store:                    // rdi: address, rsi: value; rdx: 1 where it was written
probe_store_access:
    mov [rdi], rsi
    xor eax, eax
    mov edx, 1
    ret
probe_fixup:
    xor eax, eax
    xor edx, edx
    ret
    .section .rodata.probe, "a", @progbits
    .balign 8
    .globl probe_labels
probe_labels:
    .quad probe_load_access
    .quad probe_store_access
    .quad probe_fixup
    "#
);

#[repr(C)]
struct Probed {
    value: u64,
    done: u64,
}

unsafe extern "sysv64" {
    fn probe_load(addr: u64) -> Probed;
    fn probe_store(addr: u64, value: u64) -> Probed;
    static probe_labels: [u64; 3];
}

/// Reads the eight bytes at `addr`.
///
/// # Errors
///
/// [`ProbeFault`] where the address is not canonical or not readable.
pub(crate) fn load(addr: u64) -> Result<u64, ProbeFault> {
    if !LEVELS.is_canonical(addr) {
        return Err(ProbeFault { addr });
    }
    // SAFETY: the routine only reads, and a fault comes back as a value. RAM has no side
    // effects on reads; device registers are not probed.
    let probed = allow_access(|| unsafe { probe_load(addr) });
    if probed.done == 1 { Ok(probed.value) } else { Err(ProbeFault { addr }) }
}

/// Writes the eight bytes at `addr`.
///
/// # Errors
///
/// [`ProbeFault`] where the address is not canonical or not writable.
///
/// # Safety
///
/// Where `addr` is mapped writable, nothing that Rust's rules cover may be there.
pub(crate) unsafe fn store(addr: u64, value: u64) -> Result<(), ProbeFault> {
    if !LEVELS.is_canonical(addr) {
        return Err(ProbeFault { addr });
    }
    // SAFETY: the caller vouches for the bytes; a fault comes back as a value.
    let probed = allow_access(|| unsafe { probe_store(addr, value) });
    if probed.done == 1 { Ok(()) } else { Err(ProbeFault { addr }) }
}

/// Sends a page fault of a probing access to its fix-up; false where the fault is another's.
pub(crate) fn recover(frame: &mut TrapFrame) -> bool {
    // SAFETY: written by the linker, never at run time.
    let [load, store, fixup] = unsafe { probe_labels };
    if frame.rip != load && frame.rip != store {
        return false;
    }
    frame.rip = fixup;
    true
}
