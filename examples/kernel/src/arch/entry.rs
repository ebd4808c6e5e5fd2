//! Where the boot CPU arrives: the PVH entry (Xen's x86/HVM direct boot ABI), in 32-bit protected mode without
//! paging, EBX holding the physical address of the start info.
//!
//! The tables built here map the first 4 GiB to themselves, in pages of 2 MiB. All CPUs use them for good;
//! [`crate::paging`] adds to them.

use core::arch::global_asm;

/// Bytes of the boot CPU's stack, on which it also idles.
pub(crate) const BOOT_STACK: usize = 256 * 1024;

global_asm!(
    r#"
    .section .note.pvh, "a", @note
    .balign 4
    .long 4                 // bytes of the name
    .long 8                 // bytes of the descriptor
    .long 18                // XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .quad pvh_entry

    .section .text.pvh_entry, "ax", @progbits
    .code32
    .globl pvh_entry
pvh_entry:
    cli
    cld
    mov esp, offset boot_stack_top
    // Four tables of 512 pages of 2 MiB: present, writable, large.
    mov edi, offset boot_pages
    mov eax, 0x83
    mov ecx, 2048
2:
    mov [edi], eax
    add edi, 8
    add eax, 0x200000
    loop 2b
    mov edi, offset boot_directories
    mov eax, offset boot_pages + 3
    mov ecx, 4
3:
    mov [edi], eax
    add edi, 8
    add eax, 0x1000
    loop 3b
    mov eax, offset boot_directories + 3
    mov [boot_root], eax

    mov eax, 0x20           // CR4: PAE
    mov cr4, eax
    mov eax, offset boot_root
    mov cr3, eax
    mov ecx, 0xc0000080     // EFER: LME
    mov eax, 0x100
    xor edx, edx
    wrmsr
    mov eax, 0x80010033     // CR0: PG, WP, NE, ET, MP, PE
    mov cr0, eax
    lgdt [boot_gdt_pointer]
    mov eax, 0x08
    push eax
    mov eax, offset boot_long_mode
    push eax
    retf

    .code64
boot_long_mode:
    xor eax, eax
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov fs, eax
    mov gs, eax
    mov rsp, offset boot_stack_top
    xor ebp, ebp
    mov edi, ebx            // the start info's address is 32 bits wide
    call {boot_main}
    ud2

    .section .rodata.boot_gdt, "a", @progbits
    .balign 8
    .globl boot_gdt
boot_gdt:
    .quad 0
    .quad 0x00af9b000000ffff // 64-bit code
    .quad 0x00cf93000000ffff // data
boot_gdt_pointer:
    .word 23
    .long boot_gdt

    .section .bss.boot, "aw", @nobits
    .balign 4096
    .globl boot_root
boot_root:
    .skip 0x1000
boot_directories:
    .skip 0x1000
boot_pages:
    .skip 0x4000
    .globl boot_stack
boot_stack:
    .skip {boot_stack}
boot_stack_top:
    "#,
    boot_main = sym crate::boot_main,
    boot_stack = const BOOT_STACK,
);

unsafe extern "C" {
    static boot_stack: [u64; BOOT_STACK / 8];
}

/// Returns how deep the boot stack was used so far: it was zero when the kernel was loaded.
pub(crate) fn boot_stack_used() -> usize {
    let stack = &raw const boot_stack;
    let unused = (0..BOOT_STACK / 8).take_while(|&word| {
        // SAFETY: the stack is always mapped; what is written to it meanwhile lies above.
        unsafe { stack.cast::<u64>().add(word).read_volatile() == 0 }
    });
    BOOT_STACK - unused.count() * 8
}
