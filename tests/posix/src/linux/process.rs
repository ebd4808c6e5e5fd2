//! Raw system calls.

use std::ops::Range;

use super::files::Files;
use super::{maps, probe};
use crate::compare::answer::{Errno, Fault, Listed, Rest, View};
use crate::compare::system::Process;
use crate::log::operation::{Access, Call, Map, OFFSETS, PAGE, Placement, Sharing, Source, Vector};
use crate::log::slots::Slots;

/// The calling process, which has one thread and was forked for a log.
pub(super) struct LinuxProcess<'a> {
    pub(super) files: &'a Files,
}

fn system_call(number: i64, arguments: [u64; 6]) -> Result<u64, Errno> {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: the calls change the memory of this process only where the log says so, which is memory of
    // the log alone: the window, the heap's new part, and mappings that the kernel chose for the log.
    let answer = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    if answer == -1 {
        // SAFETY: the thread's own errno.
        return Err(Errno(unsafe { *libc::__errno_location() }));
    }
    Ok(answer as u64)
}

impl LinuxProcess<'_> {
    fn map(&self, map: &Map<u64>) -> Result<u64, Errno> {
        let (address, placement) = match map.placement {
            Placement::Anywhere => (0, 0),
            Placement::Hint(at) => (at, 0),
            Placement::Fixed(at) => (at, libc::MAP_FIXED),
            Placement::Unoccupied(at) => (at, libc::MAP_FIXED_NOREPLACE),
        };
        let sharing = match map.sharing {
            Sharing::Private => libc::MAP_PRIVATE,
            Sharing::Shared => libc::MAP_SHARED,
            Sharing::Neither => 0,
        };
        let (source, fd) = match map.source {
            Source::Anonymous => (libc::MAP_ANONYMOUS, -1),
            Source::File(file) => (0, self.files.number(file)),
        };
        let option = |set: bool, flag: i32| if set { flag } else { 0 };
        let flags = placement
            | sharing
            | source
            | option(map.grows_down, libc::MAP_GROWSDOWN)
            | option(map.populate, libc::MAP_POPULATE);
        let protection = u64::from(map.protection.0);
        system_call(
            libc::SYS_mmap,
            [address, map.length, protection, flags as u64, fd as i64 as u64, map.offset],
        )
    }
}

impl Process for LinuxProcess<'_> {
    fn call(&mut self, call: &Call<u64>, slots: &Slots) -> Result<u64, Errno> {
        match *call {
            Call::Map(ref map) => self.map(map),
            Call::Unmap { at, length } => system_call(libc::SYS_munmap, [at, length, 0, 0, 0, 0]),
            Call::Protect { at, length, protection } => {
                system_call(libc::SYS_mprotect, [at, length, u64::from(protection.0), 0, 0, 0])
            }
            Call::Remap { at, old, new, flags, to, .. } => {
                let option = |set: bool, flag: i32| if set { flag } else { 0 };
                let bits = option(flags.may_move, libc::MREMAP_MAYMOVE)
                    | option(flags.keep_source, libc::MREMAP_DONTUNMAP)
                    | option(flags.unknown, 1 << 10)
                    | option(to.is_some(), libc::MREMAP_FIXED);
                system_call(libc::SYS_mremap, [at, old, new, bits as u64, to.unwrap_or(0), 0])
            }
            Call::Advise { at, length, advice } => {
                system_call(libc::SYS_madvise, [at, length, advice.number() as u64, 0, 0, 0])
            }
            Call::Break(to) => system_call(libc::SYS_brk, [slots.break_address(to), 0, 0, 0, 0, 0])
                .map(|end| end.wrapping_sub(slots.layout.heap)),
            Call::Sync { at, length, flags } => {
                let option = |set: bool, flag: i32| if set { flag } else { 0 };
                let bits = option(flags.asynchronous, libc::MS_ASYNC)
                    | option(flags.synchronous, libc::MS_SYNC)
                    | option(flags.invalidate, libc::MS_INVALIDATE);
                system_call(libc::SYS_msync, [at, length, bits as u64, 0, 0, 0])
            }
            Call::Resident { at, length, vector } => {
                let mut pages = [0_u8; 4096];
                let vector = match vector {
                    Vector::Bad => 0,
                    // No log asks for more pages than the window has, or the call fails before.
                    Vector::Good => pages.as_mut_ptr() as u64,
                };
                system_call(libc::SYS_mincore, [at, length, vector, 0, 0, 0])
            }
            Call::Lock { at, length } => system_call(libc::SYS_mlock, [at, length, 0, 0, 0, 0]),
            Call::Unlock { at, length } => system_call(libc::SYS_munlock, [at, length, 0, 0, 0, 0]),
            Call::WriteFile { file, position, value } => {
                let bytes = [value];
                let fd = self.files.number(file) as u64;
                system_call(libc::SYS_pwrite64, [fd, bytes.as_ptr() as u64, 1, position, 0, 0])
            }
            Call::ReadFile { file, position } => {
                let mut bytes = [0_u8];
                let fd = self.files.number(file) as u64;
                let read =
                    system_call(libc::SYS_pread64, [fd, bytes.as_mut_ptr() as u64, 1, position, 0, 0])?;
                // SAFETY: the byte is this function's own; the kernel may have written it unseen.
                let byte = unsafe { bytes.as_ptr().read_volatile() };
                Ok(if read == 0 { 256 } else { u64::from(byte) })
            }
            Call::Truncate { file, length } => {
                system_call(libc::SYS_ftruncate, [self.files.number(file) as u64, length, 0, 0, 0, 0])
            }
        }
    }

    fn touch(&mut self, address: u64, access: Access) -> Result<u8, Fault> {
        match access {
            Access::Read => probe::load(address),
            Access::Write(value) => probe::store(address, value).map(|()| 0),
            Access::Execute => probe::execute(address).map(|()| 0),
        }
    }

    fn look(&mut self, page: u64) -> Result<View, Fault> {
        let mut samples = [0; OFFSETS.len()];
        for (sample, offset) in samples.iter_mut().zip(OFFSETS) {
            *sample = probe::load(page + offset)?;
        }
        let mut written = samples.iter().filter(|&&sample| sample != 0).count();
        // The page can be read, and this process has no other thread that could change that.
        for word in (page..page + PAGE).step_by(8) {
            // SAFETY: the page is mapped and readable, as the samples have shown.
            let word = unsafe { (word as *const u64).read_volatile() };
            if word != 0 {
                let bytes = word.to_ne_bytes().iter().filter(|&&byte| byte != 0).count();
                written = written.wrapping_sub(bytes);
            }
        }
        Ok(View { samples, rest: if written == 0 { Rest::Zero } else { Rest::Dirty } })
    }

    fn list(&mut self, within: Range<u64>, report: &mut dyn FnMut(Listed)) {
        maps::list(self.files, within, report);
    }
}
