//! Files and their mappings.

use std::ffi::{CStr, CString};

use super::{File, Mapped, PAGE, WRITE, ensure, failed_with, in_child};

/// A private mapping shows the file until it is written, and the file never sees that.
pub(super) fn private_file() -> Result<(), u8> {
    let file = File::in_memory(3 * PAGE)?;
    file.write(0, &[11; 3 * PAGE])?;
    let private = Mapped::private(&file, 3)?;
    ensure(private.read(0, 0) == 11 && private.read(2, 4095) == 11, 1)?;
    file.write(PAGE, &[12])?;
    ensure(private.read(1, 0) == 12, 2)?;
    private.write(1, 1, 13);
    file.write(PAGE, &[14])?;
    ensure(private.read(1, 0) == 12 && private.read(1, 1) == 13 && private.read(1, 2) == 11, 3)?;
    ensure(file.read(PAGE) == Some(14) && file.read(PAGE + 1) == Some(11), 4)?;
    in_child(|| {
        private.write(2, 0, 15);
        ensure(private.read(1, 1) == 13, 5)
    })?;
    ensure(private.read(2, 0) == 11 && file.read(2 * PAGE) == Some(11), 6)?;
    ensure(private.advise(0, 3, libc::MADV_DONTNEED) == 0, 7)?;
    ensure(private.read(1, 0) == 14 && private.read(1, 1) == 11, 8)?;
    // The mapping keeps the file.
    drop(file);
    ensure(private.read(1, 0) == 14, 9)?;
    private.unmap()
}

/// What is written through a mapping is read through the file and through other mappings, and the other way
/// round.
pub(super) fn file_and_mapping() -> Result<(), u8> {
    let file = File::in_memory(4 * PAGE)?;
    let shared = Mapped::shared(&file, 4)?;
    let second = Mapped::new(Some(&file), 2, 2, WRITE, libc::MAP_SHARED).ok_or(1)?;
    shared.write(0, 5, 21);
    shared.write(3, 4095, 22);
    ensure(shared.sync(libc::MS_SYNC) == 0, 2)?;
    ensure(file.read(5) == Some(21) && file.read(4 * PAGE - 1) == Some(22), 3)?;
    ensure(second.read(1, 4095) == 22, 4)?;
    file.write(2 * PAGE - 2, &[23; 4])?;
    ensure(shared.read(1, 4095) == 23 && shared.read(2, 1) == 23 && second.read(0, 1) == 23, 5)?;
    ensure(shared.read(2, 2) == 0, 6)?;
    // After another msync the next write is seen, too.
    shared.write(0, 5, 24);
    ensure(shared.sync(libc::MS_SYNC) == 0 && file.read(5) == Some(24), 7)?;
    shared.write(0, 5, 25);
    ensure(shared.sync(libc::MS_ASYNC) == 0 && file.read(5) == Some(25), 8)?;
    // SAFETY: it changes no memory.
    ensure(unsafe { libc::fsync(file.0) == 0 && libc::fdatasync(file.0) == 0 }, 9)?;
    ensure(failed_with(shared.sync(libc::MS_SYNC | libc::MS_ASYNC), libc::EINVAL), 10)?;
    second.unmap()?;
    let start = shared.start;
    shared.unmap()?;
    // SAFETY: it changes no memory.
    let of_hole = unsafe { libc::msync(start.cast(), PAGE, libc::MS_SYNC) };
    ensure(failed_with(of_hole, libc::ENOMEM), 11)?;
    ensure(file.read(5) == Some(25), 12)
}

/// A descriptor permits what it was opened for, and so do its mappings.
pub(super) fn read_only() -> Result<(), u8> {
    let file = File::open(FILE, libc::O_RDONLY).ok_or(1)?;
    ensure(Mapped::new(Some(&file), 0, 1, WRITE, libc::MAP_SHARED).is_none(), 2)?;
    let shared = Mapped::new(Some(&file), 0, 1, libc::PROT_READ, libc::MAP_SHARED).ok_or(3)?;
    ensure(failed_with(shared.protect(WRITE), libc::EACCES), 4)?;
    let first = shared.read(0, 0);
    let private = Mapped::private(&file, 1)?;
    private.write(0, 0, first ^ 0xff);
    ensure(shared.read(0, 0) == first && file.read(0) == Some(first), 5)?;
    private.unmap()?;
    shared.unmap()
}

/// A file that every process has: this program.
const FILE: &CStr = c"sharing";
/// Another one, which seldom runs meanwhile.
const OTHER_FILE: &CStr = c"plain";

/// Returns a path that no other process has.
fn own_path() -> Result<CString, u8> {
    // SAFETY: it has no requirements.
    let number = unsafe { libc::getpid() };
    CString::new(format!("/dev/shm/sharing-{number}")).map_err(|_| 1)
}

