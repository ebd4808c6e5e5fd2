//! Accesses that may fault.
//!
//! Each access is one instruction at a known address. The signals' handler recognises it by the
//! instruction pointer, notes the signal, and lets the thread go on behind it. A byte is executed with
//! the trap flag set: the trap after the jump shows that the jump was made, the next one that the
//! instruction at the target was.
//!
//! All of this is for a process with one thread.

use std::arch::global_asm;
use std::cell::UnsafeCell;
use std::ptr;

use crate::compare::answer::Fault;

global_asm!(
    ".globl topomem_posix_load",
    ".globl topomem_posix_load_after",
    ".globl topomem_posix_store",
    ".globl topomem_posix_store_after",
    ".globl topomem_posix_execute",
    ".globl topomem_posix_execute_after",
    // (address) -> the byte, or -1 where the handler says so
    "topomem_posix_load:",
    "movzx eax, byte ptr [rdi]",
    "topomem_posix_load_after:",
    "ret",
    // (address, byte) -> 0 or -1
    "topomem_posix_store:",
    "mov byte ptr [rdi], sil",
    "xor eax, eax",
    "topomem_posix_store_after:",
    "ret",
    // (target, scratch, place for the stack pointer) -> 0 or -1
    // The instruction may change registers and write to the scratch byte, which rax points to.
    "topomem_posix_execute:",
    "push rbp",
    "push rbx",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "mov [rdx], rsp",
    "mov rax, rsi",
    "pushfq",
    "or dword ptr [rsp], 0x100",
    "popfq",
    "jmp rdi",
    "topomem_posix_execute_after:",
    "cld",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbx",
    "pop rbp",
    "ret",
);

unsafe extern "C" {
    fn topomem_posix_load(address: u64) -> i64;
    fn topomem_posix_load_after();
    fn topomem_posix_store(address: u64, value: u8) -> i64;
    fn topomem_posix_store_after();
    fn topomem_posix_execute(target: u64, scratch: *mut [u8; 8], stack: *mut u64) -> i64;
    fn topomem_posix_execute_after();
}

/// What the handler and the accesses tell each other.
struct State {
    /// The target that is being executed, or 0.
    target: u64,
    /// Traps since the jump.
    traps: u32,
    stack: u64,
    signal: i32,
    code: i32,
    address: u64,
}

struct Cell(UnsafeCell<State>);

// SAFETY: used by the only thread of a forked process, and by its signal handler while that thread
// stands at a probe's instruction.
unsafe impl Sync for Cell {}

static STATE: Cell =
    Cell(UnsafeCell::new(State { target: 0, traps: 0, stack: 0, signal: 0, code: 0, address: 0 }));

const STACK: usize = 64 << 10;
static HANDLER_STACK: HandlerStack = HandlerStack(UnsafeCell::new([0; STACK]));

#[repr(align(16))]
struct HandlerStack(UnsafeCell<[u8; STACK]>);

// SAFETY: only the handlers of one thread use it, one at a time.
unsafe impl Sync for HandlerStack {}

const TRAP_FLAG: i64 = 0x100;

extern "C" fn on_signal(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo and context, and no one else uses the state (see `Cell`).
    let (info, context, state) =
        unsafe { (&*info, &mut *context.cast::<libc::ucontext_t>(), &mut *STATE.0.get()) };
    let registers = &mut context.uc_mcontext.gregs;
    let rip = registers[libc::REG_RIP as usize] as u64;
    let load = topomem_posix_load as *const () as u64;
    let store = topomem_posix_store as *const () as u64;
    if signal == libc::SIGTRAP && state.target != 0 {
        state.traps += 1;
        if state.traps == 1 && rip == state.target {
            // The jump was made; the instruction at the target comes next.
            return;
        }
        leave_execution(registers, state, 0);
        return;
    }
    let after = match rip {
        _ if rip == load => topomem_posix_load_after as *const () as u64,
        _ if rip == store => topomem_posix_store_after as *const () as u64,
        _ if state.target != 0 => 0,
        // Not a probe: a crash of this program, which the runner reports.
        // SAFETY: `_exit` ends the process at once.
        _ => unsafe { libc::_exit(CRASHED) },
    };
    state.signal = signal;
    state.code = info.si_code;
    // SAFETY: signals of faults carry an address.
    state.address = unsafe { info.si_addr() } as u64;
    if state.target == 0 {
        registers[libc::REG_RIP as usize] = after as i64;
        registers[libc::REG_RAX as usize] = -1;
    } else {
        leave_execution(registers, state, -1);
    }
}

/// The status of a process that faulted elsewhere than at a probe.
pub(super) const CRASHED: i32 = 99;

fn leave_execution(registers: &mut [i64; 23], state: &mut State, result: i64) {
    state.target = 0;
    registers[libc::REG_RIP as usize] = topomem_posix_execute_after as *const () as i64;
    registers[libc::REG_RSP as usize] = state.stack as i64;
    registers[libc::REG_RAX as usize] = result;
    registers[libc::REG_EFL as usize] &= !TRAP_FLAG;
}

/// Installs the handlers.
pub(super) fn install() {
    let stack = libc::stack_t { ss_sp: HANDLER_STACK.0.get().cast(), ss_flags: 0, ss_size: STACK };
    // SAFETY: the stack is static and used by these handlers alone; the action is fully set up.
    unsafe {
        libc::sigaltstack(&stack, ptr::null_mut());
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_signal as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        for signal in [libc::SIGSEGV, libc::SIGBUS, libc::SIGTRAP, libc::SIGILL, libc::SIGFPE] {
            libc::sigaction(signal, &action, ptr::null_mut());
        }
    }
}

/// Reads a byte.
pub(super) fn load(address: u64) -> Result<u8, Fault> {
    // SAFETY: the handler makes any fault a result.
    let result = unsafe { topomem_posix_load(address) };
    u8::try_from(result).map_err(|_| fault(address))
}

/// Writes a byte.
pub(super) fn store(address: u64, value: u8) -> Result<(), Fault> {
    // SAFETY: the handler makes any fault a result; the caller's log owns the address.
    match unsafe { topomem_posix_store(address, value) } {
        0 => Ok(()),
        _ => Err(fault(address)),
    }
}

/// Executes the instruction at `address`, one of [`VALUES`](crate::log::operation::VALUES) or 0, followed by zeros.
pub(super) fn execute(address: u64) -> Result<(), Fault> {
    let mut scratch = [0; 8];
    // SAFETY: see `Cell`. The handler takes the thread back after one instruction, which changes
    // no memory but `scratch`.
    let result = unsafe {
        let state = STATE.0.get();
        (*state).traps = 0;
        (*state).target = address;
        topomem_posix_execute(address, &mut scratch, &raw mut (*state).stack)
    };
    if result == 0 { Ok(()) } else { Err(fault(address)) }
}

fn fault(address: u64) -> Fault {
    // SAFETY: see `Cell`.
    let state = unsafe { &*STATE.0.get() };
    match (state.signal, state.code) {
        _ if state.address != address => Fault::WrongAddress,
        (libc::SIGSEGV, 1) => Fault::Unmapped,
        // SEGV_ACCERR, and SEGV_PKUERR for pages that can only be executed.
        (libc::SIGSEGV, 2 | 4) => Fault::Denied,
        (libc::SIGBUS, 2) => Fault::BeyondEnd,
        (signal, code) => Fault::Other { signal, code },
    }
}
