//! The kernel's own page tables: 4 KiB pages in a window behind the identity map. Tables are never freed.

use core::arch::global_asm;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::lock::Lock;
use crate::machine::at;
use crate::task::Registers;

/// Where the window begins: the second 512 GiB.
pub(crate) const WINDOW: u64 = 1 << 39;

const PRESENT: u64 = 1;
const WRITABLE: u64 = 2;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// One CPU at a time adds tables. Holds how many were added.
static TABLES: Lock<u64> = Lock::new(0);

unsafe extern "C" {
    static boot_root: u8;
    fn paging_read(address: u64) -> Found;
    fn paging_read_failed();
}

/// What a read found, in two registers.
#[repr(C)]
struct Found {
    word: u64,
    is_there: u64,
}

global_asm!(
    r#"
    .section .text.paging_read, "ax", @progbits
    .globl paging_read
    .globl paging_read_failed
paging_read:
    mov rax, [rdi]          // may fault
    mov edx, 1
    ret
paging_read_failed:
    xor edx, edx
    ret
    "#,
);

/// Maps `page` to `frame`. `table` gives the frame of each table that is missing.
pub(crate) fn map(page: u64, frame: u64, mut table: impl FnMut() -> u64) {
    TABLES.with(|added| {
        let mut entry = entry_of(&raw const boot_root as u64, page, 3);
        for level in (0..3).rev() {
            if entry.load(Ordering::Relaxed) & PRESENT == 0 {
                let address = table();
                // SAFETY: the frame is the caller's alone, and mapped to itself.
                unsafe { at::<u64>(address).write_bytes(0, 512) };
                // Release: a walk that sees the table sees that it is empty.
                entry.store(address | PRESENT | WRITABLE, Ordering::Release);
                *added += 1;
            }
            entry = entry_of(entry.load(Ordering::Relaxed) & ADDRESS, page, level);
        }
        assert_eq!(entry.swap(frame | PRESENT | WRITABLE, Ordering::Release) & PRESENT, 0, "mapped twice");
    });
}

/// Unmaps `page`, and returns its frame. Every CPU may still have the translation.
pub(crate) fn unmap(page: u64) -> Option<u64> {
    let mut table = &raw const boot_root as u64;
    for level in (1..4).rev() {
        let entry = entry_of(table, page, level).load(Ordering::Acquire);
        if entry & PRESENT == 0 {
            return None;
        }
        table = entry & ADDRESS;
    }
    let old = entry_of(table, page, 0).swap(0, Ordering::AcqRel);
    (old & PRESENT != 0).then_some(old & ADDRESS)
}

fn entry_of(table: u64, page: u64, level: u32) -> &'static AtomicU64 {
    let index = page >> (12 + 9 * level) & 511;
    // SAFETY: tables are mapped to themselves, and are never freed.
    unsafe { &*at::<AtomicU64>(table + index * 8) }
}

/// Returns how many tables were added.
pub(crate) fn table_count() -> u64 {
    TABLES.with(|added| *added)
}

/// Reads the word at `address`; `None` if nothing is mapped there.
pub(crate) fn read(address: u64) -> Option<u64> {
    // SAFETY: the read is done or fails, and whatever is in the window may be read.
    let found = unsafe { paging_read(address) };
    (found.is_there != 0).then_some(found.word)
}

/// Goes on behind a read that has faulted. Says whether the fault was of such a read.
pub(crate) fn recover(registers: &mut Registers) -> bool {
    let is_read = registers.rip == paging_read as *const () as usize as u64;
    if is_read {
        registers.rip = paging_read_failed as *const () as usize as u64;
    }
    is_read
}
