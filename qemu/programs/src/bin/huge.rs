//! Checks pages of 2 MiB and 1 GiB as a program sees them: contents and permissions, whatever a part of a page
//! goes through. The argument says what; the exit code is 0 if all is right, else the number of the check that
//! failed.

use std::process::ExitCode;

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod checks {
    use std::ffi::{c_int, c_void};
    use std::ptr;

    use topomem_programs::{Check, PAGE, ensure, in_child};

    const HUGE: usize = 2 << 20;
    const PAGES: usize = HUGE / PAGE;
    const WRITE: c_int = libc::PROT_READ | libc::PROT_WRITE;
    const PLAIN: c_int = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;

    pub(super) fn by_name(name: &str) -> Option<Check> {
        let check: Check = match name {
            "asked-for" => asked_for,
            "parts" => parts,
            "copies" => copies,
            "collapse" => collapse,
            "settings" => settings,
            _ => return None,
        };
        Some(check)
    }

    fn error() -> Option<c_int> {
        std::io::Error::last_os_error().raw_os_error()
    }

    fn map(at: usize, bytes: usize, flags: c_int) -> Option<*mut u8> {
        let at = ptr::without_provenance_mut(at);
        // SAFETY: it replaces nothing but what the check has mapped.
        let found = unsafe { libc::mmap(at, bytes, WRITE, PLAIN | flags, -1, 0) };
        (found != libc::MAP_FAILED).then_some(found.cast())
    }

    /// An aligned 2 MiB, and as much on each side.
    fn aligned() -> Option<*mut u8> {
        let start = map(0, 4 * HUGE, 0)?;
        Some(start.wrapping_add((start as usize).next_multiple_of(HUGE) - start as usize + HUGE))
    }

    /// The same, that may be one page.
    fn advised() -> Option<*mut u8> {
        aligned().filter(|&start| advise(start, HUGE, libc::MADV_HUGEPAGE))
    }

    fn advise(start: *mut u8, bytes: usize, advice: c_int) -> bool {
        // SAFETY: the check expects what the advice does to its contents.
        unsafe { libc::madvise(start.cast::<c_void>(), bytes, advice) == 0 }
    }

    fn protect(start: *mut u8, bytes: usize, access: c_int) -> bool {
        // SAFETY: the pages are the check's own.
        unsafe { libc::mprotect(start.cast::<c_void>(), bytes, access) == 0 }
    }

    fn unmap(start: *mut u8, bytes: usize) -> bool {
        // SAFETY: the pages are the check's own, and not used again.
        unsafe { libc::munmap(start.cast::<c_void>(), bytes) == 0 }
    }

    /// Writes to each page its number, changed by `salt`.
    fn fill(start: *mut u8, salt: u32) {
        // SAFETY: the pages are the check's own, and may be written.
        (0..PAGES).for_each(|page| unsafe {
            start.add(page * PAGE).cast::<u32>().write_volatile(page as u32 ^ salt);
        });
    }

    /// Has each page outside of `but` its number, changed by `salt`?
    fn holds(start: *mut u8, salt: u32, but: std::ops::Range<usize>) -> bool {
        (0..PAGES).filter(|page| !but.contains(page)).all(|page| {
            // SAFETY: the page is the check's own, and may be read.
            unsafe { start.add(page * PAGE).cast::<u32>().read_volatile() == page as u32 ^ salt }
        })
    }

    /// Are `pages` zero?
    fn is_zero(start: *mut u8, pages: std::ops::Range<usize>) -> bool {
        let mut words = (pages.start * PAGE..pages.end * PAGE).step_by(size_of::<u64>());
        // SAFETY: as above.
        words.all(|at| unsafe { start.add(at).cast::<u64>().read_volatile() == 0 })
    }

    /// The signal that ends a process which writes to `at`; 0 if none does.
    fn signal_of_write(at: *mut u8) -> c_int {
        let status = in_child(|| {
            // SAFETY: at worst it ends the child.
            unsafe { at.write_volatile(1) };
            0
        });
        if libc::WIFSIGNALED(status) { libc::WTERMSIG(status) } else { status }
    }

    fn asked_for() -> Result<(), u8> {
        let start = map(0, HUGE + 1, libc::MAP_HUGETLB).ok_or(1)?;
        ensure((start as usize).is_multiple_of(HUGE), 2)?;
        ensure(is_zero(start, 0..2 * PAGES), 3)?;
        fill(start, 7);
        fill(start.wrapping_add(HUGE), 8);
        ensure(holds(start, 7, 0..0) && holds(start.wrapping_add(HUGE), 8, 0..0), 4)?;
        // A part goes: the rest stays.
        ensure(unmap(start.wrapping_add(5 * PAGE), 3 * PAGE), 5)?;
        ensure(holds(start, 7, 5..8), 6)?;
        ensure(signal_of_write(start.wrapping_add(6 * PAGE)) == libc::SIGSEGV, 7)?;
        ensure(unmap(start, 2 * HUGE), 8)?;
        let odd = start as usize + PAGE;
        ensure(map(odd, HUGE, libc::MAP_HUGETLB | libc::MAP_FIXED).is_none(), 9)?;
        ensure(error() == Some(libc::EINVAL), 10)?;
        ensure(map(0, HUGE, libc::MAP_HUGETLB | 12 << libc::MAP_HUGE_SHIFT).is_none(), 11)?;
        ensure(error() == Some(libc::EINVAL), 12)?;
        let mebibytes = map(0, HUGE, libc::MAP_HUGETLB | libc::MAP_HUGE_2MB).ok_or(13)?;
        fill(mebibytes, 1);
        ensure(unmap(mebibytes, HUGE), 14)?;
        // There need not be a free GiB.
        match map(0, 1, libc::MAP_HUGETLB | libc::MAP_HUGE_1GB) {
            Some(giant) => {
                ensure((giant as usize).is_multiple_of(1 << 30), 15)?;
                ensure([0, libc::SIGBUS].contains(&signal_of_write(giant.wrapping_add(1 << 29))), 16)?;
                ensure(unmap(giant, 1 << 30), 17)
            }
            None => ensure(error() == Some(libc::ENOMEM), 18),
        }
    }

    /// Parts of a page change alone.
    fn parts() -> Result<(), u8> {
        let place = advised().ok_or(1)?;
        for (round, (first, count)) in [(0, 1), (9, 40), (511, 1), (0, 511)].into_iter().enumerate() {
            let salt = 1000 * (round as u32 + 1);
            let number = 10 * (round as u8 + 1);
            ensure(advise(place, HUGE, libc::MADV_DONTNEED), number)?;
            fill(place, salt);
            let part = place.wrapping_add(first * PAGE);
            ensure(protect(part, count * PAGE, libc::PROT_READ), number + 1)?;
            ensure(signal_of_write(part) == libc::SIGSEGV, number + 2)?;
            ensure(holds(place, salt, 0..0), number + 3)?;
            ensure(protect(part, count * PAGE, WRITE), number + 4)?;
            ensure(advise(part, count * PAGE, libc::MADV_DONTNEED), number + 5)?;
            ensure(is_zero(place, first..first + count), number + 6)?;
            ensure(holds(place, salt, first..first + count), number + 7)?;
        }
        // All of it moves, to where no page of 2 MiB can stand.
        ensure(advise(place, HUGE, libc::MADV_DONTNEED), 60)?;
        fill(place, 5);
        let room = map(0, 2 * HUGE, 0).ok_or(61)?;
        let to = room.wrapping_add((room as usize).next_multiple_of(HUGE) + PAGE - room as usize);
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        // SAFETY: both places are the check's own.
        let moved = unsafe { libc::mremap(place.cast(), HUGE - PAGE, HUGE - PAGE, flags, to) };
        ensure(moved == to.cast::<c_void>(), 62)?;
        ensure(holds(to, 5, PAGES - 1..PAGES), 63)?;
        ensure(signal_of_write(place) == libc::SIGSEGV, 64)?;
        let last = place.wrapping_add(HUGE - PAGE);
        // SAFETY: the page is the check's own.
        ensure(unsafe { last.cast::<u32>().read_volatile() } == (PAGES as u32 - 1) ^ 5, 65)
    }

    /// A copy of the process shares pages until one of the two writes.
    fn copies() -> Result<(), u8> {
        let place = advised().ok_or(1)?;
        let explicit = map(0, HUGE, libc::MAP_HUGETLB).ok_or(2)?;
        for (number, place) in [(10, place), (40, explicit)] {
            for round in 1..4 {
                fill(place, round);
                let status = in_child(|| {
                    let before = holds(place, round, 0..0);
                    // SAFETY: the page is the child's copy.
                    unsafe { place.add(3 * PAGE).cast::<u32>().write_volatile(99) };
                    let rest = holds(place, round, 3..4);
                    let grandchild = in_child(|| {
                        let before = holds(place, round, 3..4);
                        fill(place, 77);
                        u8::from(!before || !holds(place, 77, 0..0))
                    });
                    let own = holds(place, round, 3..4);
                    let unmapped = unmap(place, 2 * PAGE);
                    u8::from(!(before && rest && own && unmapped && grandchild == 0))
                });
                ensure(status == 0, number + round as u8)?;
                ensure(holds(place, round, 0..0), number + 10 + round as u8)?;
            }
            // The child goes on after the parent has written.
            fill(place, 11);
            let status = in_child(|| u8::from(!holds(place, 11, 0..0)));
            ensure(status == 0, number + 20)?;
            fill(place, 12);
            ensure(holds(place, 12, 0..0), number + 21)?;
        }
        Ok(())
    }

    /// Small pages become one: contents stay.
    fn collapse() -> Result<(), u8> {
        const MADV_COLLAPSE: c_int = 25;
        let place = aligned().ok_or(1)?;
        fill(place, 21);
        ensure(advise(place, HUGE, MADV_COLLAPSE), 3)?;
        ensure(holds(place, 21, 0..0), 4)?;
        fill(place, 22);
        ensure(holds(place, 22, 0..0), 5)?;
        // In part unmapped, in part shared with a copy that has ended.
        ensure(advise(place.wrapping_add(PAGE), 7 * PAGE, libc::MADV_DONTNEED), 6)?;
        ensure(in_child(|| u8::from(!holds(place, 22, 1..8))) == 0, 7)?;
        ensure(advise(place, HUGE, MADV_COLLAPSE), 8)?;
        ensure(is_zero(place, 1..8) && holds(place, 22, 1..8), 9)?;
        let status = in_child(|| {
            fill(place, 23);
            let collapsed = advise(place, HUGE, MADV_COLLAPSE);
            u8::from(!(collapsed && holds(place, 23, 0..0)))
        });
        ensure(status == 0, 10)?;
        ensure(is_zero(place, 1..8) && holds(place, 22, 1..8), 11)?;
        // There is nothing to be done about less than 2 MiB.
        ensure(advise(place.wrapping_add(PAGE), HUGE - PAGE, MADV_COLLAPSE), 12)
    }

    /// A process may be told to have small pages alone, and so is its copy.
    fn settings() -> Result<(), u8> {
        const OTHER: c_int = 1000;
        // SAFETY: neither changes what the program relies on.
        let (set, get) = unsafe {
            (
                |value: u64| libc::prctl(libc::PR_SET_THP_DISABLE, value, 0, 0, 0),
                || libc::prctl(libc::PR_GET_THP_DISABLE, 0, 0, 0, 0),
            )
        };
        ensure(get() == 0, 1)?;
        ensure(set(1) == 0 && get() == 1, 2)?;
        ensure(in_child(|| u8::from(get() != 1)) == 0, 3)?;
        let place = advised().ok_or(4)?;
        fill(place, 31);
        ensure(holds(place, 31, 0..0), 5)?;
        ensure(set(0) == 0 && get() == 0, 6)?;
        // SAFETY: there is no such setting.
        ensure(unsafe { libc::prctl(OTHER, 0, 0, 0, 0) } == -1, 7)?;
        ensure(error() == Some(libc::EINVAL), 8)
    }
}

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn main() -> ExitCode {
    topomem_programs::run(checks::by_name)
}

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
fn main() -> ExitCode {
    ExitCode::from(255)
}
