//! The start, at the process's first allocation: the loader makes it before any constructor runs.

use core::ffi::c_void;
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use crate::threads::{self, Thread};
use crate::{errno, gate, machine};

const UNTOUCHED: u32 = 0;
const STARTING: u32 = 1;
const DONE: u32 = 2;

static STAGE: AtomicU32 = AtomicU32::new(UNTOUCHED);
/// The address of the thread that makes the start.
static STARTER: AtomicUsize = AtomicUsize::new(0);
/// The key whose destructor sees threads end, plus one; 0 while there is none.
static KEY: AtomicU32 = AtomicU32::new(0);

unsafe extern "C" {
    /// glibc's `pthread_atfork` for a library; the handle tells whose the handlers are.
    fn __register_atfork(
        prepare: extern "C" fn(),
        parent: extern "C" fn(),
        child: extern "C" fn(),
        handle: *const c_void,
    ) -> i32;
    safe static __dso_handle: [u8; 0];
}

/// Makes the start, or waits until the thread that makes it is done. False for a signal handler that
/// interrupts the start: there is no memory yet.
pub(crate) fn run(thread: &Thread) -> bool {
    loop {
        match STAGE.compare_exchange(UNTOUCHED, STARTING, Ordering::Acquire, Ordering::Acquire) {
            Ok(_) => {
                STARTER.store(thread.address(), Ordering::Relaxed);
                errno::preserved(make);
                STAGE.store(DONE, Ordering::Release);
                return true;
            }
            Err(DONE) => return true,
            Err(_) if STARTER.load(Ordering::Relaxed) == thread.address() => return false,
            Err(_) => {
                // SAFETY: it only gives the CPU away.
                unsafe { libc::sched_yield() };
            }
        }
    }
}

fn make() {
    // Without memory every allocation fails.
    machine::start();
    gate::register();
    let mut key = 0;
    // Both may allocate if others have filled the thread library's first tables. What they allocate is
    // served: there is memory, and this thread acts on the shared CPU until it is done here.
    // SAFETY: the functions are there as long as this library, which is never unloaded.
    unsafe {
        if libc::pthread_key_create(&mut key, Some(threads::end)) == 0 {
            KEY.store(key + 1, Ordering::Relaxed);
        }
        __register_atfork(gate::prepare, gate::parent, gate::child, (&raw const __dso_handle).cast());
    }
}

/// Has [`threads::end`] called when the calling thread ends. False if the thread library cannot.
pub(crate) fn watch_end_of_thread(value: *const c_void) -> bool {
    let Some(key) = KEY.load(Ordering::Relaxed).checked_sub(1) else { return false };
    // SAFETY: the key exists, and its value is only looked at for null.
    errno::preserved(|| unsafe { libc::pthread_setspecific(key, value) == 0 })
}
