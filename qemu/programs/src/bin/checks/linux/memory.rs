//! Pointers that lead nowhere, locked pages, and calls that change mappings.

use std::ffi::{c_int, c_void};
use std::ptr;

use topomem_programs::{PAGE, ensure};

use super::{pages, system_call};

/// System calls refuse addresses that are not the program's.
pub(super) fn bad_pointers() -> Result<(), u8> {
    let unmapped = pages(2, libc::PROT_READ | libc::PROT_WRITE);
    // SAFETY: the pages are this check's own.
    unsafe { libc::munmap(unmapped.cast(), PAGE) };
    let (unmapped, last) = (unmapped as u64, 0x7fff_ffff_f000_u64);
    let kernel = 0xffff_8000_0010_0000;
    for (number, at) in
        (0_u8..).zip([unmapped, kernel, 0xffff_ffff_8020_0000, last - 8, last, 1 << 47, u64::MAX - 7, 8])
    {
        let fault = -i64::from(libc::EFAULT);
        let calls = [
            (libc::SYS_write, [1, at, 4096, 0, 0, 0]),
            (libc::SYS_writev, [1, at, 1, 0, 0, 0]),
            (libc::SYS_open, [at, 0, 0, 0, 0, 0]),
            (libc::SYS_fstat, [1, at, 0, 0, 0, 0]),
            (libc::SYS_uname, [at, 0, 0, 0, 0, 0]),
            (libc::SYS_sysinfo, [at, 0, 0, 0, 0, 0]),
            (libc::SYS_clock_gettime, [1, at, 0, 0, 0, 0]),
            (libc::SYS_nanosleep, [at, 0, 0, 0, 0, 0]),
            (libc::SYS_getrandom, [at, 64, 0, 0, 0, 0]),
            (libc::SYS_rt_sigaction, [10, at, 0, 8, 0, 0]),
            (libc::SYS_rt_sigaction, [10, 0, at, 8, 0, 0]),
            (libc::SYS_rt_sigprocmask, [0, at, 0, 8, 0, 0]),
            (libc::SYS_sigaltstack, [at, 0, 0, 0, 0, 0]),
            (libc::SYS_sched_getaffinity, [0, 128, at, 0, 0, 0]),
            (libc::SYS_sched_setaffinity, [0, 128, at, 0, 0, 0]),
            (libc::SYS_prlimit64, [0, 3, 0, at, 0, 0]),
            (libc::SYS_getcpu, [at, 0, 0, 0, 0, 0]),
            (libc::SYS_poll, [at, 1, 0, 0, 0, 0]),
            (libc::SYS_futex, [at & !3, 0, 0, 0, 0, 0]),
        ];
        for (call, arguments) in calls {
            if system_call(call, arguments) != fault {
                println!("system call {call} with {at:#x}");
                return Err(10 + number);
            }
        }
        if at >= last {
            let refused = -i64::from(libc::EPERM);
            for code in [0x1001, 0x1002] {
                let set = system_call(libc::SYS_arch_prctl, [code, at, 0, 0, 0, 0]);
                ensure(set == refused, 30 + number)?;
            }
        }
    }
    ensure(system_call(libc::SYS_mmap, [kernel, 4096, 3, 0x32, u64::MAX, 0]) < 0, 50)?;
    ensure(system_call(libc::SYS_munmap, [kernel, 4096, 0, 0, 0, 0]) < 0, 51)?;
    ensure(system_call(libc::SYS_mprotect, [kernel, 4096, 7, 0, 0, 0]) < 0, 52)?;
    ensure(system_call(libc::SYS_mremap, [kernel, 4096, 8192, 1, 0, 0]) < 0, 53)?;
    ensure(system_call(libc::SYS_madvise, [kernel, 4096, 4, 0, 0, 0]) < 0, 54)?;
    ensure(system_call(9999, [0; 6]) == -i64::from(libc::ENOSYS), 55)
}

