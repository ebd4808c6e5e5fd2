//! Child processes.

use core::arch::asm;
use std::convert::Infallible;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use crate::guest::error::GuestError;

/// The numbers of `fork` and `exit_group`.
const FORK: usize = 57;
const EXIT_GROUP: usize = 231;
/// Errors are the highest values that a system call can return.
const MOST_ERRORS: usize = 4095;

/// A child that has not been waited for.
#[derive(Debug)]
pub(crate) struct Child(Pid);

impl Child {
    /// Forks: the child does `work` and ends, with success.
    ///
    /// # Safety
    ///
    /// The calling thread is the process's only one.
    pub(crate) unsafe fn fork(work: impl FnOnce()) -> Result<Self, GuestError> {
        let answer: usize;
        // SAFETY: a system call that takes nothing and changes no memory of this process. The child has a copy of
        // everything, and no other thread that could have left something half-done.
        unsafe {
            asm!("syscall", inlateout("rax") FORK => answer, lateout("rcx") _, lateout("r11") _);
        }
        if answer == 0 {
            work();
            exit();
        }
        if answer.wrapping_neg() <= MOST_ERRORS {
            let error = Errno::from_raw_os_error(answer.wrapping_neg() as i32);
            return Err(GuestError::Call { call: "fork", error });
        }
        Pid::from_raw(answer as i32).map(Self).ok_or(GuestError::Child)
    }

    /// Waits until the child has ended by itself.
    pub(crate) fn wait(self) -> Result<(), GuestError> {
        let ended = waitpid(Some(self.0), WaitOptions::empty());
        match ended.map_err(|error| GuestError::Call { call: "wait4", error })? {
            Some((_, status)) if status.exit_status() == Some(0) => Ok(()),
            _ => Err(GuestError::Child),
        }
    }

    /// Ends the child, and waits for that.
    pub(crate) fn end(self) -> Result<(), GuestError> {
        kill_process(self.0, Signal::KILL).map_err(|error| GuestError::Call { call: "kill", error })?;
        let ended = waitpid(Some(self.0), WaitOptions::empty());
        ended.map(|_| ()).map_err(|error| GuestError::Call { call: "wait4", error })
    }
}

/// What a child does that only has to be there.
pub(crate) fn sleep_on() {
    loop {
        std::thread::sleep(Duration::from_secs(1000));
    }
}

/// Ends the process at once.
fn exit() -> Infallible {
    loop {
        // SAFETY: the process ends here.
        unsafe {
            asm!("syscall", inlateout("rax") EXIT_GROUP => _, in("rdi") 0, lateout("rcx") _, lateout("r11") _);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // The tests' process has other threads, so children do nothing but what needs no lock.

    #[test]
    fn a_child_ends_by_itself_or_is_ended() {
        // SAFETY: what the children do uses nothing that another thread may hold.
        let (short, long) = unsafe { (Child::fork(|| ()).unwrap(), Child::fork(sleep_on).unwrap()) };
        short.wait().unwrap();
        long.end().unwrap();
    }
}
