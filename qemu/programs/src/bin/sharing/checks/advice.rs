//! What is said about shared pages, and what is asked about them.

use std::ffi::{c_int, c_void};
use std::ptr;

use super::{File, Mapped, PAGE, WRITE, ensure, failed_with};

/// Pages that are removed from a file are zeros for everybody, but not for those with a private copy.
pub(super) fn remove() -> Result<(), u8> {
    let file = File::in_memory(4 * PAGE)?;
    let (shared, private) = (Mapped::shared(&file, 4)?, Mapped::private(&file, 4)?);
    (0..4).for_each(|page| shared.write(page, 8, 51));
    private.write(1, 9, 52);
    ensure(shared.advise(1, 2, libc::MADV_REMOVE) == 0, 1)?;
    ensure(shared.read(1, 8) == 0 && shared.read(2, 8) == 0 && shared.read(3, 8) == 51, 2)?;
    ensure(private.read(1, 8) == 51 && private.read(2, 8) == 0, 3)?;
    ensure(file.read(2 * PAGE + 8) == Some(0) && file.size() == 4 * PAGE, 4)?;
    ensure(failed_with(private.advise(0, 1, libc::MADV_REMOVE), libc::EACCES), 5)?;
    ensure(failed_with(shared.advise(0, 1, libc::MADV_FREE), libc::EINVAL), 6)?;
    ensure(failed_with(shared.advise(0, 1, libc::MADV_WIPEONFORK), libc::EINVAL), 7)?;
    let own = Mapped::new(None, 0, 1, WRITE, libc::MAP_PRIVATE).ok_or(8)?;
    ensure(failed_with(own.advise(0, 1, libc::MADV_REMOVE), libc::EINVAL), 9)
}

fn resident_pages(mapped: &Mapped) -> Result<Vec<bool>, u8> {
    let mut vector = vec![0_u8; mapped.pages];
    // SAFETY: the vector has a byte for each page.
    let answer = unsafe { libc::mincore(mapped.start.cast(), mapped.pages * PAGE, vector.as_mut_ptr()) };
    ensure(answer == 0, 230)?;
    Ok(vector.into_iter().map(|byte| byte & 1 != 0).collect())
}

/// `mincore` knows what is in memory.
pub(super) fn resident() -> Result<(), u8> {
    let own = Mapped::new(None, 0, 4, WRITE, libc::MAP_PRIVATE).ok_or(1)?;
    ensure(resident_pages(&own)? == [false; 4], 2)?;
    own.write(1, 0, 1);
    own.write(2, 0, 1);
    ensure(resident_pages(&own)? == [false, true, true, false], 3)?;
    ensure(own.advise(2, 1, libc::MADV_DONTNEED) == 0, 4)?;
    ensure(resident_pages(&own)? == [false, true, false, false], 5)?;
    let file = File::in_memory(4 * PAGE)?;
    file.write(PAGE, &[1])?;
    let (shared, private) = (Mapped::shared(&file, 4)?, Mapped::private(&file, 4)?);
    ensure(resident_pages(&shared)? == [false, true, false, false], 6)?;
    shared.write(3, 0, 1);
    ensure(resident_pages(&private)? == [false, true, false, true], 7)?;
    // SAFETY: the kernel refuses to write there.
    let bad = unsafe { libc::mincore(own.start.cast(), PAGE, ptr::null_mut()) };
    ensure(failed_with(bad, libc::EFAULT), 8)?;
    let start = own.start.cast::<c_void>();
    own.unmap()?;
    let mut byte = 0;
    // SAFETY: the byte is this function's own.
    ensure(failed_with(unsafe { libc::mincore(start, PAGE, &mut byte) }, libc::ENOMEM), 9)
}

fn remap(mapped: &Mapped, old: usize, new: usize, flags: c_int) -> Option<Mapped> {
    // Linux looks at the new place without MREMAP_FIXED, too.
    let anywhere = ptr::null_mut::<c_void>();
    // SAFETY: the pages are the check's own.
    let start = unsafe { libc::mremap(mapped.start.cast(), old * PAGE, new * PAGE, flags, anywhere) };
    (start != libc::MAP_FAILED).then(|| Mapped { start: start.cast(), pages: new })
}

/// A mapping moves with its pages, or leaves the old place empty, or becomes two of the same.
pub(super) fn relocate() -> Result<(), u8> {
    let file = File::in_memory(8 * PAGE)?;
    let shared = Mapped::shared(&file, 2)?;
    (0..2).for_each(|page| shared.write(page, 0, 61));
    let second = remap(&shared, 0, 2, libc::MREMAP_MAYMOVE).ok_or(1)?;
    second.write(1, 0, 62);
    ensure(shared.read(1, 0) == 62, 2)?;
    let moved = remap(&second, 2, 8, libc::MREMAP_MAYMOVE).ok_or(3)?;
    ensure(moved.read(1, 0) == 62 && moved.read(7, 0) == 0, 4)?;
    moved.write(7, 0, 63);
    ensure(file.read(7 * PAGE) == Some(63), 5)?;
    let keeps = libc::MREMAP_MAYMOVE | libc::MREMAP_DONTUNMAP;
    let third = remap(&shared, 2, 2, keeps).ok_or(6)?;
    third.write(0, 0, 64);
    ensure(shared.read(0, 0) == 64, 7)?;
    let own = Mapped::new(None, 0, 2, WRITE, libc::MAP_PRIVATE).ok_or(8)?;
    own.write(0, 0, 65);
    let kept = remap(&own, 2, 2, keeps).ok_or(9)?;
    ensure(kept.read(0, 0) == 65 && own.read(0, 0) == 0, 10)?;
    own.write(0, 0, 66);
    ensure(kept.read(0, 0) == 65 && kept.read(1, 0) == 0, 11)?;
    ensure(remap(&own, 0, 1, libc::MREMAP_MAYMOVE).is_none(), 12)?;
    for mapped in [shared, moved, third, own, kept] {
        mapped.unmap()?;
    }
    Ok(())
}
