//! The checks, by name.

mod cpus;
mod memory;
mod processes;
mod registers;
mod signals;

use std::arch::asm;
use std::ffi::c_int;
use std::ptr;
use std::sync::atomic::AtomicBool;

use topomem_programs::{Check, PAGE};

/// Whether the threads of a check go on.
static MOVING: AtomicBool = AtomicBool::new(true);

pub(super) fn by_name(name: &str) -> Option<Check> {
    let check: Check = match name {
        "registers" => registers::registers,
        "vectors" => registers::vectors,
        "flags" => registers::flags,
        "red-zone" => registers::red_zone,
        "faults" => signals::faults,
        "alternate-stack" => signals::alternate_stack,
        "bad-pointers" => memory::bad_pointers,
        "every-cpu" => cpus::every_cpu,
        "endless" => cpus::endless,
        "memory" => memory::memory,
        "fork" => processes::fork,
        "restart" => processes::restart,
        "locks" => memory::locks,
        _ => return None,
    };
    Some(check)
}

fn handle(signal: c_int, handler: *const (), flags: c_int) {
    // SAFETY: all zeros are a valid value; the handler is one.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as usize;
        action.sa_flags = flags;
        libc::sigaction(signal, &action, ptr::null_mut());
    }
}

fn pages(count: usize, protection: c_int) -> *mut u8 {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping concerns nobody.
    unsafe { libc::mmap(ptr::null_mut(), count * PAGE, protection, flags, -1, 0).cast() }
}

extern "C" fn trample(_: c_int) {
    let mut room = [0xcc_u8; 2048];
    std::hint::black_box(&mut room);
}

/// A system call, as the kernel answers it.
fn system_call(number: i64, arguments: [u64; 6]) -> i64 {
    let [a, b, c, d, e, f] = arguments;
    let answer;
    // SAFETY: the kernel changes what the arguments name, which callers vouch for, and these registers.
    unsafe {
        asm!(
            "syscall",
            inout("rax") number => answer,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e, in("r9") f,
            out("rcx") _, out("r11") _,
            options(nostack),
        );
    }
    answer
}