/// A file is found by its name until it is removed, and a descriptor permits what it was opened for.
pub(super) fn names() -> Result<(), u8> {
    let path = &*own_path()?;
    ensure(File::open(path, libc::O_RDWR).is_none(), 2)?;
    let file = File::open(path, libc::O_RDWR | libc::O_CREAT | libc::O_EXCL).ok_or(3)?;
    ensure(File::open(path, libc::O_RDWR | libc::O_CREAT | libc::O_EXCL).is_none(), 4)?;
    file.write(PAGE - 1, &[71, 72])?;
    in_child(|| {
        let again = File::open(path, libc::O_RDONLY).ok_or(5)?;
        ensure(again.size() == PAGE + 1 && again.read(PAGE) == Some(72), 6)?;
        ensure(again.write(0, &[1]).is_err() && again.resize(0).is_err(), 7)?;
        let other = File::open(path, libc::O_WRONLY).ok_or(8)?;
        ensure(other.read(0).is_none() && other.write(0, &[73]).is_ok(), 9)
    })?;
    ensure(file.read(0) == Some(73) && file.read(1) == Some(0), 10)?;
    ensure(File::open(path, libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC).is_some(), 11)?;
    ensure(file.size() == 0, 12)?;
    // SAFETY: the path ends with a zero.
    ensure(unsafe { libc::unlink(path.as_ptr()) } == 0, 13)?;
    ensure(File::open(path, libc::O_RDWR).is_none(), 14)?;
    file.write(0, &[74])?;
    ensure(file.read(0) == Some(74), 15)
}

/// A file with a name is found by others until it is removed, and stays while it is mapped.
pub(super) fn named_file() -> Result<(), u8> {
    let path = &*own_path()?;
    ensure(File::open(path, libc::O_RDWR).is_none(), 2)?;
    let file = File::open(path, libc::O_RDWR | libc::O_CREAT | libc::O_EXCL).ok_or(3)?;
    ensure(File::open(path, libc::O_RDWR | libc::O_CREAT | libc::O_EXCL).is_none(), 4)?;
    file.resize(2 * PAGE)?;
    let shared = Mapped::shared(&file, 2)?;
    in_child(|| {
        let again = File::open(path, libc::O_RDWR).ok_or(5)?;
        let mapped = Mapped::shared(&again, 2)?;
        mapped.write(1, 3, 31);
        ensure(again.size() == 2 * PAGE, 6)
    })?;
    ensure(shared.read(1, 3) == 31 && file.read(PAGE + 3) == Some(31), 7)?;
    // SAFETY: the path ends with a zero.
    ensure(unsafe { libc::unlink(path.as_ptr()) } == 0, 8)?;
    ensure(File::open(path, libc::O_RDWR).is_none(), 9)?;
    shared.write(0, 0, 32);
    ensure(file.read(0) == Some(32), 10)?;
    shared.unmap()
}

/// A file that comes from a disk, page by page: a mapping shows what reads find.
pub(super) fn disk_file() -> Result<(), u8> {
    let file = File::open(FILE, libc::O_RDONLY).ok_or(1)?;
    let size = file.size();
    let pages = (size / PAGE).min(24);
    ensure(pages >= 8, 2)?;
    let mapped = Mapped::new(Some(&file), 0, pages, libc::PROT_READ, libc::MAP_PRIVATE).ok_or(3)?;
    for page in 0..pages {
        for byte in [0, 1, 2048, 4095] {
            ensure(file.read(page * PAGE + byte) == Some(mapped.read(page, byte)), 4)?;
        }
    }
    ensure(mapped.read(0, 1) == b'E' && mapped.read(0, 2) == b'L', 5)?;
    // The last page ends with zeros.
    let last = Mapped::new(Some(&file), size / PAGE, 1, libc::PROT_READ, libc::MAP_PRIVATE).ok_or(6)?;
    ensure(size.is_multiple_of(PAGE) || last.read(0, 4095) == 0, 7)?;
    last.unmap()?;
    mapped.unmap()
}

/// How many faults of this process have waited for a page.
fn waited() -> i64 {
    // SAFETY: all zeros are a valid value, which the call fills.
    unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage.ru_majflt
    }
}

/// Faults at pages that are not in memory wait for the disk, and count as such.
pub(super) fn waits() -> Result<(), u8> {
    let file = File::open(OTHER_FILE, libc::O_RDONLY).ok_or(1)?;
    let pages = (file.size() / PAGE).min(16);
    let before = waited();
    // Others may have read the pages in just before.
    for round in 0..100 {
        // SAFETY: it changes no memory of the process.
        ensure(unsafe { libc::posix_fadvise(file.0, 0, 0, libc::POSIX_FADV_DONTNEED) } == 0, 2)?;
        let mapped = Mapped::new(Some(&file), 0, pages, libc::PROT_READ, libc::MAP_SHARED).ok_or(3)?;
        let page = round % pages;
        ensure(file.read(page * PAGE) == Some(mapped.read(page, 0)), 4)?;
        let first = (page + 1) % pages;
        let byte = mapped.read(first, 1);
        ensure(file.read(first * PAGE + 1) == Some(byte), 5)?;
        mapped.unmap()?;
        if waited() > before {
            return Ok(());
        }
    }
    Err(6)
}
