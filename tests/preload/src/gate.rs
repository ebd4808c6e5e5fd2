//! A gate that keeps threads out of the heap, for forks and for [`trim`](crate::machine::trim).
//!
//! A fork's child has one thread, and a copy of the heap as it was at that instant. If another thread
//! were inside the heap then, its work would be half done in the child for ever. So a fork closes the
//! gate, waits until no other thread is inside, and opens the gate again on both sides.
//!
//! A thread enters by a plain store and a look at the gate, without a barrier between. Whoever closes
//! the gate pays for both: between the gate's store and the look at the threads it asks the kernel for a
//! barrier on every CPU that runs a thread of the process (membarrier(2)). So either the closer sees the
//! thread inside, or the thread sees the gate closed.
//!
//! The wait has a bound, as a signal handler may keep its thread inside. Then the child leaves the CPUs
//! alone whose threads were inside, and a lock that one of them held is never free again there. The
//! heap waits for no lock without bound, so such a child is slower and has less memory, but works.

use core::ptr;
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use crate::errno;
use crate::threads::{self, Thread};

const OPEN: u32 = 0;
const CLOSED: u32 = 1;

static GATE: AtomicU32 = AtomicU32::new(OPEN);
/// The address of the thread that closed the gate.
static OWNER: AtomicUsize = AtomicUsize::new(0);

/// How often a fork looks whether all threads are outside, with a yield between.
const LOOKS: usize = 100_000;

/// membarrier(2): `MEMBARRIER_CMD_PRIVATE_EXPEDITED` and its registration.
const BARRIER: usize = 1 << 3;
const REGISTER: usize = 1 << 4;

/// Does a thread fork?
#[inline(always)]
pub(crate) fn is_closed() -> bool {
    // Relaxed: see the module's documentation.
    GATE.load(Ordering::Relaxed) != OPEN
}

/// Waits outside until the gate is open; the thread is inside before and after. The thread that closed
/// the gate need not wait.
#[cold]
pub(crate) fn wait(thread: &Thread, leave: impl Fn(), enter: impl Fn()) {
    while is_closed() && OWNER.load(Ordering::Relaxed) != thread.address() {
        leave();
        sleep_while_closed();
        enter();
    }
}

/// Says to the kernel that this process will ask for barriers.
pub(crate) fn register() {
    membarrier(REGISTER);
}

/// Before a fork.
pub(crate) extern "C" fn prepare() {
    errno::preserved(close);
}

/// After a fork, in the parent.
pub(crate) extern "C" fn parent() {
    errno::preserved(open);
}

/// Closes the gate, and waits until no other thread is inside, or as long as it may.
pub(crate) fn close() {
    // Acquire pairs with the Release in `open`.
    while GATE.compare_exchange(OPEN, CLOSED, Ordering::Acquire, Ordering::Relaxed).is_err() {
        sleep_while_closed();
    }
    OWNER.store(threads::current().address(), Ordering::Relaxed);
    membarrier(BARRIER);
    for _ in 0..LOOKS {
        if threads::all_outside() {
            break;
        }
        // SAFETY: it only gives the CPU away.
        unsafe { libc::sched_yield() };
    }
}

/// After a fork, in the child.
pub(crate) extern "C" fn child() {
    errno::preserved(|| {
        threads::forget_others();
        open();
        // A registration is not inherited by a child with memory of its own.
        register();
    });
}

/// Opens the gate, and wakes the threads that wait for it.
pub(crate) fn open() {
    OWNER.store(0, Ordering::Relaxed);
    GATE.store(OPEN, Ordering::Release);
    futex(libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG, i32::MAX as usize);
}

fn sleep_while_closed() {
    errno::preserved(|| futex(libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG, CLOSED as usize));
}

fn futex(operation: i32, value: usize) {
    let no_limit = ptr::null::<libc::timespec>();
    // SAFETY: the futex is a static word; a wait ends when the gate opens, or for no reason.
    unsafe { libc::syscall(libc::SYS_futex, GATE.as_ptr(), operation, value, no_limit) };
}

fn membarrier(command: usize) {
    // SAFETY: it touches no memory. A kernel without it answers with an error: then a fork may miss a
    // thread that is just entering.
    unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) };
}
