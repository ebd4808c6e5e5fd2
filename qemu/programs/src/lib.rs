//! What the programs have in common: a check that an argument names, and copies of the process that checks start.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use std::ffi::c_int;
use std::process::ExitCode;

/// Bytes of a page.
pub const PAGE: usize = 4096;

/// Checks one thing. The error is the number of the part that failed.
pub type Check = fn() -> Result<(), u8>;

/// Returns the error `number` unless `is_right`.
///
/// # Errors
///
/// `number`, if not `is_right`.
pub fn ensure(is_right: bool, number: u8) -> Result<(), u8> {
    if is_right { Ok(()) } else { Err(number) }
}

/// Runs the check that `by_name` returns for the program's first argument. Returns the program's exit code: 0, the
/// number of the part that failed, or 255 if there is no such check.
pub fn run(by_name: impl FnOnce(&str) -> Option<Check>) -> ExitCode {
    match by_name(&std::env::args().nth(1).unwrap_or_default()).map(|check| check()) {
        Some(Ok(())) => ExitCode::SUCCESS,
        Some(Err(number)) => ExitCode::from(number),
        None => {
            eprintln!("no such check");
            ExitCode::from(255)
        }
    }
}

/// Runs `child` in a copy of the process, which exits with the code that `child` returns. Returns the copy's number,
/// or -1 if there is none.
///
/// `child` uses nothing that another thread could have left in the middle of a change.
pub fn start(child: impl FnOnce() -> u8) -> libc::pid_t {
    // SAFETY: the copy uses memory of its own, as the caller has made sure, and `_exit` ends it.
    unsafe {
        match libc::fork() {
            0 => libc::_exit(c_int::from(child())),
            id => id,
        }
    }
}

/// Waits until the process `child` ends. Returns its status, or -1 if there is no such child.
#[must_use]
pub fn wait(child: libc::pid_t) -> c_int {
    let mut status = -1;
    // SAFETY: the status is this function's own.
    if child > 0 && unsafe { libc::waitpid(child, &mut status, 0) } == child { status } else { -1 }
}

/// Runs `child` in a copy of the process, as [`start`] does, and waits until the copy ends. Returns its status.
#[must_use]
pub fn in_child(child: impl FnOnce() -> u8) -> c_int {
    wait(start(child))
}
