//! Hardware breakpoints of one thread: they reach an instruction at full speed.
//!
//! The host's kernel owns the debug registers and lends them through `perf_event_open`. Where it
//! does not (an old kernel, a container's seccomp filter, `perf_event_paranoid` above 2), runs
//! are stepped from their beginning instead.

use std::cell::Cell;
use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};

/// `PERF_TYPE_BREAKPOINT`.
const TYPE: u32 = 5;
/// The version of the structure that has `sig_data`.
const SIZE: u32 = 128;
/// `HW_BREAKPOINT_X`.
const EXECUTE: u32 = 4;
/// `disabled`, `exclude_kernel`, `exclude_hv`, `remove_on_exec` and `sigtrap`.
const FLAGS: u64 = 1 | 1 << 5 | 1 << 6 | 1 << 36 | 1 << 37;
/// `PERF_FLAG_FD_CLOEXEC`.
const CLOSE_ON_EXEC: libc::c_ulong = 8;
/// `PERF_EVENT_IOC_ENABLE` and `PERF_EVENT_IOC_DISABLE`.
const ENABLE: libc::Ioctl = 0x2400;
const DISABLE: libc::Ioctl = 0x2401;

/// `struct perf_event_attr`.
#[repr(C)]
struct Attributes {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    breakpoint_type: u32,
    breakpoint_address: u64,
    breakpoint_length: u64,
    rest: [u64; 7],
}

const _: () = assert!(size_of::<Attributes>() == SIZE as usize);

thread_local! {
    /// The file of this thread's armed breakpoint, or -1. The handler reads it.
    static ARMED: Cell<RawFd> = const { Cell::new(-1) };
}

/// A breakpoint of the calling thread, armed while this lives.
pub(crate) struct Breakpoint {
    _file: File,
}

impl Breakpoint {
    /// Sends `SIGTRAP` when the thread is about to execute the instruction at `address` for the
    /// `hits`-th time; `None` if the host lends no breakpoint.
    pub(crate) fn arm(address: usize, hits: u64) -> Option<Breakpoint> {
        let attributes = Attributes {
            kind: TYPE,
            size: SIZE,
            config: 0,
            sample_period: hits,
            sample_type: 0,
            read_format: 0,
            flags: FLAGS,
            wakeup_events: 0,
            breakpoint_type: EXECUTE,
            breakpoint_address: address as u64,
            breakpoint_length: size_of::<libc::c_long>() as u64,
            rest: [0; 7],
        };
        // SAFETY: the attributes are of the size that they name; the event is this thread's on
        // every CPU, and belongs to no group.
        let file = unsafe {
            let file =
                libc::syscall(libc::SYS_perf_event_open, &attributes, 0, -1, -1, CLOSE_ON_EXEC) as RawFd;
            if file < 0 {
                return None;
            }
            File::from_raw_fd(file)
        };
        ARMED.set(file.as_raw_fd());
        enable();
        Some(Breakpoint { _file: file })
    }
}

impl Drop for Breakpoint {
    fn drop(&mut self) {
        disarm();
    }
}

fn control(request: libc::Ioctl) {
    let file = ARMED.get();
    if file >= 0 {
        // SAFETY: the file is open while it is kept there; the request takes no argument.
        unsafe { libc::ioctl(file, request, 0) };
    }
}

/// Lets the armed breakpoint, if there is one, count from here on.
pub(crate) fn enable() {
    control(ENABLE);
}

/// Keeps the armed breakpoint from counting.
pub(crate) fn disable() {
    control(DISABLE);
}

/// The breakpoint of this run has done its part.
pub(crate) fn disarm() {
    disable();
    ARMED.set(-1);
}
