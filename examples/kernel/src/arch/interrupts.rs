//! Interrupts and traps. All run with interrupts off. The timer and the request to yield have a stack of their
//! own, so that nothing of the interrupted task's stack is in use while its registers are handed on.

use core::arch::global_asm;
use core::cell::UnsafeCell;

use x86_64::VirtAddr;
use x86_64::instructions::tables::load_tss;
use x86_64::structures::gdt::{Descriptor, GlobalDescriptorTable};
use x86_64::structures::idt::InterruptDescriptorTable;
use x86_64::structures::tss::TaskStateSegment;

use super::{apic, cpu};
use crate::task::{self, Registers};

/// Sixteen vectors that nothing is expected at.
pub(crate) const OLD_CONTROLLERS: u8 = 0x20;
pub(crate) const TIMER: u8 = 0x40;
pub(crate) const YIELD: u8 = 0x41;
/// The tier's: shootdowns.
pub(crate) const TIER: u8 = 0x42;
pub(crate) const APIC_ERROR: u8 = 0x43;
pub(crate) const SPURIOUS: u8 = 0x4f;

const STACK: usize = 16 * 1024;
const SWITCHING: u16 = 0;
const FATAL: u16 = 1;

/// Descriptor tables of one CPU.
struct Segments {
    gdt: GlobalDescriptorTable,
    tss: TaskStateSegment,
}

struct PerCpu<T>(UnsafeCell<[T; cpu::MAX_CPUS]>);

// SAFETY: each CPU uses its own element alone.
unsafe impl<T> Sync for PerCpu<T> {}

static SEGMENTS: PerCpu<Segments> = PerCpu(UnsafeCell::new(
    [const { Segments { gdt: GlobalDescriptorTable::new(), tss: TaskStateSegment::new() } }; cpu::MAX_CPUS],
));

/// The stacks of one CPU: [`SWITCHING`] and [`FATAL`].
type Stacks = [[u128; STACK / 16]; 2];

static STACKS: PerCpu<Stacks> = PerCpu(UnsafeCell::new([[[0; STACK / 16]; 2]; cpu::MAX_CPUS]));

struct Traps(UnsafeCell<InterruptDescriptorTable>);

// SAFETY: written by the boot CPU before others run, and read by the hardware alone.
unsafe impl Sync for Traps {}

static TRAPS: Traps = Traps(UnsafeCell::new(InterruptDescriptorTable::new()));

global_asm!(
    r#"
    .macro stub name, handler, vector, has_error
    .globl \name
\name:
    .if \has_error == 0
    push 0
    .endif
    push rax
    push rcx
    push rdx
    push rbx
    push rbp
    push rsi
    push rdi
    push r8
    push r9
    push r10
    push r11
    push r12
    push r13
    push r14
    push r15
    cld
    mov rdi, rsp
    mov esi, \vector
    sub rsp, 8              // 21 words so far, from a multiple of 16 on
    call \handler
    add rsp, 8
    pop r15
    pop r14
    pop r13
    pop r12
    pop r11
    pop r10
    pop r9
    pop r8
    pop rdi
    pop rsi
    pop rbp
    pop rbx
    pop rdx
    pop rcx
    pop rax
    add rsp, 8
    iretq
    .endm

    .section .text.stubs, "ax", @progbits
    stub stub_timer, {timer}, 0x40, 0
    stub stub_yield, {yielding}, 0x41, 0
    stub stub_tier, {tier}, 0x42, 0
    stub stub_apic_error, {fatal}, 0x43, 0
    stub stub_invalid_opcode, {fatal}, 6, 0
    stub stub_double_fault, {fatal}, 8, 1
    stub stub_protection, {fatal}, 13, 1
    stub stub_page_fault, {page_fault}, 14, 1
    .globl stub_spurious
stub_spurious:
    iretq
    "#,
    timer = sym timer,
    yielding = sym yielding,
    tier = sym tier,
    fatal = sym fatal,
    page_fault = sym page_fault,
);

unsafe extern "C" {
    fn stub_timer();
    fn stub_yield();
    fn stub_tier();
    fn stub_apic_error();
    fn stub_invalid_opcode();
    fn stub_double_fault();
    fn stub_protection();
    fn stub_page_fault();
    fn stub_spurious();
}

/// Fills the table of traps.
///
/// # Safety
///
/// Called once, by the boot CPU, before other CPUs run.
pub(crate) unsafe fn fill() {
    let at = |stub: unsafe extern "C" fn()| VirtAddr::new(stub as usize as u64);
    // SAFETY: nobody else uses the table yet, and the stubs are entries of their vectors' kind.
    unsafe {
        let traps = &mut *TRAPS.0.get();
        traps.invalid_opcode.set_handler_addr(at(stub_invalid_opcode)).set_stack_index(FATAL);
        traps.double_fault.set_handler_addr(at(stub_double_fault)).set_stack_index(FATAL);
        traps.general_protection_fault.set_handler_addr(at(stub_protection)).set_stack_index(FATAL);
        traps.page_fault.set_handler_addr(at(stub_page_fault));
        traps[TIMER].set_handler_addr(at(stub_timer)).set_stack_index(SWITCHING);
        traps[YIELD].set_handler_addr(at(stub_yield)).set_stack_index(SWITCHING);
        traps[TIER].set_handler_addr(at(stub_tier));
        traps[APIC_ERROR].set_handler_addr(at(stub_apic_error));
        for vector in OLD_CONTROLLERS..OLD_CONTROLLERS + 16 {
            traps[vector].set_handler_addr(at(stub_spurious));
        }
        traps[SPURIOUS].set_handler_addr(at(stub_spurious));
    }
}

/// Loads the executing CPU's tables.
///
/// # Safety
///
/// Called once by each CPU, after [`cpu::install`] and [`fill`].
pub(crate) unsafe fn load() {
    // SAFETY: the element is this CPU's alone, and the table of traps is filled.
    unsafe {
        let segments = &mut (*SEGMENTS.0.get())[cpu::index()];
        let stacks = &(*STACKS.0.get())[cpu::index()];
        for (index, stack) in stacks.iter().enumerate() {
            segments.tss.interrupt_stack_table[index] = VirtAddr::from_ptr(stack.as_ptr_range().end);
        }
        segments.gdt.append(Descriptor::kernel_code_segment());
        segments.gdt.append(Descriptor::kernel_data_segment());
        let tss = segments.gdt.append(Descriptor::tss_segment_unchecked(&raw const segments.tss));
        segments.gdt.load_unsafe();
        load_tss(tss);
        (*TRAPS.0.get()).load_unsafe();
    }
}

extern "sysv64" fn timer(registers: &mut Registers, _vector: u32) {
    apic::end_of_interrupt();
    apic::start_timer();
    crate::work::tick();
    task::switch(registers);
}

extern "sysv64" fn yielding(registers: &mut Registers, _vector: u32) {
    task::switch(registers);
}

extern "sysv64" fn tier(_registers: &mut Registers, _vector: u32) {
    apic::end_of_interrupt();
    crate::tier::interrupt();
}

extern "sysv64" fn page_fault(registers: &mut Registers, vector: u32) {
    if !crate::paging::recover(registers) {
        fatal(registers, vector);
    }
}

extern "sysv64" fn fatal(registers: &Registers, vector: u32) {
    let address = x86_64::registers::control::Cr2::read_raw();
    panic!("trap {vector} at {:#x}, error {:#x}, CR2 {address:#x}", registers.rip, registers.error);
}
