//! The instructions that lead into user mode and out of it.

use core::arch::global_asm;
use core::cell::Cell;
use core::mem::offset_of;
use core::ptr;

use x86_64::registers::control::{Efer, EferFlags};
use x86_64::registers::model_specific::Msr;
use x86_64::registers::rflags::RFlags;

use super::UserState;
use crate::arch::gdt::{KERNEL_CODE, Segments, USER_CODE, USER_DATA};
use crate::arch::interrupt::trap::{self, TrapFrame, pop_registers, push_registers};
use crate::arch::interrupt::vector::PAGE_FAULT;
use crate::per_cpu::PerCpu;

/// What [`TrapFrame::vector`] says of a thread that has made a system call. It is no interrupt's vector.
pub(super) const SYSTEM_CALL: u64 = 256;

const STAR: u32 = 0xc000_0081;
const LSTAR: u32 = 0xc000_0082;
const FMASK: u32 = 0xc000_0084;

/// What SYSCALL clears of RFLAGS: interrupts come once the kernel is on its own stack, the direction flag
/// is as compiled code expects it, and none of the others has effects on the kernel.
const CLEARED_BY_SYSTEM_CALL: RFlags = RFlags::INTERRUPT_FLAG
    .union(RFlags::TRAP_FLAG)
    .union(RFlags::DIRECTION_FLAG)
    .union(RFlags::ALIGNMENT_CHECK)
    .union(RFlags::NESTED_TASK)
    .union(RFlags::RESUME_FLAG)
    .union(RFlags::IOPL_LOW)
    .union(RFlags::IOPL_HIGH);

/// What a CPU keeps while it is in user mode, in its area.
#[derive(Debug)]
pub(crate) struct UserMode {
    /// The kernel's stack pointer, as [`enter_user`] left it: the kernel's registers lie there, and the CPU's
    /// own page-fault stack.
    kernel_stack: Cell<u64>,
    /// Where the registers of the thread go that runs.
    frame: Cell<*mut TrapFrame>,
    /// A user's stack pointer for two instructions.
    scratch: Cell<u64>,
    /// The address of a user program's last page fault.
    pub fault_address: Cell<u64>,
    /// The thread whose floating-point registers and segment bases the CPU has.
    pub(super) loaded: Cell<*mut UserState>,
}

impl UserMode {
    /// No thread has run.
    pub(crate) const fn new() -> UserMode {
        UserMode {
            kernel_stack: Cell::new(0),
            frame: Cell::new(ptr::null_mut()),
            scratch: Cell::new(0),
            fault_address: Cell::new(0),
            loaded: Cell::new(ptr::null_mut()),
        }
    }
}

