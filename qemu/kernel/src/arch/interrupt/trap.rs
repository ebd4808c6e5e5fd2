//! How every exception and interrupt enters the kernel: a stub per vector, one common frame,
//! one dispatcher.

use core::arch::global_asm;
use core::fmt;
use core::sync::atomic::Ordering;

use x86_64::registers::control::Cr2;

use super::apic;
use super::vector::{self, Vector};
use crate::arch::gdt::Segments;
use crate::arch::{probe, user};
use crate::measure;
use crate::memory::service;
use crate::panic::{self, report};
use crate::per_cpu;
use crate::smp::ipi;

/// The interrupted context, as the common stub lays it out; also the registers of a user thread that
/// does not run. Its size is a multiple of 16, so that the CPU aligns nothing where it ends.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C, align(16))]
#[allow(missing_docs, reason = "registers by their names")]
pub(crate) struct TrapFrame {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    /// The frame pointer, where a backtrace goes on.
    pub rbp: u64,
    pub rdi: u64,
    pub rsi: u64,
    pub rdx: u64,
    pub rcx: u64,
    pub rbx: u64,
    pub rax: u64,
    /// Which vector.
    pub vector: u64,
    /// The exception's error code; 0 where it has none.
    pub error: u64,
    /// The interrupted instruction.
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}

const _: () = assert!(size_of::<TrapFrame>() == 22 * 8);

impl TrapFrame {
    /// Was a user program interrupted?
    pub(crate) fn is_user(&self) -> bool {
        self.cs & 3 == 3
    }
}

impl fmt::Display for TrapFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "  rip {:016x} rsp {:016x} rbp {:016x} rflags {:x} cs {:x} ss {:x}",
            self.rip, self.rsp, self.rbp, self.rflags, self.cs, self.ss
        )?;
        writeln!(
            f,
            "  rax {:016x} rbx {:016x} rcx {:016x} rdx {:016x}",
            self.rax, self.rbx, self.rcx, self.rdx
        )?;
        writeln!(
            f,
            "  rsi {:016x} rdi {:016x} r8  {:016x} r9  {:016x}",
            self.rsi, self.rdi, self.r8, self.r9
        )?;
        writeln!(
            f,
            "  r10 {:016x} r11 {:016x} r12 {:016x} r13 {:016x}",
            self.r10, self.r11, self.r12, self.r13
        )?;
        write!(f, "  r14 {:016x} r15 {:016x}", self.r14, self.r15)
    }
}

/// Expands to the instructions that push the general registers: those of a [`TrapFrame`], from the vector down.
macro_rules! push_registers {
    () => {
        r#"
    push rax
    push rbx
    push rcx
    push rdx
    push rsi
    push rdi
    push rbp
    push r8
    push r9
    push r10
    push r11
    push r12
    push r13
    push r14
    push r15
        "#
    };
}
pub(in crate::arch) use push_registers;

/// Expands to the instructions that pop what [`push_registers`] has pushed.
macro_rules! pop_registers {
    () => {
        r#"
    pop r15
    pop r14
    pop r13
    pop r12
    pop r11
    pop r10
    pop r9
    pop r8
    pop rbp
    pop rdi
    pop rsi
    pop rdx
    pop rcx
    pop rbx
    pop rax
        "#
    };
}
pub(in crate::arch) use pop_registers;

/// Bytes from one stub to the next.
pub(crate) const STUB_BYTES: u64 = 16;

// Vectors 8, 10 to 14, 17, 21, 29 and 30 push an error code; for the others the stub pushes 0,
// so that the frame is the same.
global_asm!(
    r#"
    .section .text.trap_stubs, "ax", @progbits
    .balign 16
    .globl trap_stubs
trap_stubs:
    .set trap_vector, 0
    .rept 256
    .balign 16
    .if (trap_vector == 8) || ((trap_vector >= 10) && (trap_vector <= 14)) || (trap_vector == 17) || (trap_vector == 21) || (trap_vector == 29) || (trap_vector == 30)
    .else
    .byte 0x6a, 0           // push 0
    .endif
    .byte 0x68              // push imm32
    .long trap_vector
    .if (trap_vector == 2) || (trap_vector == 8) || (trap_vector == 18)
    jmp trap_anywhere
    .else
    jmp trap_common
    .endif
    .set trap_vector, trap_vector + 1
    .endr

    // These come at any instruction, also where the kernel runs with a user's GS base: after SYSCALL and
    // before SYSRET and IRETQ. A user's GS base is never negative, and the kernel's always is.
trap_anywhere:
    test byte ptr [rsp + 24], 3
    jnz trap_from_user_elsewhere
    push rax
    push rcx
    push rdx
    mov ecx, 0xc0000101
    rdmsr
    test edx, edx
    pop rdx
    pop rcx
    pop rax
    js 4f
    swapgs
    "#,
    push_registers!(),
    r#"
    cld
    mov rdi, rsp
    call {dispatch}
    swapgs
    jmp trap_return

    .globl trap_common
trap_common:
    test byte ptr [rsp + 24], 3     // CS: a user's?
    jnz trap_from_user
4:
    "#,
    push_registers!(),
    r#"
    cld
    mov rdi, rsp
    call {dispatch}
trap_return:
    "#,
    pop_registers!(),
    r#"
    add rsp, 16             // vector and error code
    iretq
    "#,
    dispatch = sym dispatch,
);

