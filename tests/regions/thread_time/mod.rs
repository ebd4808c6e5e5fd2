//! Processor time of a thread: a test that gives another thread time to make a mistake waits until that thread has
//! used some, however busy the host is.
#![allow(dead_code, reason = "each test uses a part")]

use std::sync::OnceLock;
use std::time::Duration;

/// The clock of a thread that spins.
#[derive(Default)]
pub(crate) struct ThreadTime(OnceLock<(libc::clockid_t, Duration)>);

impl ThreadTime {
    /// The calling thread is the one, from now on.
    pub(crate) fn begin(&self) {
        let mut clock = 0;
        // SAFETY: a thread's own handle is valid, and so is the place of the result.
        let failed = unsafe { libc::pthread_getcpuclockid(libc::pthread_self(), &mut clock) };
        assert_eq!(failed, 0);
        self.0.get_or_init(|| (clock, read(clock)));
    }

    /// Has the thread used more than `time` since it began? Its thread has not ended.
    pub(crate) fn has_used(&self, time: Duration) -> bool {
        self.0.get().is_some_and(|&(clock, began)| read(clock) - began > time)
    }
}

fn read(clock: libc::clockid_t) -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the place of the result is valid.
    let failed = unsafe { libc::clock_gettime(clock, &mut time) };
    assert_eq!(failed, 0);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
