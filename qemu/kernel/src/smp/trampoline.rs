//! Where a start-up message sends a CPU: real mode, in one page below 1 MiB, and from there
//! straight to long mode on the boot tables.

use core::arch::global_asm;
use core::mem::offset_of;
use core::ptr;
use core::sync::atomic::{AtomicU64, Ordering};

use topomem::PhysAddr;
use topomem_boot::StartUpPage;

use crate::arch::paging::{self, LEVEL_COUNT};
use crate::boot::pvh::CR4;
use crate::per_cpu::PerCpu;

/// The root table, the same for all.
static ROOT: AtomicU64 = AtomicU64::new(0);
/// The area of the CPU that is being started, published by the start-up message. A CPU reads it once
/// and takes everything else from the area: a CPU that comes late finds its own, where it learns that
/// it was given up, or another CPU's, which has another APIC id; then it halts before it touches the
/// stack.
static AREA: AtomicU64 = AtomicU64::new(0);

// CR0, CR4 and EFER as in `boot::pvh`. Long mode needs paging and protection turned on in
// one write, so that no 32-bit step lies between.
global_asm!(
    r#"
    .section .rodata.trampoline, "a", @progbits
    .globl trampoline_start
    .globl trampoline_end
    .code16
trampoline_start:
    .byte 0xeb, 6           // jump over the table's pointer
    .word 23
    .long boot_gdt
    cli
    cld
    mov ax, cs
    mov ds, ax
    mov eax, {cr4}
    mov cr4, eax
    .if {levels} == 5
    mov eax, offset boot_pml5
    .else
    mov eax, offset boot_pml4
    .endif
    mov cr3, eax
    mov ecx, 0xc0000080
    mov eax, 0x900
    xor edx, edx
    wrmsr
    .byte 0x66              // all 32 bits of the table's base
    lgdt [2]
    mov eax, 0x80010033
    mov cr0, eax
    .byte 0x66, 0xea        // far jump, 32-bit offset
    .long ap_long_mode
    .word 0x08
trampoline_end:

    .code64
    .section .text.ap_higher_half, "ax", @progbits
    .globl ap_higher_half
ap_higher_half:
    xor eax, eax
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov fs, eax
    mov gs, eax
    mov rax, [rip + {root}]
    mov cr3, rax
    mov rdi, [rip + {area}]
    // This CPU's APIC id, as `features::apic_id` finds it.
    xor eax, eax
    cpuid
    cmp eax, 0xb
    jb 2f
    mov eax, 0xb
    xor ecx, ecx
    cpuid
    test bx, bx
    jnz 3f
2:
    mov eax, 1
    cpuid
    shr ebx, 24
    mov edx, ebx
3:
    cmp edx, [rdi + {apic_id}]
    jne 4f
    mov rsp, [rdi + {stack}]
    xor ebp, ebp
    call {ap_main}
    ud2
4:
    cli
    hlt
    jmp 4b
    "#,
    cr4 = const CR4,
    levels = const LEVEL_COUNT,
    root = sym ROOT,
    area = sym AREA,
    apic_id = const offset_of!(PerCpu, apic_id),
    stack = const offset_of!(PerCpu, stacks.work),
    ap_main = sym super::start::ap_main,
);

unsafe extern "C" {
    static trampoline_start: u8;
    static trampoline_end: u8;
}

/// Copies the code to `page`, and has the CPUs that start there load `root`.
///
/// # Safety
///
/// The page is RAM that nobody uses, and no CPU runs there.
pub(super) unsafe fn install(page: StartUpPage, root: PhysAddr) {
    ROOT.store(root.as_u64(), Ordering::Release);
    let start = &raw const trampoline_start;
    let bytes = &raw const trampoline_end as usize - start as usize;
    // SAFETY: the caller gives the page, which the direct map covers; the code is in the image.
    unsafe { ptr::copy_nonoverlapping(start, paging::direct_map(page.addr()).as_ptr(), bytes) };
}

/// Tells the next CPU its area. The message that starts it is sent after this store, and x86 keeps
/// that order.
pub(super) fn prepare(area: &'static PerCpu) {
    AREA.store(ptr::from_ref(area).expose_provenance() as u64, Ordering::Release);
}
