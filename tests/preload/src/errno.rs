//! C's error number.

use core::ffi::c_int;

/// Sets the calling thread's error number.
pub(crate) fn set(error: c_int) {
    // SAFETY: the address is the calling thread's own.
    unsafe { *libc::__errno_location() = error };
}

/// Calls `act`, and leaves the calling thread's error number as it was before.
pub(crate) fn preserved<R>(act: impl FnOnce() -> R) -> R {
    // SAFETY: the address is the calling thread's own.
    let before = unsafe { *libc::__errno_location() };
    let result = act();
    set(before);
    result
}