// `enter_user` leaves by SYSRET after a system call, which takes RCX and R11 as SYSCALL left them. Its
// caller has made sure that RIP is an address of the lower half: SYSRET and IRETQ would fault on another
// with the kernel's privileges and the user's GS base.
//
// System calls and traps use the thread's frame as a stack: for traps it is RSP0 and the page fault's stack
// while the thread runs. NMI, double fault and machine check have stacks of their own; their registers are
// copied.
global_asm!(
    r#"
    .section .text.user_mode, "ax", @progbits
    .globl enter_user
enter_user:                         // rdi: the thread's frame; interrupts are off
    push rbp
    push rbx
    push r12
    push r13
    push r14
    push r15
    push gs:[{page_fault_stack}]
    mov gs:[{frame}], rdi
    mov gs:[{kernel_stack}], rsp
    lea rax, [rdi + {frame_bytes}]
    mov gs:[{trap_stack}], rax
    mov gs:[{page_fault_stack}], rax
    mov rsp, rdi
    cmp qword ptr [rdi + {vector}], {system_call}
    je 2f
    "#,
    pop_registers!(),
    r#"
    add rsp, 16                     // vector and error code
    swapgs
    iretq
2:
    "#,
    pop_registers!(),
    r#"
    mov rcx, [rsp + 16]             // RIP
    mov r11, [rsp + 32]             // RFLAGS
    mov rsp, [rsp + 40]
    swapgs
    sysretq

    .globl system_call_entry
system_call_entry:
    swapgs
    mov gs:[{scratch}], rsp
    mov rsp, gs:[{frame}]
    add rsp, {frame_bytes}
    push {user_data}
    push gs:[{scratch}]
    push r11
    push {user_code}
    push rcx
    push 0                          // no error code
    push {system_call}
    "#,
    push_registers!(),
    r#"
leave_user:
    mov rsp, gs:[{kernel_stack}]
    pop gs:[{page_fault_stack}]
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbx
    pop rbp
    ret

    .globl trap_from_user
trap_from_user:
    swapgs
    "#,
    push_registers!(),
    r#"
    mov rdi, rsp
    mov rsp, gs:[{kernel_stack}]
    push 2
    popfq                           // no flag of the user's has effects here
    cmp qword ptr [rdi + {vector}], {page_fault}
    jne 3f
    mov rax, cr2
    mov gs:[{fault_address}], rax
    jmp leave_user
3:
    xor ebp, ebp                    // a backtrace ends here
    mov rax, [rsp]
    mov gs:[{page_fault_stack}], rax
    call {dispatch}
    jmp leave_user

    .globl trap_from_user_elsewhere
trap_from_user_elsewhere:           // on a stack of its own
    swapgs
    "#,
    push_registers!(),
    r#"
    push 2
    popfq
    mov rdi, rsp
    xor ebp, ebp
    call {dispatch}
    mov rsi, rsp
    mov rdi, gs:[{frame}]
    mov ecx, {frame_bytes} / 8
    rep movsq
    jmp leave_user
    "#,
    frame = const offset_of!(PerCpu, user.frame),
    kernel_stack = const offset_of!(PerCpu, user.kernel_stack),
    scratch = const offset_of!(PerCpu, user.scratch),
    fault_address = const offset_of!(PerCpu, user.fault_address),
    trap_stack = const offset_of!(PerCpu, segments) + Segments::TRAP_STACK_OFFSET,
    page_fault_stack = const offset_of!(PerCpu, segments) + Segments::PAGE_FAULT_STACK_OFFSET,
    page_fault = const PAGE_FAULT.0,
    vector = const offset_of!(TrapFrame, vector),
    frame_bytes = const size_of::<TrapFrame>(),
    system_call = const SYSTEM_CALL,
    user_data = const USER_DATA,
    user_code = const USER_CODE,
    dispatch = sym trap::dispatch,
);

unsafe extern "sysv64" {
    /// Runs the thread of `frame` until it traps, and stores its registers there.
    ///
    /// # Safety
    ///
    /// Interrupts are off. `frame` is valid, and its RIP, RFLAGS and selectors are ones that a user may
    /// have; the page tables show the thread's program.
    pub(super) fn enter_user(frame: *mut TrapFrame);
    static system_call_entry: u8;
}

/// Has SYSCALL enter the kernel, on the executing CPU.
///
/// # Safety
///
/// The CPU's area is installed, with the segments loaded.
pub(crate) unsafe fn enable_system_calls() {
    // SYSRET takes its stack segment from the selector after this one, and its code segment from the next.
    let user_base = u64::from(USER_DATA - 8);
    let star = user_base << 48 | u64::from(KERNEL_CODE) << 32;
    // SAFETY: the entry is where a system call of `enter_user`'s thread goes on; nothing else runs in user
    // mode.
    unsafe {
        Msr::new(STAR).write(star);
        Msr::new(LSTAR).write(&raw const system_call_entry as u64);
        Msr::new(FMASK).write(CLEARED_BY_SYSTEM_CALL.bits());
        Efer::write(Efer::read() | EferFlags::SYSTEM_CALL_EXTENSIONS);
    }
}
