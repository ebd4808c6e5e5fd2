//! Starting the other CPUs, one at a time, in one page below 1 MiB.

use core::arch::global_asm;
use core::ptr;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::apic;
use super::clock;

/// Where a start-up message sends a CPU. Nothing else uses memory below 1 MiB.
const PAGE: u64 = 0x8000;
/// Bytes of a CPU's stack, on which it idles.
const STACK: usize = 32 * 1024;
const CPUS: usize = super::cpu::MAX_CPUS;

#[repr(C, align(16))]
struct Stacks([[u8; STACK]; CPUS - 1]);

static mut STACKS: Stacks = Stacks([[0; STACK]; CPUS - 1]);
/// The stack of the CPU that is being started.
static START_STACK: AtomicU64 = AtomicU64::new(0);
/// Its number.
static START_INDEX: AtomicU64 = AtomicU64::new(0);
/// How many CPUs have arrived.
static ARRIVED: AtomicU32 = AtomicU32::new(0);

global_asm!(
    r#"
    .section .rodata.trampoline, "a", @progbits
    .globl trampoline_start
    .globl trampoline_end
    .code16
trampoline_start:
    .byte 0xeb, 6           // jump over the pointer to the descriptor table
    .word 23
    .long boot_gdt
    cli
    cld
    mov ax, cs
    mov ds, ax
    mov eax, 0x20
    mov cr4, eax
    mov eax, offset boot_root
    mov cr3, eax
    mov ecx, 0xc0000080
    mov eax, 0x100
    xor edx, edx
    wrmsr
    .byte 0x66              // all 32 bits of the table's address
    lgdt [2]
    mov eax, 0x80010033
    mov cr0, eax
    .byte 0x66, 0xea        // far jump, 32-bit offset
    .long start_long_mode
    .word 0x08
trampoline_end:

    .section .text.start_long_mode, "ax", @progbits
    .code64
start_long_mode:
    xor eax, eax
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov fs, eax
    mov gs, eax
    mov rsp, [rip + {stack}]
    mov rdi, [rip + {index}]
    xor ebp, ebp
    call {arrive}
    ud2
    "#,
    stack = sym START_STACK,
    index = sym START_INDEX,
    arrive = sym arrive,
);

unsafe extern "C" {
    static trampoline_start: u8;
    static trampoline_end: u8;
}

/// Starts the CPU of each APIC id; they are numbered from 1 on, in this order. Returns the first that does not
/// arrive.
///
/// # Safety
///
/// Called once, by the boot CPU, with memory below 1 MiB unused.
pub(crate) unsafe fn start_all(apic_ids: &[u32]) -> Result<(), u32> {
    let start = &raw const trampoline_start;
    let bytes = &raw const trampoline_end as usize - start as usize;
    // SAFETY: the page is RAM that nobody uses (the caller's promise), and is mapped to itself.
    unsafe { ptr::copy_nonoverlapping(start, ptr::with_exposed_provenance_mut(PAGE as usize), bytes) };
    for (index, &apic_id) in apic_ids.iter().enumerate() {
        // SAFETY: each CPU has its own element.
        let stack = unsafe { (&raw mut STACKS.0[index]).add(1) };
        START_STACK.store(stack.expose_provenance() as u64, Ordering::Release);
        START_INDEX.store(index as u64 + 1, Ordering::Release);
        apic::send_init(apic_id);
        clock::delay_microseconds(10_000);
        let arrived = (0..2).any(|_| {
            apic::send_start_up(apic_id, (PAGE >> 12) as u8);
            (0..2000).any(|_| {
                clock::delay_microseconds(1000);
                ARRIVED.load(Ordering::Acquire) > index as u32
            })
        });
        if !arrived {
            return Err(apic_id);
        }
    }
    Ok(())
}

/// Where another CPU enters Rust, with interrupts off, on its own stack.
extern "sysv64" fn arrive(index: u64) -> ! {
    // SAFETY: the starting CPU gave the number to this CPU alone.
    unsafe { super::set_up_cpu(index as usize) };
    ARRIVED.fetch_add(1, Ordering::AcqRel);
    crate::cpu_main()
}
