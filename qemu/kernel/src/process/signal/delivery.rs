//! Delivering signals to handlers, and returning from them, as Linux lays it out on x86-64.

use topomem::region::FaultAccess;

use super::Handling;
use crate::arch::interrupt::trap::TrapFrame;
use crate::arch::interrupt::vector::{self, Vector};
use crate::arch::user::{FLOATING_POINT_BYTES, FloatingPoint};
use crate::process::{AlternateStack, Ending, Refusal, Signal, SignalSet, Task};
use crate::syscall::Errno;

/// Bytes below a stack pointer that a program may use without moving it.
const RED_ZONE: u64 = 128;
/// Words of 8 bytes of a `siginfo`.
const INFO_WORDS: usize = 16;
/// Words of a `ucontext`: flags, link, stack (3), registers, signal mask.
const CONTEXT_WORDS: usize = 5 + REGISTER_WORDS + 1;
/// Words of the registers in it (`sigcontext`), of which the last 8 are reserved.
const REGISTER_WORDS: usize = 32;
/// Words of the whole: where the handler returns to, context, `siginfo`.
const FRAME_WORDS: usize = 1 + CONTEXT_WORDS + INFO_WORDS;
/// `UC_SIGCONTEXT_SS` and `UC_STRICT_RESTORE_SS`: the stack segment is there.
const CONTEXT_FLAGS: u64 = 2 | 4;
/// Flags that are clear when a handler begins: trap, direction, resume.
const CLEARED_FLAGS: u64 = 1 << 8 | 1 << 10 | 1 << 16;

/// Bytes of the instruction that makes a system call.
const SYSCALL_BYTES: u64 = 2;

/// What a handler is told about a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cause {
    /// Which signal.
    pub signal: Signal,
    /// `si_code`.
    pub code: i32,
    /// The word after it: an address, or who sent it.
    pub detail: u64,
    /// The exception, if it was one: vector, error code, address of a page fault.
    pub exception: Option<(Vector, u64, u64)>,
}

/// Bits of a page fault's error code.
const PRESENT: u64 = 1 << 0;
const WROTE: u64 = 1 << 1;
const BY_USER_MODE: u64 = 1 << 2;
const FETCHED: u64 = 1 << 4;

/// The code of a signal of the kernel's that has none of its own (`SI_KERNEL`).
const BY_KERNEL: i32 = 0x80;
/// The code of a signal that was sent by `kill` (`SI_USER`).
const BY_USER: i32 = 0;

impl Cause {
    /// A signal that a process sent.
    pub(crate) fn sent(signal: Signal) -> Cause {
        Cause { signal, code: BY_USER, detail: 0, exception: None }
    }

    /// What a program is told of its own exception at `rip`.
    fn of_exception(vector: Vector, error: u64, address: u64, rip: u64, refusal: Option<Refusal>) -> Cause {
        let (signal, code, detail) = match (vector.0, refusal) {
            // FPE_INTDIV
            (0, _) => (Signal::FPE, 1, rip),
            // TRAP_TRACE
            (1, _) => (Signal::TRAP, 2, rip),
            (3, _) => (Signal::TRAP, BY_KERNEL, 0),
            // ILL_ILLOPN
            (6, _) => (Signal::ILL, 2, rip),
            (12, _) => (Signal::BUS, BY_KERNEL, 0),
            // SEGV_MAPERR and SEGV_ACCERR
            (14, Some(Refusal::NotMapped)) => (Signal::SEGV, 1, address),
            // BUS_ADRERR
            (14, Some(Refusal::NoLargePage | Refusal::NoSuchPage)) => (Signal::BUS, 2, address),
            (14, _) => (Signal::SEGV, 2, address),
            // BUS_ADRALN
            (17, _) => (Signal::BUS, 1, 0),
            // FPE_FLTINV
            (16 | 19, _) => (Signal::FPE, 7, rip),
            _ => (Signal::SEGV, BY_KERNEL, 0),
        };
        Cause { signal, code, detail, exception: Some((vector, error, address)) }
    }
}

/// What a page fault of that error code tried.
fn tried(error: u64) -> FaultAccess {
    match error {
        error if error & FETCHED != 0 => FaultAccess::Execute,
        error if error & WROTE != 0 => FaultAccess::Write,
        _ => FaultAccess::Read,
    }
}

