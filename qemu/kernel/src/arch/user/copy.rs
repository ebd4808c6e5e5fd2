//! Copies between the kernel and a user program: a fault is a value.
//!
//! As for [`probe`](crate::arch::probe), the instructions that may fault are known by address.

use core::arch::global_asm;

use super::{USER_END, allow_access};
use crate::arch::interrupt::trap::TrapFrame;

/// A user's address that cannot be accessed so now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UserFault {
    /// Some of the addresses are no user's: nothing was accessed.
    NoUserAddress,
    /// The page is not mapped so.
    Page {
        /// The address that faulted.
        address: u64,
        /// How many bytes had been copied.
        copied: usize,
    },
}

global_asm!(
    r#"
    .section .text.user_copy, "ax", @progbits
    .globl user_copy
user_copy:                      // rdi: to, rsi: from, rdx: bytes; rax: bytes that are left
    mov rcx, rdx
user_copy_access:
    rep movsb
user_copy_fixup:
    mov rax, rcx
    ret
    .globl user_load
user_load:                      // rdi: address; rax: value, rdx: 1 if it was read
user_load_access:
    mov eax, [rdi]
    mov edx, 1
    ret
user_word_fixup:
    xor eax, eax
    xor edx, edx
    ret
    .section .rodata.user_copy, "a", @progbits
    .balign 8
    .globl user_copy_labels
user_copy_labels:
    .quad user_copy_access, user_copy_fixup
    .quad user_load_access, user_word_fixup
    "#
);

#[repr(C)]
struct Word {
    value: u64,
    done: u64,
}

unsafe extern "sysv64" {
    fn user_copy(to: u64, from: u64, bytes: usize) -> usize;
    fn user_load(address: u64) -> Word;
    static user_copy_labels: [[u64; 2]; 2];
}

/// Sends a fault of an access here to its fix-up; false if the fault is another's.
pub(crate) fn recover(frame: &mut TrapFrame) -> bool {
    // SAFETY: written by the linker, never at run time.
    let labels = unsafe { &user_copy_labels };
    match labels.iter().find(|[access, _]| *access == frame.rip) {
        Some([_, fixup]) => {
            frame.rip = *fixup;
            true
        }
        None => false,
    }
}

fn check(address: u64, bytes: usize) -> Result<(), UserFault> {
    match address.checked_add(bytes as u64) {
        Some(end) if end <= USER_END => Ok(()),
        _ => Err(UserFault::NoUserAddress),
    }
}

fn copied(address: u64, bytes: usize, left: usize) -> Result<(), UserFault> {
    let copied = bytes.saturating_sub(left);
    if left == 0 { Ok(()) } else { Err(UserFault::Page { address: address + copied as u64, copied }) }
}

/// Copies the bytes at the user's address `from` to `to`.
///
/// # Errors
///
/// [`UserFault`].
pub(crate) fn read(from: u64, to: &mut [u8]) -> Result<(), UserFault> {
    check(from, to.len())?;
    let (place, bytes) = (to.as_mut_ptr() as u64, to.len());
    // SAFETY: the destination is valid; the source is the user's, and a fault comes back as a value.
    let left = allow_access(|| unsafe { user_copy(place, from, bytes) });
    copied(from, bytes, left)
}

/// Copies `from` to the user's address `to`.
///
/// # Errors
///
/// [`UserFault`].
pub(crate) fn write(to: u64, from: &[u8]) -> Result<(), UserFault> {
    check(to, from.len())?;
    // SAFETY: the source is valid; the destination is the user's, of which Rust knows nothing, and a fault
    // comes back as a value.
    let left = allow_access(|| unsafe { user_copy(to, from.as_ptr() as u64, from.len()) });
    copied(to, from.len(), left)
}

/// Reads the four bytes at the user's address, a multiple of 4, by one load.
///
/// # Errors
///
/// [`UserFault`].
pub(crate) fn load(address: u64) -> Result<u32, UserFault> {
    check(address, 4)?;
    // SAFETY: it only reads, and a fault comes back as a value.
    let word = allow_access(|| unsafe { user_load(address) });
    if word.done == 1 { Ok(word.value as u32) } else { Err(UserFault::Page { address, copied: 0 }) }
}
