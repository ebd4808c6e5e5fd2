//! Reads `/proc/self/maps` without allocating memory.

use std::ops::Range;

use super::files::Files;
use crate::compare::answer::{Listed, Shows};
use crate::log::operation::Protection;

/// Reports the mappings within `within`, clipped to it.
pub(super) fn list(files: &Files, within: Range<u64>, report: &mut dyn FnMut(Listed)) {
    // SAFETY: the path is terminated by a zero.
    let fd = unsafe { libc::open(c"/proc/self/maps".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
    let mut buffer = [0_u8; 8192];
    let mut filled = 0;
    loop {
        let room = &mut buffer[filled..];
        // SAFETY: the room is `room.len()` bytes that may be written.
        let read = unsafe { libc::read(fd, room.as_mut_ptr().cast(), room.len()) };
        if read <= 0 {
            break;
        }
        filled += read as usize;
        let mut start = 0;
        while let Some(length) = buffer[start..filled].iter().position(|&byte| byte == b'\n') {
            if let Some(listed) = parse(files, &buffer[start..start + length], &within) {
                report(listed);
            }
            start += length + 1;
        }
        buffer.copy_within(start..filled, 0);
        filled -= start;
    }
    // SAFETY: the descriptor is this function's own.
    unsafe { libc::close(fd) };
}

/// Reads a line such as `7f00-7f01 rw-s 00001000 00:01 4242   /memfd:x (deleted)`.
fn parse(files: &Files, line: &[u8], within: &Range<u64>) -> Option<Listed> {
    let mut fields = line.split(|&byte| byte == b' ').filter(|field| !field.is_empty());
    let mut ends = fields.next()?.split(|&byte| byte == b'-');
    let (start, end) = (hexadecimal(ends.next()?)?, hexadecimal(ends.next()?)?);
    let (clipped, end) = (start.max(within.start), end.min(within.end));
    if clipped >= end {
        return None;
    }
    let &[r, w, x, sharing, ..] = fields.next()? else { return None };
    let bit = |set: bool, bit: Protection| if set { bit.0 } else { 0 };
    let protection = Protection(
        bit(r == b'r', Protection::READ)
            | bit(w == b'w', Protection::WRITE)
            | bit(x == b'x', Protection::EXECUTE),
    );
    let offset = hexadecimal(fields.next()?)? + (clipped - start);
    let inode = std::str::from_utf8(fields.nth(1)?).ok()?.parse::<u64>().ok()?;
    let name = fields.next().unwrap_or_default();
    let shows = match inode {
        0 => Shows::Nothing,
        inode if inode == files.first_inode => Shows::First(offset),
        inode if inode == files.second_inode => Shows::Second(offset),
        // The reference kernel does not name what is no file.
        _ if name == b"/dev/zero" || name.is_empty() => Shows::SharedMemory(offset),
        _ => Shows::Foreign,
    };
    Some(Listed { start: clipped, end, protection, shared: sharing == b's', shows })
}

fn hexadecimal(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0_u64, |number, &digit| {
        let digit = char::from(digit).to_digit(16)?;
        Some(number * 16 + u64::from(digit))
    })
}
