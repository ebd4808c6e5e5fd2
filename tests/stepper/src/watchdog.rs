//! Ends the process if a stopped operation hangs: if the context waits for what it interrupted,
//! nothing in this process can go on.
//!
//! The limit is the CPU time of the stepping thread, so the host's load has no say. A thread that
//! sleeps (in a lock of the host) uses none, and is given much more of the wall's time.

use std::io::Write;
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::time::{Duration, Instant};

/// One run takes a second at most.
const CPU_LIMIT: Duration = Duration::from_secs(30);
const WALL_LIMIT: Duration = Duration::from_secs(300);
const PERIOD: Duration = Duration::from_millis(500);

struct Entry {
    thread: libc::pthread_t,
    clock: libc::clockid_t,
    cpu_time: Duration,
    began: Instant,
    at: u64,
    what: String,
}

static WATCHED: Mutex<Vec<Entry>> = Mutex::new(Vec::new());

thread_local! {
    static WHAT: std::cell::RefCell<String> = const { std::cell::RefCell::new(String::new()) };
}

fn watched() -> MutexGuard<'static, Vec<Entry>> {
    WATCHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Names what this thread steps through from now on, for the message.
pub(crate) fn describe(what: String) {
    WHAT.with_borrow_mut(|kept| *kept = what);
}

/// The thread is watched while this lives.
pub(crate) struct Watched(libc::pthread_t);

impl Watched {
    pub(crate) fn start(at: u64) -> Watched {
        static STARTED: Once = Once::new();
        STARTED.call_once(|| {
            std::thread::spawn(watch);
        });
        let mut clock = 0;
        // SAFETY: a thread's own handle is valid.
        let thread = unsafe {
            let thread = libc::pthread_self();
            libc::pthread_getcpuclockid(thread, &mut clock);
            thread
        };
        let what = WHAT.with_borrow(String::clone);
        let entry = Entry { thread, clock, cpu_time: cpu_time(clock), began: Instant::now(), at, what };
        watched().push(entry);
        Watched(thread)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        watched().retain(|entry| entry.thread != self.0);
    }
}

fn cpu_time(clock: libc::clockid_t) -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the clock's thread is alive, since it is watched.
    unsafe { libc::clock_gettime(clock, &mut time) };
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

fn watch() {
    loop {
        std::thread::sleep(PERIOD);
        for entry in watched().iter() {
            let used = cpu_time(entry.clock).saturating_sub(entry.cpu_time);
            if used > CPU_LIMIT || entry.began.elapsed() > WALL_LIMIT {
                // Not by a macro: the harness of the tests would keep it back.
                let _ = writeln!(
                    std::io::stderr(),
                    "stepper: {} hangs with a context after instruction {}",
                    entry.what,
                    entry.at
                );
                std::process::abort();
            }
        }
    }
}
