//! What lies beyond the end of a file.

use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};

use super::{File, Mapped, PAGE, ensure, in_child, start, wait};

static FILE: AtomicI32 = AtomicI32::new(-1);
static ADDRESS: AtomicUsize = AtomicUsize::new(0);
static CODE: AtomicI32 = AtomicI32::new(0);

/// Notes where the fault was, and makes the file long enough.
extern "C" fn lengthen(_: c_int, info: *mut libc::siginfo_t, _: *mut c_void) {
    // SAFETY: the kernel hands it to the handler.
    let (address, code) = unsafe { ((*info).si_addr().addr(), (*info).si_code) };
    ADDRESS.store(address, Ordering::Relaxed);
    CODE.store(code, Ordering::Relaxed);
    // SAFETY: it changes no memory that references exist of.
    unsafe { libc::ftruncate(FILE.load(Ordering::Relaxed), 4 * PAGE as libc::off_t) };
}

fn handle_bus_errors() {
    // SAFETY: all zeros are a valid value; the handler is one.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = lengthen as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        libc::sigaction(libc::SIGBUS, &action, ptr::null_mut());
    }
}

/// Tells whether `child` is ended by SIGBUS.
fn is_ended(child: impl FnOnce()) -> Result<bool, u8> {
    let status = topomem_programs::in_child(|| {
        child();
        0
    });
    Ok(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGBUS)
}

/// The tail of the last page is zeros and not part of the file; beyond it an access is an error, which a handler
/// learns of and can mend.
pub(super) fn beyond_end() -> Result<(), u8> {
    let file = File::in_memory(PAGE + 100)?;
    let shared = Mapped::shared(&file, 4)?;
    shared.write(1, 99, 41);
    shared.write(1, 100, 42);
    ensure(shared.read(1, 4095) == 0 && shared.read(1, 100) == 42, 1)?;
    ensure(file.read(PAGE + 99) == Some(41) && file.read(PAGE + 100).is_none(), 2)?;
    ensure(file.size() == PAGE + 100, 3)?;
    ensure(is_ended(|| _ = shared.read(2, 0))?, 4)?;
    ensure(is_ended(|| shared.write(3, 0, 1))?, 5)?;

    FILE.store(file.0, Ordering::Relaxed);
    handle_bus_errors();
    shared.write(2, 17, 43);
    ensure(ADDRESS.load(Ordering::Relaxed) == shared.at(2, 17).addr(), 6)?;
    // BUS_ADRERR
    ensure(CODE.load(Ordering::Relaxed) == 2, 7)?;
    ensure(file.read(2 * PAGE + 17) == Some(43) && file.size() == 4 * PAGE, 8)?;
    ensure(shared.read(3, 0) == 0, 9)?;

    // What is cut off is gone, private copies too.
    let private = Mapped::private(&file, 4)?;
    private.write(2, 17, 44);
    private.write(0, 200, 45);
    file.resize(100)?;
    ensure(is_ended_without_handler(|| _ = private.read(2, 17))?, 10)?;
    ensure(private.read(0, 200) == 45 && shared.read(0, 200) == 0, 11)?;
    file.resize(4 * PAGE)?;
    ensure(private.read(2, 17) == 0 && shared.read(2, 17) == 0, 12)?;
    // A system call is told that there is nothing.
    file.resize(0)?;
    // SAFETY: the kernel copies from the mapping, or refuses.
    let written = unsafe { libc::write(1, shared.at(0, 0).cast(), 1) };
    ensure(super::failed_with(written as c_int, libc::EFAULT), 13)?;
    private.unmap()?;
    shared.unmap()
}

fn is_ended_without_handler(child: impl FnOnce()) -> Result<bool, u8> {
    is_ended(|| {
        // SAFETY: it takes the handler away.
        unsafe { libc::signal(libc::SIGBUS, libc::SIG_DFL) };
        child();
    })
}

/// A file is cut while another process writes to its mapping: the writer finds an error, and never what is not
/// the file's any more.
pub(super) fn cut_by_another() -> Result<(), u8> {
    const PAGES: usize = 16;
    for round in 0..8 {
        let file = File::in_memory(PAGES * PAGE)?;
        let shared = Mapped::shared(&file, PAGES)?;
        let signal = Mapped::inherited(1)?;
        let writer = start(|| {
            for number in 0..u32::MAX {
                (0..PAGES).for_each(|page| shared.write(page, 0, number as u8 | 1));
                signal.word(0, 0).store(number + 1, Ordering::Release);
            }
            Ok(())
        })?;
        while signal.word(0, 0).load(Ordering::Acquire) <= round {
            // SAFETY: it has no requirements.
            unsafe { libc::sched_yield() };
        }
        file.resize(PAGE)?;
        let status = wait(writer);
        ensure(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGBUS, 1)?;
        file.resize(PAGES * PAGE)?;
        in_child(|| {
            for page in 1..PAGES {
                ensure(shared.read(page, 0) == 0, 2)?;
            }
            ensure(shared.read(0, 0) != 0, 3)
        })?;
        shared.unmap()?;
        signal.unmap()?;
    }
    Ok(())
}