// Other CPUs wait for the answer to a shootdown, and its handler looks at no register of the interrupted
// context. So its way in saves only what a function may change, where the kernel was interrupted: nine registers,
// with which the stack is aligned. A user's registers are saved as for all vectors.
global_asm!(
    r#"
    .section .text.trap_stubs, "ax", @progbits
    .balign 16
    .globl trap_shootdown
trap_shootdown:
    test byte ptr [rsp + 8], 3      // CS: a user's?
    jnz 5f
    push rax
    push rcx
    push rdx
    push rsi
    push rdi
    push r8
    push r9
    push r10
    push r11
    cld
    call {on_shootdown}
    pop r11
    pop r10
    pop r9
    pop r8
    pop rdi
    pop rsi
    pop rdx
    pop rcx
    pop rax
    iretq
5:
    push 0
    push {vector}
    jmp trap_common
    "#,
    on_shootdown = sym on_shootdown,
    vector = const vector::SHOOTDOWN.0,
);

unsafe extern "C" {
    static trap_stubs: u8;
    static trap_shootdown: u8;
}

/// Where the stub of `vector` begins.
pub(crate) fn stub(vector: Vector) -> u64 {
    match vector {
        vector::SHOOTDOWN => &raw const trap_shootdown as u64,
        _ => &raw const trap_stubs as u64 + STUB_BYTES * u64::from(vector.0),
    }
}

/// The shootdown interrupt, interrupts off.
extern "sysv64" fn on_shootdown() {
    apic::end_of_interrupt();
    ipi::on_shootdown();
}

/// Called by the stubs with the frame they built, interrupts off.
pub(in crate::arch) extern "sysv64" fn dispatch(frame: &mut TrapFrame) {
    let vector = Vector(frame.vector as u8);
    match vector {
        // Where a user program runs; else `trap_shootdown` has called it.
        vector::SHOOTDOWN => on_shootdown(),
        vector::RESCHEDULE => {
            // The idle loop looks at its queue after every interrupt: waking it is all.
            per_cpu::current().counters.reschedules.fetch_add(1, Ordering::Relaxed);
            apic::end_of_interrupt();
        }
        vector::TIMER => {
            per_cpu::current().counters.timer.fetch_add(1, Ordering::Relaxed);
            apic::next_tick();
            apic::end_of_interrupt();
            service::after_tick();
        }
        vector::MEASURE => {
            apic::end_of_interrupt();
            measure::on_interrupt();
        }
        vector::PAGE_FAULT => page_fault(frame),
        vector::NMI => panic::on_nmi(frame),
        // What `enter_user` returns: a thread's own fault.
        Vector(number) if number < 32 && frame.is_user() && !vector.is_fatal() => {}
        // A spurious interrupt is not in service: it gets no EOI.
        vector::SPURIOUS => {}
        vector::APIC_ERROR => {
            apic::end_of_interrupt();
            crate::log!("local APIC error: {:?}", apic::error_flags());
        }
        Vector(number) if number < 32 => report::exception(frame, None),
        Vector(number) if (vector::LEGACY.0..vector::LEGACY.0 + 16).contains(&number) => {}
        Vector(number) => {
            apic::end_of_interrupt();
            crate::log!("unexpected interrupt, vector {number:#x}");
        }
    }
}

fn page_fault(frame: &mut TrapFrame) {
    let addr = Cr2::read_raw();
    let segments: *mut Segments = per_cpu::current().segments.get();
    // SAFETY: this is the handler of this CPU's page fault, and what came before cannot fault.
    unsafe { Segments::enter_page_fault(segments) };
    if !probe::recover(frame) && !user::recover(frame) {
        report::exception(frame, Some(addr));
    }
    // SAFETY: undoes the above; only the stub's pops follow.
    unsafe { Segments::leave_page_fault(segments) };
}
