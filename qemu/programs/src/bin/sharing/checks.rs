//! The checks, by name, and what they are made of.

mod advice;
mod aliases;
mod ends;
mod files;
mod processes;

use std::ffi::{c_int, c_void};
use std::io;
use std::ptr;
use std::sync::atomic::AtomicU32;

use topomem_programs::{Check, PAGE, ensure, wait};

const WRITE: c_int = libc::PROT_READ | libc::PROT_WRITE;

pub(super) fn by_name(name: &str) -> Option<Check> {
    let check: Check = match name {
        "memory" => processes::memory,
        "counters" => processes::counters,
        "futex" => processes::futex,
        "isolation" => processes::isolation,
        "private-file" => files::private_file,
        "file-and-mapping" => files::file_and_mapping,
        "read-only" => files::read_only,
        "names" => files::names,
        "named-file" => files::named_file,
        "disk-file" => files::disk_file,
        "waits" => files::waits,
        "beyond-end" => ends::beyond_end,
        "cut-by-another" => ends::cut_by_another,
        "remove" => advice::remove,
        "resident" => advice::resident,
        "relocate" => advice::relocate,
        "write-and-run" => aliases::write_and_run,
        _ => return None,
    };
    Some(check)
}

/// Whether the last call failed with this error.
fn failed_with(answer: c_int, error: c_int) -> bool {
    answer == -1 && io::Error::last_os_error().raw_os_error() == Some(error)
}

/// A mapping of the check's own, by pages.
#[derive(Debug, Clone, Copy)]
struct Mapped {
    start: *mut u8,
    pages: usize,
}

impl Mapped {
    /// Maps `pages` of `file`, or of anonymous memory.
    fn new(
        file: Option<&File>,
        first: usize,
        pages: usize,
        protection: c_int,
        flags: c_int,
    ) -> Option<Mapped> {
        let (descriptor, anonymous) = file.map_or((-1, libc::MAP_ANONYMOUS), |file| (file.0, 0));
        let (length, offset) = (pages * PAGE, (first * PAGE) as libc::off_t);
        // SAFETY: a new mapping concerns nobody.
        let start =
            unsafe { libc::mmap(ptr::null_mut(), length, protection, flags | anonymous, descriptor, offset) };
        (start != libc::MAP_FAILED).then(|| Mapped { start: start.cast(), pages })
    }

    /// Maps the first `pages` of a file to be read and written by all.
    fn shared(file: &File, pages: usize) -> Result<Mapped, u8> {
        Mapped::new(Some(file), 0, pages, WRITE, libc::MAP_SHARED).ok_or(200)
    }

    /// Maps the first `pages` of a file as the process's own.
    fn private(file: &File, pages: usize) -> Result<Mapped, u8> {
        Mapped::new(Some(file), 0, pages, WRITE, libc::MAP_PRIVATE).ok_or(201)
    }

    /// Maps memory that children share.
    fn inherited(pages: usize) -> Result<Mapped, u8> {
        Mapped::new(None, 0, pages, WRITE, libc::MAP_SHARED).ok_or(202)
    }

    fn at(&self, page: usize, byte: usize) -> *mut u8 {
        assert!(page < self.pages && byte < PAGE);
        self.start.wrapping_add(page * PAGE + byte)
    }

    fn read(&self, page: usize, byte: usize) -> u8 {
        // SAFETY: the byte is in the check's own mapping.
        unsafe { self.at(page, byte).read_volatile() }
    }

    fn write(&self, page: usize, byte: usize, value: u8) {
        // SAFETY: the byte is in the check's own mapping, of which no reference exists.
        unsafe { self.at(page, byte).write_volatile(value) }
    }

    fn word(&self, page: usize, number: usize) -> &AtomicU32 {
        // SAFETY: the word is aligned, in a mapping that stays, and accessed as an atomic alone.
        unsafe { &*self.at(page, 4 * number).cast::<AtomicU32>() }
    }

    fn advise(&self, page: usize, pages: usize, advice: c_int) -> c_int {
        // SAFETY: the pages are the check's own.
        unsafe { libc::madvise(self.at(page, 0).cast(), pages * PAGE, advice) }
    }

    fn sync(&self, flags: c_int) -> c_int {
        // SAFETY: it changes nothing in memory.
        unsafe { libc::msync(self.start.cast(), self.pages * PAGE, flags) }
    }

    fn protect(&self, protection: c_int) -> c_int {
        // SAFETY: the pages are the check's own.
        unsafe { libc::mprotect(self.start.cast(), self.pages * PAGE, protection) }
    }

    fn unmap(self) -> Result<(), u8> {
        // SAFETY: the pages are the check's own, and not used any more.
        ensure(unsafe { libc::munmap(self.start.cast(), self.pages * PAGE) } == 0, 203)
    }
}

/// An open file.
#[derive(Debug)]
struct File(c_int);

impl File {
    /// A file in memory, without a name.
    fn in_memory(bytes: usize) -> Result<File, u8> {
        // SAFETY: the name ends with a zero.
        let file = File(unsafe { libc::memfd_create(c"sharing".as_ptr(), libc::MFD_CLOEXEC) });
        ensure(file.0 >= 0, 210)?;
        file.resize(bytes)?;
        Ok(file)
    }

    fn open(path: &std::ffi::CStr, flags: c_int) -> Option<File> {
        // SAFETY: the path ends with a zero.
        let descriptor = unsafe { libc::open(path.as_ptr(), flags, 0o600) };
        (descriptor >= 0).then(|| File(descriptor))
    }

    fn resize(&self, bytes: usize) -> Result<(), u8> {
        // SAFETY: it changes no memory of the process that references exist of.
        ensure(unsafe { libc::ftruncate(self.0, bytes as libc::off_t) } == 0, 211)
    }

    fn size(&self) -> usize {
        // SAFETY: it moves the file's own offset.
        unsafe { libc::lseek(self.0, 0, libc::SEEK_END) as usize }
    }

    /// Reads a byte; `None` at the end.
    fn read(&self, at: usize) -> Option<u8> {
        let mut byte = 0_u8;
        // SAFETY: the byte is this function's own.
        let count = unsafe { libc::pread(self.0, (&raw mut byte).cast::<c_void>(), 1, at as libc::off_t) };
        (count == 1).then_some(byte)
    }

    fn write(&self, at: usize, bytes: &[u8]) -> Result<(), u8> {
        let start = bytes.as_ptr().cast::<c_void>();
        // SAFETY: the bytes are there to be read.
        let count = unsafe { libc::pwrite(self.0, start, bytes.len(), at as libc::off_t) };
        ensure(count == bytes.len() as isize, 212)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        // SAFETY: the descriptor is this file's own.
        unsafe { libc::close(self.0) };
    }
}

/// Runs `child` in a copy of the process. Returns the copy's number.
fn start(child: impl FnOnce() -> Result<(), u8>) -> Result<libc::pid_t, u8> {
    let id = topomem_programs::start(|| child().err().unwrap_or(0));
    ensure(id > 0, 220)?;
    Ok(id)
}

/// Runs `child` in a copy of the process, and waits until it ends. Its error is the check's.
fn in_child(child: impl FnOnce() -> Result<(), u8>) -> Result<(), u8> {
    joined(start(child)?)
}

/// Waits until a child ends. Its error is the check's.
fn joined(id: libc::pid_t) -> Result<(), u8> {
    let status = wait(id);
    ensure(libc::WIFEXITED(status), 222)?;
    match libc::WEXITSTATUS(status) {
        0 => Ok(()),
        code => Err(code as u8),
    }
}
