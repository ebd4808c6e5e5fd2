//! What is written without an allocation: counts at the program's end, and what is wrong.

use core::ffi::{CStr, c_int};
use core::fmt::{self, Write};
use core::ptr::NonNull;

use topomem_percpu::{CpuId, InvalidFree, SizeClass};

use crate::machine::HEAP;

/// Names the file to which each program adds a line when it ends. `-` stands for the standard error.
const VARIABLE: &CStr = c"TOPOMEM_PRELOAD_REPORT";

/// Text of limited length; what is beyond is cut off.
struct Line {
    bytes: [u8; 512],
    length: usize,
}

impl Line {
    const fn new() -> Line {
        Line { bytes: [0; 512], length: 0 }
    }

    fn send(&self, file: c_int) {
        // SAFETY: so many bytes are the line's.
        unsafe { libc::write(file, self.bytes.as_ptr().cast(), self.length) };
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = &mut self.bytes[self.length..];
        let taken = text.len().min(room.len());
        room[..taken].copy_from_slice(&text.as_bytes()[..taken]);
        self.length += taken;
        Ok(())
    }
}

/// Says that the program frees what it does not have, and ends it, as glibc does.
#[cold]
pub(crate) fn invalid(invalid: InvalidFree) -> ! {
    let mut line = Line::new();
    let _ = writeln!(line, "topomem-preload: {invalid}");
    line.send(libc::STDERR_FILENO);
    // SAFETY: it ends the process.
    unsafe { libc::abort() }
}

/// [`invalid`] of an address where no allocation starts.
#[cold]
pub(crate) fn invalid_address(memory: NonNull<u8>) -> ! {
    invalid(InvalidFree::NotAllocated { address: memory.addr().get() })
}

// SAFETY: the section holds addresses of functions that are called when the program ends.
#[unsafe(link_section = ".fini_array")]
#[used]
static AT_END: extern "C" fn() = at_end;

extern "C" fn at_end() {
    // SAFETY: the name is a C string; nothing changes the environment as the program ends.
    let Some(path) = NonNull::new(unsafe { libc::getenv(VARIABLE.as_ptr()) }) else { return };
    // SAFETY: the environment's texts are C strings.
    if unsafe { CStr::from_ptr(path.as_ptr()) } == c"-" {
        return counts().send(libc::STDERR_FILENO);
    }
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_APPEND | libc::O_CLOEXEC;
    // SAFETY: the path is a C string.
    let file = unsafe { libc::open(path.as_ptr(), flags, 0o666) };
    if file >= 0 {
        counts().send(file);
        // SAFETY: opened above.
        unsafe { libc::close(file) };
    }
}

/// What the heap did in this process.
fn counts() -> Line {
    let (mut cpus, mut uses, mut nested) = (0, 0, 0);
    for stats in CpuId::all().filter_map(|cpu| HEAP.cpu_stats(cpu)) {
        cpus += 1;
        uses += stats.hits + stats.misses;
        nested += stats.nested;
    }
    let live: u64 = SizeClass::all().map(|class| HEAP.class_stats(class).live).sum();
    let large = HEAP.large_stats();
    let mut name = [0u8; 16];
    // SAFETY: the kernel writes 16 bytes at most, the last of them zero.
    unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
    let name = CStr::from_bytes_until_nul(&name).ok().and_then(|name| name.to_str().ok()).unwrap_or("?");
    let mut line = Line::new();
    let _ = writeln!(
        line,
        "topomem-preload: {name}: {uses} uses of {cpus} CPUs' magazines, {nested} nested; \
         {live} small and {} large objects left",
        large.live,
    );
    line
}
