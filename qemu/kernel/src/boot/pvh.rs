//! The PVH entry (Xen's x86/HVM direct boot ABI): 32-bit protected mode without paging, EBX
//! holding the physical address of the start info. Ends in [`crate::boot_main`] in long
//! mode, in the higher half, on the boot stack.
//!
//! The tables here map the first GiB twice, at 0 and at -2 GiB, in 2 MiB pages. They serve the
//! boot CPU until [`crate::arch::paging`] has built the kernel's own, and each further CPU
//! between its trampoline and its first CR3 write. Where there are five levels, the first and
//! last 256 TiB are one table.

use core::arch::global_asm;

use crate::arch::paging::LEVEL_COUNT;

/// CR0: PG, WP, NE, ET, MP, PE; caches on (an INIT leaves CD and NW set).
const CR0: u64 = 0x8001_0033;
/// CR4: PAE, and LA57 for five levels, which paging must be off for; the rest follows once the
/// CPU's features are known.
pub(crate) const CR4: u64 = 1 << 5 | (LEVEL_COUNT as u64 - 4) << 12;
/// EFER: LME and NXE.
const EFER: u64 = 1 << 8 | 1 << 11;
/// Bytes of the stack that the boot CPU uses until it has one on its own node.
const BOOT_STACK: usize = 64 * 1024;

global_asm!(
    r#"
    .section .note.pvh, "a", @note
    .balign 4
    .long 4                 // bytes of the name
    .long 8                 // bytes of the descriptor
    .long 18                // XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .quad pvh_entry

    .section .boot.text, "ax", @progbits
    .code32
    .globl pvh_entry
pvh_entry:
    cli
    cld
    mov esp, offset boot_scratch_top
    mov edi, ebx
    mov eax, {cr4}
    mov cr4, eax
    .if {levels} == 5
    mov eax, offset boot_pml5
    .else
    mov eax, offset boot_pml4
    .endif
    mov cr3, eax
    mov ecx, 0xc0000080
    mov eax, {efer}
    xor edx, edx
    wrmsr
    mov eax, {cr0}
    mov cr0, eax
    lgdt [boot_gdt_pointer]
    mov eax, 0x08
    push eax
    mov eax, offset boot_long_mode
    push eax
    retf

    .code64
boot_long_mode:
    movabs rax, offset boot_higher_half
    jmp rax

    // Further CPUs arrive here from the trampoline, already in long mode.
    .globl ap_long_mode
ap_long_mode:
    movabs rax, offset ap_higher_half
    jmp rax

    .section .boot.data, "aw", @progbits
    .balign 4096
    .globl boot_pml5
boot_pml5:
    .quad boot_pml4 + 3
    .fill 510, 8, 0
    .quad boot_pml4 + 3
    .globl boot_pml4
boot_pml4:
    .quad boot_pdpt_low + 3
    .fill 510, 8, 0
    .quad boot_pdpt_high + 3
boot_pdpt_low:
    .quad boot_pd + 3
    .fill 511, 8, 0
boot_pdpt_high:
    .fill 510, 8, 0
    .quad boot_pd + 3
    .quad 0
boot_pd:
    .set boot_pd_entry, 0x83
    .rept 512
    .quad boot_pd_entry
    .set boot_pd_entry, boot_pd_entry + 0x200000
    .endr
    .globl boot_gdt
boot_gdt:
    .quad 0
    .quad 0x00af9b000000ffff // 64-bit code
    .quad 0x00cf93000000ffff // data
    .globl boot_gdt_pointer
boot_gdt_pointer:
    .word 23
    .long boot_gdt
    .balign 16
    .fill 64, 1, 0
boot_scratch_top:

    .section .bss.boot_stack, "aw", @nobits
    .balign 4096
boot_stack:
    .skip {boot_stack}
boot_stack_top:

    .section .text.boot_higher_half, "ax", @progbits
boot_higher_half:
    xor eax, eax
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov fs, eax
    mov gs, eax
    mov rsp, offset boot_stack_top
    xor ebp, ebp
    mov edi, edi            // the start info's address is 32 bits wide
    call {boot_main}
    ud2
    "#,
    cr0 = const CR0,
    cr4 = const CR4,
    levels = const LEVEL_COUNT,
    efer = const EFER,
    boot_stack = const BOOT_STACK,
    boot_main = sym crate::boot_main,
);
