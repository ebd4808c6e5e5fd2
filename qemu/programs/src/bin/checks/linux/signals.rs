//! Faults as signals, and handlers on a stack of their own.

use std::arch::asm;
use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use topomem_programs::{PAGE, ensure};

use super::{handle, pages};

static FAULTS: AtomicUsize = AtomicUsize::new(0);
static ADDRESS: AtomicUsize = AtomicUsize::new(0);
static CODE: AtomicU32 = AtomicU32::new(0);

extern "C" fn mend(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel hands both to the handler.
    unsafe {
        let address = (*info).si_addr() as usize;
        ADDRESS.store(address, Ordering::Relaxed);
        CODE.store((*info).si_code as u32, Ordering::Relaxed);
        FAULTS.fetch_add(1, Ordering::Relaxed);
        if signal == libc::SIGILL {
            // Beyond `ud2`.
            (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs[libc::REG_RIP as usize] += 2;
            return;
        }
        let page = (address & !(PAGE - 1)) as *mut c_void;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        if libc::mprotect(page, PAGE, protection) != 0 {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
            libc::mmap(page, PAGE, protection, flags, -1, 0);
        }
    }
}

/// A handler learns where the fault was and why, mends it, and the program goes on.
pub(super) fn faults() -> Result<(), u8> {
    handle(libc::SIGSEGV, mend as *const (), libc::SA_SIGINFO);
    handle(libc::SIGILL, mend as *const (), libc::SA_SIGINFO);
    let place = pages(3, libc::PROT_READ);
    // SAFETY: the pages are the check's own.
    unsafe {
        libc::munmap(place.add(PAGE).cast(), PAGE);
        for (number, at, code) in [(1, place.add(8), 2), (2, place.add(PAGE + 16), 1)] {
            at.write_volatile(number);
            ensure(at.read_volatile() == number, 10 + number)?;
            ensure(ADDRESS.load(Ordering::Relaxed) == at.addr(), 20 + number)?;
            ensure(CODE.load(Ordering::Relaxed) == code, 30 + number)?;
            ensure(FAULTS.load(Ordering::Relaxed) == usize::from(number), 40 + number)?;
        }
        asm!("ud2");
    }
    ensure(FAULTS.load(Ordering::Relaxed) == 3, 50)
}

static HANDLED_AT: AtomicUsize = AtomicUsize::new(0);

extern "C" fn note_stack(_: c_int) {
    let here = 0_u8;
    HANDLED_AT.store((&raw const here).addr(), Ordering::Relaxed);
}

/// A handler runs on the stack that was given for it, and the program goes on on its own.
pub(super) fn alternate_stack() -> Result<(), u8> {
    let stack = pages(16, libc::PROT_READ | libc::PROT_WRITE);
    let given = libc::stack_t { ss_sp: stack.cast(), ss_flags: 0, ss_size: 16 * PAGE };
    // SAFETY: the stack is this check's own.
    let (set, raised) = unsafe {
        let set = libc::sigaltstack(&given, ptr::null_mut());
        handle(libc::SIGUSR2, note_stack as *const (), libc::SA_ONSTACK);
        (set, libc::raise(libc::SIGUSR2))
    };
    ensure(set == 0 && raised == 0, 1)?;
    let at = HANDLED_AT.load(Ordering::Relaxed);
    ensure((stack.addr()..stack.addr() + 16 * PAGE).contains(&at), 2)
}