/// Locked memory is there before it is used; holes and what may not be used cannot be locked.
pub(super) fn locks() -> Result<(), u8> {
    let write = libc::PROT_READ | libc::PROT_WRITE;
    let place = pages(16, write);
    let resident = |place: *mut u8| {
        let mut found = [0_u8; 16];
        // SAFETY: the kernel writes a byte for each page.
        let asked = unsafe { libc::mincore(place.cast(), 16 * PAGE, found.as_mut_ptr()) };
        (asked == 0).then(|| found.iter().filter(|&&byte| byte & 1 == 1).count())
    };
    let fails = |answer: c_int, with: c_int| {
        answer == -1 && std::io::Error::last_os_error().raw_os_error() == Some(with)
    };
    // SAFETY: the pages are this check's own.
    unsafe {
        ensure(resident(place) == Some(0), 1)?;
        // From the middle of a page to that of another.
        ensure(libc::mlock(place.add(PAGE + 100).cast(), 3 * PAGE) == 0, 2)?;
        ensure(resident(place) == Some(4), 3)?;
        ensure(libc::syscall(libc::SYS_mlock2, place, 16 * PAGE, 1) == 0, 4)?;
        ensure(resident(place) == Some(4), 5)?;
        ensure(fails(libc::syscall(libc::SYS_mlock2, place, PAGE, 2) as c_int, libc::EINVAL), 6)?;
        ensure(libc::munlock(place.cast(), 16 * PAGE) == 0, 7)?;
        libc::munmap(place.add(8 * PAGE).cast(), PAGE);
        ensure(fails(libc::mlock(place.cast(), 16 * PAGE), libc::ENOMEM), 8)?;
        ensure(fails(libc::munlock(place.add(8 * PAGE).cast(), 1), libc::ENOMEM), 9)?;
        ensure(fails(libc::mlock(place.cast(), 1 << 46), libc::ENOMEM), 10)?;
        let none = pages(1, libc::PROT_NONE);
        ensure(fails(libc::mlock(none.cast(), PAGE), libc::ENOMEM), 11)?;
        ensure(libc::mlock(none.cast(), 0) == 0, 12)?;

        let before = pages(16, write);
        ensure(fails(libc::mlockall(0), libc::EINVAL) && fails(libc::mlockall(4), libc::EINVAL), 13)?;
        ensure(libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE) == 0, 14)?;
        ensure(resident(before) == Some(16) && resident(pages(16, write)) == Some(16), 15)?;
        ensure(libc::munlockall() == 0 && resident(pages(16, write)) == Some(0), 16)
    }
}

/// Memory keeps what is in it, and loses it when it should.
pub(super) fn memory() -> Result<(), u8> {
    let write = libc::PROT_READ | libc::PROT_WRITE;
    let place = pages(8, write);
    // SAFETY: the pages are this check's own.
    unsafe {
        for page in 0..8 {
            place.add(page * PAGE).write_volatile(page as u8 + 1);
        }
        ensure(libc::mprotect(place.cast(), 2 * PAGE, libc::PROT_NONE) == 0, 1)?;
        ensure(libc::mprotect(place.cast(), 2 * PAGE, write) == 0, 2)?;
        ensure(place.add(PAGE).read_volatile() == 2, 3)?;
        ensure(libc::madvise(place.add(2 * PAGE).cast(), PAGE, libc::MADV_DONTNEED) == 0, 4)?;
        ensure(place.add(2 * PAGE).read_volatile() == 0, 5)?;
        let moved = libc::mremap(place.cast(), 8 * PAGE, 64 * PAGE, libc::MREMAP_MAYMOVE).cast::<u8>();
        ensure(moved.addr() != usize::MAX, 6)?;
        ensure(moved.add(7 * PAGE).read_volatile() == 8, 7)?;
        ensure(moved.add(63 * PAGE).read_volatile() == 0, 8)?;
        ensure(libc::munmap(moved.cast(), 64 * PAGE) == 0, 9)?;
        let large = pages(1 << 18, libc::PROT_READ | libc::PROT_WRITE);
        ensure(large.addr() != usize::MAX, 10)?;
        large.add(PAGE * (1 << 17)).write_volatile(1);
        ensure(libc::munmap(large.cast(), PAGE << 18) == 0, 11)?;
        let left = pages(2, write);
        left.write_volatile(1);
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_DONTUNMAP;
        let anywhere = ptr::null_mut::<c_void>();
        let taken = libc::mremap(left.cast(), 2 * PAGE, 2 * PAGE, flags, anywhere).cast::<u8>();
        ensure(taken.addr() != usize::MAX, 12)?;
        ensure(taken.read_volatile() == 1 && left.read_volatile() == 0, 13)?;
        left.write_volatile(2);
        ensure(taken.read_volatile() == 1, 14)?;
        ensure(libc::munmap(taken.cast(), 2 * PAGE) == 0 && left.read_volatile() == 2, 15)
    }
}
