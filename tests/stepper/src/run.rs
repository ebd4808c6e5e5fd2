//! One run of an operation with one stop: the handler of the trap, and what it shares with the
//! stopped thread.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr;
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use libc::{REG_EFL, REG_RIP, c_int, c_void, siginfo_t, ucontext_t};

use crate::breakpoint::{self, Breakpoint};
use crate::trace::Recorder;
use crate::trap::{self, TRAP};
use crate::watchdog::Watched;
use crate::{address, string};

/// `TRAP_PERF`: the code of a signal that a breakpoint sends.
const BREAKPOINT: c_int = 6;

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

/// A stop point that a breakpoint leads to, from which the rest is stepped.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ahead {
    pub(crate) at: u64,
    pub(crate) address: usize,
    pub(crate) hits: u64,
}

/// What the handler needs, on the stack of the thread that steps.
struct Run<'a> {
    at: u64,
    /// Where the breakpoint leads to.
    ahead: Option<u64>,
    /// Instructions so far. The thread reads this after the last trap.
    seen: AtomicU64,
    recorder: Option<&'a Recorder>,
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

extern "C" fn on_trap(_: c_int, info: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: the pointer is null, or leads to the run that this thread is in the middle of.
    let Some(run) = (unsafe { CURRENT.get().as_ref() }) else { return not_ours() };
    // SAFETY: the host passes the context that it goes back to, and this thread's errno is there.
    let (registers, errno) =
        unsafe { (&mut (*context.cast::<ucontext_t>()).uc_mcontext.gregs, libc::__errno_location()) };
    // SAFETY: as above.
    let error = unsafe { errno.read() };
    // SAFETY: the host passes what it knows of the signal.
    if unsafe { (*info).si_code } == BREAKPOINT {
        breakpoint::disarm();
        run.seen.store(run.ahead.unwrap_or(0), Relaxed);
        // From here on, step by step.
        registers[REG_EFL as usize] |= TRAP as i64;
    }
    loop {
        let at = run.seen.load(Relaxed);
        run.seen.store(at + 1, Relaxed);
        let address = registers[REG_RIP as usize] as usize;
        if let Some(recorder) = run.recorder {
            recorder.record(address);
        }
        if at == run.at {
            // The rest runs at full speed.
            registers[REG_EFL as usize] &= !(TRAP as i64);
            run.stop_here(Stop { at, address });
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

impl<'a> Run<'a> {
    /// A run that is stepped to its end.
    fn new() -> Run<'a> {
        Run {
            at: u64::MAX,
            ahead: None,
            seen: AtomicU64::new(0),
            recorder: None,
            nested: Cell::new(None),
            stop: Cell::new(None),
            panic: Cell::new(None),
        }
    }

    /// Runs the operation up to the stop, and then to its end.
    fn run(&self, ahead: Option<Ahead>, operation: &mut dyn FnMut()) {
        install_handler();
        let watched = Watched::start(self.at);
        let result = {
            // SAFETY: `self` outlives the block.
            let _current = unsafe { Current::set(self) };
            let armed = ahead.and_then(|ahead| Breakpoint::arm(ahead.address, ahead.hits));
            let flags = if armed.is_some() { 0 } else { TRAP };
            // SAFETY: the handler is installed.
            catch_unwind(AssertUnwindSafe(|| unsafe { trap::trapping(flags, operation) }))
        };
        drop(watched);
        // The context's panic comes first: the operation's may follow from it.
        let panic = self.panic.take().or(result.err());
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}

/// Runs `operation` and returns how many instructions it has, a few of the caller's included.
///
/// A repeated string instruction counts once.
pub fn count(mut operation: impl FnMut()) -> u64 {
    let run = Run::new();
    run.run(None, &mut operation);
    run.seen.load(Relaxed)
}

/// Runs `operation`, and records the addresses that it passes.
pub(crate) fn record(operation: &mut dyn FnMut(), recorder: &Recorder) {
    Run { recorder: Some(recorder), ..Run::new() }.run(None, operation);
}

/// As [`stop_after`], after a breakpoint that leads to a stop point before.
pub(crate) fn stop(
    at: u64,
    ahead: Option<Ahead>,
    operation: &mut dyn FnMut(),
    nested: impl FnOnce(Stop) + Send,
) -> Option<Stop> {
    let mut nested = Some(nested);
    let mut once = |stop| {
        if let Some(nested) = nested.take() {
            nested(stop);
        }
    };
    let run =
        Run { at, ahead: ahead.map(|ahead| ahead.at), nested: Cell::new(Some(&mut once)), ..Run::new() };
    run.run(ahead, operation);
    run.stop.get()
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
pub fn stop_after(at: u64, mut operation: impl FnMut(), nested: impl FnOnce(Stop) + Send) -> Option<Stop> {
    stop(at, None, &mut operation, nested)
}
