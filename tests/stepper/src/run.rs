//! One run of an operation with one stop: the handler of the trap, and what it shares with the
//! stopped thread.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr;
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use libc::{REG_EFL, REG_RIP, c_int, c_void, siginfo_t, ucontext_t};

use crate::trap::{self, TRAP};
use crate::watchdog::Watched;
use crate::{address, string};

/// Where an operation was stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stop {
    /// How many instructions ran before the one that was the last before the stop.
    pub at: u64,
    /// Address of the next instruction.
    pub address: usize,
}

impl Stop {
    /// Names the function, the file and the line of the next instruction, with the functions that
    /// it is inlined into. Reads the program's debug information, so it is slow.
    #[must_use]
    pub fn place(&self) -> String {
        address::describe(self.address)
    }
}

/// Calls the nested context.
type Nested<'a> = &'a mut (dyn FnMut(Stop) + Send);

/// What the handler needs, on the stack of the thread that steps.
struct Run<'a> {
    at: u64,
    /// Instructions so far. The thread reads this after the last trap.
    seen: AtomicU64,
    nested: Cell<Option<Nested<'a>>>,
    stop: Cell<Option<Stop>>,
    panic: Cell<Option<Box<dyn Any + Send>>>,
}

thread_local! {
    /// The run of this thread. `const`, and nothing to drop: the handler's access is one load.
    static CURRENT: Cell<*const Run<'static>> = const { Cell::new(ptr::null()) };
}

/// Ends the thread's run, by a panic too.
struct Current;

impl Current {
    /// # Safety
    ///
    /// `run` lives as long as what this returns.
    unsafe fn set(run: &Run<'_>) -> Current {
        assert!(CURRENT.get().is_null(), "a nested context, or a stepped operation, cannot step");
        CURRENT.set(ptr::from_ref(run).cast());
        Current
    }
}

impl Drop for Current {
    fn drop(&mut self) {
        CURRENT.set(ptr::null());
    }
}

extern "C" fn on_trap(_: c_int, _: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: the pointer is null, or leads to the run that this thread is in the middle of.
    let Some(run) = (unsafe { CURRENT.get().as_ref() }) else { return not_ours() };
    // SAFETY: the host passes the context that it goes back to, and this thread's errno is there.
    let (registers, errno) =
        unsafe { (&mut (*context.cast::<ucontext_t>()).uc_mcontext.gregs, libc::__errno_location()) };
    // SAFETY: as above.
    let error = unsafe { errno.read() };
    loop {
        let at = run.seen.load(Relaxed);
        run.seen.store(at + 1, Relaxed);
        if at == run.at {
            run.stop_here(Stop { at, address: registers[REG_RIP as usize] as usize });
            // The rest runs at full speed.
            registers[REG_EFL as usize] &= !(TRAP as i64);
            break;
        }
        // SAFETY: these are this thread's registers after a trap.
        if !unsafe { string::finish(registers) } {
            break;
        }
    }
    // SAFETY: as above.
    unsafe { errno.write(error) };
}

impl Run<'_> {
    fn stop_here(&self, stop: Stop) {
        self.stop.set(Some(stop));
        let Some(nested) = self.nested.take() else { return };
        // A panic must not unwind out of a signal handler.
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| nested(stop))) {
            self.panic.set(Some(panic));
        }
    }
}

/// A trap that no run of this crate caused ends the process, as it would without this crate.
fn not_ours() {
    // SAFETY: restores what the host does by default.
    unsafe {
        libc::signal(libc::SIGTRAP, libc::SIG_DFL);
        libc::raise(libc::SIGTRAP);
    }
}

fn install_handler() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let handler: extern "C" fn(c_int, *mut siginfo_t, *mut c_void) = on_trap;
        // SAFETY: all zeroes are a valid action, and the handler has the form that its flag says.
        let result = unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handler as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
            libc::sigaction(libc::SIGTRAP, &action, ptr::null_mut())
        };
        assert_eq!(result, 0, "no handler for SIGTRAP");
    });
}

/// Steps through the operation up to the stop.
fn step<R>(at: u64, operation: impl FnOnce() -> R, nested: Option<Nested<'_>>) -> (R, u64, Option<Stop>) {
    install_handler();
    let run = Run {
        at,
        seen: AtomicU64::new(0),
        nested: Cell::new(nested),
        stop: Cell::new(None),
        panic: Cell::new(None),
    };
    let watched = Watched::start(at);
    let result = {
        // SAFETY: `run` outlives the block.
        let _current = unsafe { Current::set(&run) };
        // SAFETY: the handler is installed.
        catch_unwind(AssertUnwindSafe(|| unsafe { trap::trapping(operation) }))
    };
    drop(watched);
    // The context's panic comes first: the operation's may follow from it.
    if let Some(panic) = run.panic.take() {
        resume_unwind(panic);
    }
    match result {
        Ok(result) => (result, run.seen.load(Relaxed), run.stop.get()),
        Err(panic) => resume_unwind(panic),
    }
}

/// Runs `operation` and returns how many instructions it has, a few of the caller's included.
///
/// A repeated string instruction counts once.
pub fn count<R>(operation: impl FnOnce() -> R) -> u64 {
    step(u64::MAX, operation, None).1
}

/// Runs `operation`, and `nested` after its instruction number `at` (from 0).
///
/// Returns where that was, or `None` if the operation ended before, in which case `nested` was not
/// called. No two runs of an operation need the same number of instructions.
///
/// # Panics
///
/// If `operation` or `nested` panics; the panic of `nested` is carried on when the operation has
/// ended. If the calling thread is stepping already.
pub fn stop_after<R>(
    at: u64,
    operation: impl FnOnce() -> R,
    nested: impl FnOnce(Stop) + Send,
) -> (R, Option<Stop>) {
    let mut nested = Some(nested);
    let mut once = |stop| {
        if let Some(nested) = nested.take() {
            nested(stop);
        }
    };
    let (result, _, stop) = step(at, operation, Some(&mut once));
    (result, stop)
}