impl Task {
    /// Is the thread's exception a page fault that the program may repeat by now, without waiting?
    #[inline]
    pub(crate) fn resolves_at_once(&self, vector: Vector, error: u64, address: u64) -> bool {
        vector == vector::PAGE_FAULT
            && error & BY_USER_MODE != 0
            && self.memory().resolves_at_once(address, tried(error), error & PRESENT != 0)
    }

    /// Does something about the thread's exception: has its page mapped, calls its handler, or ends its
    /// process.
    pub(crate) async fn on_exception(&mut self, vector: Vector, error: u64, address: u64) {
        let mut refusal = None;
        if vector == vector::PAGE_FAULT {
            // A CPU's access of its own to what a segment or IRET names. QEMU 7.2 makes those of IRET and RETF
            // with the kernel's rights, and SMAP forbids them: they would fault again.
            let is_users = error & BY_USER_MODE != 0;
            let resolved = match is_users {
                true if error & PRESENT != 0 => self.memory().resolve_refused(address, tried(error)).await,
                true => self.memory().resolve(address, tried(error)).await,
                false => Err(Refusal::NotPermitted),
            };
            match resolved {
                Ok(()) => return,
                Err(Refusal::OutOfMemory) => return self.thread.process.end(Ending::Killed(Signal::KILL)),
                Err(refused) => refusal = Some(refused),
            }
        }
        let cause = Cause::of_exception(vector, error, address, self.state.frame.rip, refusal);
        self.force(cause).await;
    }

    /// Delivers what the thread cannot go on without: if it puts the signal off, or ignores it, the process
    /// ends.
    pub(crate) async fn force(&mut self, cause: Cause) {
        let process = &self.thread.process;
        let handling = process.actions.lock().get(cause.signal).handling();
        if handling != Handling::Call || self.thread.blocked().contains(cause.signal) {
            process.end(Ending::Killed(cause.signal));
        } else {
            self.deliver(cause).await;
        }
    }

    /// Does what the process does about a signal.
    pub(crate) async fn deliver(&mut self, cause: Cause) {
        let signal = cause.signal;
        let action = self.thread.process.actions.lock().take(signal);
        match action.handling() {
            _ if action.ignores(signal) => {}
            Handling::Ignore => {}
            Handling::Default => self.thread.process.end(Ending::Killed(signal)),
            Handling::Call => {
                let Some(returns_to) = action.returns_to() else {
                    return self.thread.process.end(Ending::Killed(Signal::SEGV));
                };
                if let Some(number) = self.interrupted_call.take().filter(|_| action.restarts()) {
                    self.state.frame.rax = u64::from(number);
                    self.state.frame.rip -= SYSCALL_BYTES;
                }
                let pointer = self.state.frame.rsp;
                let alternate = self.alternate_stack;
                let is_elsewhere = action.is_on_alternate_stack() && !alternate.holds(pointer);
                let stack = alternate.top().filter(|_| is_elsewhere);
                let stack = stack.unwrap_or(pointer.wrapping_sub(RED_ZONE));
                let Ok(frame) = self.push(stack, returns_to, cause).await else {
                    return self.thread.process.end(Ending::Killed(Signal::SEGV));
                };
                let registers = &mut self.state.frame;
                registers.rip = action.handler;
                registers.rsp = frame;
                registers.rax = 0;
                registers.rdi = u64::from(signal.number());
                registers.rsi = frame + 8 * (1 + CONTEXT_WORDS as u64);
                registers.rdx = frame + 8;
                registers.rflags &= !CLEARED_FLAGS;
                self.state.restore_all();
                let blocked = self.thread.blocked();
                self.thread.set_blocked(action.blocked_meanwhile(signal, blocked));
            }
        }
    }

