//! The guest that this program has for itself.

use std::process::ExitCode;
use std::time::Duration;

use rustix::mount::{MountFlags, mount};
use rustix::system::{RebootCommand, reboot};

use crate::guest::error::GuestError;

/// How long the kernel goes on with what it put off while booting: self-tests, freeing of memory. On one CPU that
/// would take turns with what is measured.
const SETTLING: Duration = Duration::from_secs(3);

/// Is this the first process, so that the machine may be turned off at the end?
pub(crate) fn is_ours() -> bool {
    std::process::id() == 1
}

/// Makes the kernel's counters readable, keeps its messages off the console, and waits until it has settled.
pub(crate) fn prepare() -> Result<(), GuestError> {
    let target = "/proc";
    mount(c"proc", c"/proc", c"proc", MountFlags::empty(), None)
        .map_err(|error| GuestError::Mount { target, error })?;
    // A message in the middle of a record would spoil it. What the kernel says when it dies is shown all the same.
    std::fs::write("/proc/sys/kernel/printk", "1").map_err(GuestError::Mute)?;
    std::thread::sleep(SETTLING);
    Ok(())
}

/// Turns the machine off; returns only if it can't. The kernel then panics as its first process ends, which ends
/// the guest too.
pub(crate) fn power_off() -> ExitCode {
    match reboot(RebootCommand::PowerOff) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
