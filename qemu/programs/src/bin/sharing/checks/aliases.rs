//! An attack: to write code by way of one mapping, and to run it by way of another.

use std::ffi::c_int;

use super::{File, Mapped, PAGE, WRITE, ensure, failed_with, in_child};

const RUN: c_int = libc::PROT_READ | libc::PROT_EXEC;

/// `mov eax, 42; ret`.
const CODE: [u8; 6] = [0xb8, 42, 0, 0, 0, 0xc3];

/// Maps a page of the file, which must be refused.
fn refused(file: &File, page: usize, protection: c_int, flags: c_int, number: u8) -> Result<(), u8> {
    let mapped = Mapped::new(Some(file), page, 1, protection, flags);
    let error = std::io::Error::last_os_error().raw_os_error();
    ensure(mapped.is_none() && error == Some(libc::EACCES), number)
}

/// No frame of a file is writable at one place and executable at another, in whichever process. The only
/// mapping of the file may be the one and then the other.
pub(super) fn write_and_run() -> Result<(), u8> {
    let file = File::in_memory(2 * PAGE)?;
    let writable = Mapped::shared(&file, 1)?;
    for (byte, value) in CODE.into_iter().enumerate() {
        writable.write(0, byte, value);
    }
    for (number, flags) in [(1, libc::MAP_SHARED), (2, libc::MAP_PRIVATE)] {
        refused(&file, 0, RUN, flags, number)?;
        let other = Mapped::new(Some(&file), 0, 1, libc::PROT_READ, flags).ok_or(3)?;
        ensure(failed_with(other.protect(RUN), libc::EACCES), 4)?;
        in_child(|| ensure(failed_with(other.protect(RUN), libc::EACCES), 5))?;
        other.unmap()?;
    }
    ensure(failed_with(writable.protect(WRITE | RUN), libc::EACCES), 6)?;
    // Nothing but this mapping shows the file.
    ensure(writable.protect(RUN) == 0, 7)?;
    // SAFETY: the page has a function that takes nothing and changes no register but EAX.
    let code = unsafe { std::mem::transmute::<*mut u8, extern "C" fn() -> c_int>(writable.at(0, 0)) };
    ensure(code() == 42, 8)?;
    refused(&file, 0, WRITE, libc::MAP_SHARED, 9)?;
    in_child(|| refused(&file, 1, WRITE, libc::MAP_SHARED, 10))?;
    let private = Mapped::private(&file, 1)?;
    private.write(0, 1, 43);
    ensure(code() == 42, 11)?;
    private.unmap()?;
    ensure(writable.protect(WRITE) == 0, 12)?;
    writable.write(0, 1, 44);
    ensure(file.read(1) == Some(44), 13)?;
    writable.unmap()
}