    /// Puts below `stack` what the handler gets, and what [`Task::return_from_handler`] takes; where that is.
    async fn push(&mut self, stack: u64, returns_to: u64, cause: Cause) -> Result<u64, Errno> {
        let floating_point_at = stack.wrapping_sub(FLOATING_POINT_BYTES as u64) & !63;
        // As after a call: 8 beyond a multiple of 16.
        let frame_at = (floating_point_at.wrapping_sub(8 * FRAME_WORDS as u64) & !15).wrapping_sub(8);
        let blocked = self.saved_mask.take().unwrap_or(self.thread.blocked());

        let mut words = [0; FRAME_WORDS];
        words[0] = returns_to;
        let context = &mut words[1..][..CONTEXT_WORDS];
        context[0] = CONTEXT_FLAGS;
        context[2] = self.alternate_stack.start;
        context[3] = self.alternate_stack.flags();
        context[4] = self.alternate_stack.bytes;
        let registers = &self.state.frame;
        let (vector, error, address) = cause
            .exception
            .map_or((0, 0, 0), |(vector, error, address)| (u64::from(vector.0), error, address));
        context[5..][..GENERAL.len()]
            .copy_from_slice(&GENERAL.map(|register| register_of(registers, register)));
        let segments = registers.cs & 0xffff | (registers.ss & 0xffff) << 48;
        context[23..][..6].copy_from_slice(&[segments, error, vector, blocked.0, address, floating_point_at]);
        context[CONTEXT_WORDS - 1] = blocked.0;
        let info = &mut words[1 + CONTEXT_WORDS..];
        info[0] = u64::from(cause.signal.number());
        info[1] = u64::from(cause.code as u32);
        info[2] = cause.detail;

        let floating_point = *self.state.floating_point();
        let memory = self.memory();
        memory.write(floating_point_at, floating_point.bytes()).await?;
        memory.write_words(frame_at, words).await?;
        Ok(frame_at)
    }

    /// Takes the registers back that a handler was called with (`rt_sigreturn`): the handler has returned,
    /// and its stack pointer is where the context is.
    ///
    /// # Errors
    ///
    /// [`Errno::FAULT`]: they cannot be read. The registers are as they were.
    pub(crate) async fn return_from_handler(&mut self) -> Result<(), Errno> {
        let at = self.state.frame.rsp;
        let memory = self.memory();
        let context: [u64; CONTEXT_WORDS] = memory.read_words(at).await?;
        let floating_point_at = context[28];
        let mut bytes = [0; FLOATING_POINT_BYTES];
        if floating_point_at != 0 {
            memory.read(floating_point_at, &mut bytes).await?;
            let known = self.state.floating_point();
            *known = FloatingPoint::from_user(bytes, known);
        }
        for (register, value) in GENERAL.into_iter().zip(&context[5..]) {
            *register_mut(&mut self.state.frame, register) = *value;
        }
        self.state.restore_all();
        self.thread.set_blocked(SignalSet(context[CONTEXT_WORDS - 1]));
        self.alternate_stack = AlternateStack { start: context[2], bytes: context[4] };
        Ok(())
    }
}

/// The registers in a context, in the order in which they are there.
#[derive(Debug, Clone, Copy)]
enum Register {
    R8,
    R9,
    R10,
    R11,
    R12,
    R13,
    R14,
    R15,
    Rdi,
    Rsi,
    Rbp,
    Rbx,
    Rdx,
    Rax,
    Rcx,
    Rsp,
    Rip,
    Flags,
}

const GENERAL: [Register; 18] = {
    use Register::*;
    [R8, R9, R10, R11, R12, R13, R14, R15, Rdi, Rsi, Rbp, Rbx, Rdx, Rax, Rcx, Rsp, Rip, Flags]
};

fn register_mut(frame: &mut TrapFrame, register: Register) -> &mut u64 {
    match register {
        Register::R8 => &mut frame.r8,
        Register::R9 => &mut frame.r9,
        Register::R10 => &mut frame.r10,
        Register::R11 => &mut frame.r11,
        Register::R12 => &mut frame.r12,
        Register::R13 => &mut frame.r13,
        Register::R14 => &mut frame.r14,
        Register::R15 => &mut frame.r15,
        Register::Rdi => &mut frame.rdi,
        Register::Rsi => &mut frame.rsi,
        Register::Rbp => &mut frame.rbp,
        Register::Rbx => &mut frame.rbx,
        Register::Rdx => &mut frame.rdx,
        Register::Rax => &mut frame.rax,
        Register::Rcx => &mut frame.rcx,
        Register::Rsp => &mut frame.rsp,
        Register::Rip => &mut frame.rip,
        Register::Flags => &mut frame.rflags,
    }
}

fn register_of(frame: &TrapFrame, register: Register) -> u64 {
    let mut frame = *frame;
    *register_mut(&mut frame, register)
}
