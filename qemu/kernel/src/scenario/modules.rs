//! What the loader put into memory beside the kernel, and whether it is as it was.

use core::slice;

use topomem_boot::{StartInfo, checksum};

use super::failure;
use crate::arch::paging;
use crate::boot::command_line::CommandLine;
use crate::log;

/// The content of the loader's first module.
pub(super) fn first(start_info: &StartInfo) -> Option<&'static [u8]> {
    let range = start_info.modules().next()?;
    let place = paging::DIRECT_WINDOW.pointer::<u8>(range.start).cast_const();
    // SAFETY: the range is reserved and in the direct map, so nobody writes there.
    Some(unsafe { slice::from_raw_parts(place, range.bytes() as usize) })
}

/// Compares the loader's first module with the checksum of `module=`, by which the runner says that it
/// loaded one. False, and reported, if it is another or gone. `when` goes into the report.
pub(super) fn are_intact(start_info: &StartInfo, when: &str) -> bool {
    let Some(expected) = CommandLine(start_info.command_line()).value("module") else { return true };
    let (Some(range), Some(bytes)) = (start_info.modules().next(), first(start_info)) else {
        failure(format_args!("the loader has put no module into memory"), when);
        return false;
    };
    let found = checksum(bytes);
    let is_intact = u64::from_str_radix(expected, 16) == Ok(found);
    if is_intact {
        log!("{}: the module at {range} is intact", when);
    } else {
        failure(format_args!("the module at {range} has the checksum {found:x}, not {expected}"), when);
    }
    is_intact
}
