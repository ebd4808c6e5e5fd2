//! The corner cases of files: what can be mapped, ends of files, what several mappings of one file show.

use super::Case;
use super::build::*;
use crate::compare::answer::{Errno, Fault};
use crate::log::operation::{Descriptor, PAGE, Protection};

const FIRST: Descriptor = Descriptor::First;
const READ: Protection = Protection::READ;
const READ_WRITE: Protection = Protection::READ_WRITE;

/// Bytes that a case writes.
const A: u8 = 0x90;
const B: u8 = 0x91;
const C: u8 = 0x92;

pub(super) fn files() -> Vec<Case> {
    let read_only = Descriptor::FirstReadOnly;
    let write_only = Descriptor::FirstWriteOnly;
    vec![
        Case::new(
            "7: what a descriptor must permit",
            [
                truncate(FIRST, PAGE).works(),
                map(0, 1).of(read_only).shared().call().fails(Errno::EACCES),
                map(0, 1).of(read_only).shared().with(READ).call().works(),
                map(1, 1).of(read_only).call().works(),
                write(1, A).works(),
                map(2, 1).of(write_only).with(READ).call().fails(Errno::EACCES),
                map(2, 1).of(write_only).shared().call().fails(Errno::EACCES),
            ],
        ),
        Case::new(
            "8: what cannot be mapped",
            [
                map(0, 1).of(Descriptor::Pipe).with(READ).call().fails(Errno::ENODEV),
                map(0, 1).of(Descriptor::Directory).with(READ).call().fails(Errno::ENODEV),
                map(0, 1).of(Descriptor::Closed).call().fails(Errno::EBADF),
            ],
        ),
        Case::new(
            "9: an offset beyond all files",
            [map(0, 2).of(FIRST).from(i64::MAX as u64 & !(PAGE - 1)).call().fails(Errno::EOVERFLOW)],
        ),
        Case::new(
            "10: the tail of the last page is zeros and is never written, the next page is an error",
            [
                truncate(FIRST, 101).works(),
                map(0, 2).of(FIRST).shared().call().works(),
                read_sample(0, 7).reads(0),
                write_sample(0, 7, A).works(),
                write_sample(0, 2, B).works(),
                read_file(FIRST, 4095).gives(Expected::Number(256)),
                read_file(FIRST, 100).gives(Expected::Number(u64::from(B))),
                read(1).faults(Fault::BeyondEnd),
                write(1, A).faults(Fault::BeyondEnd),
            ],
        ),
        Case::new(
            "a file that shrinks loses its tail, and private copies of pages beyond the end",
            [
                truncate(FIRST, 2 * PAGE).works(),
                map(0, 2).of(FIRST).shared().call().works(),
                map(4, 2).of(FIRST).call().works(),
                write_sample(0, 4, A).works(),
                write(5, B).works(),
                truncate(FIRST, 64).works(),
                read_sample(0, 4).reads(0),
                read(1).faults(Fault::BeyondEnd),
                read(5).faults(Fault::BeyondEnd),
                truncate(FIRST, 2 * PAGE).works(),
                read(5).reads(0),
            ],
        ),
        Case::new(
            "a private mapping shows later writes to the file until it has a copy",
            [
                truncate(FIRST, PAGE).works(),
                map(0, 1).of(FIRST).call().works(),
                write_file(FIRST, 0, A).works(),
                read(0).reads(A),
                write_file(FIRST, 0, B).works(),
                read(0).reads(B),
                write_sample(0, 1, A).works(),
                write_file(FIRST, 0, A).works(),
                read(0).reads(B),
                read_file(FIRST, 64).gives(Expected::Number(0)),
            ],
        ),
        Case::new(
            "a file that another process cuts is cut for all mappings",
            [
                truncate(FIRST, 3 * PAGE).works(),
                map(0, 3).of(FIRST).shared().call().works(),
                map(4, 3).of(FIRST).call().works(),
                write(0, A).works(),
                write(2, A).works(),
                write(6, B).works(),
                fork(1),
                truncate(FIRST, PAGE).works().by(1),
                read(0).reads(A),
                read(2).faults(Fault::BeyondEnd),
                read(6).faults(Fault::BeyondEnd),
                write(2, A).faults(Fault::BeyondEnd).by(1),
                write_file(FIRST, 2 * PAGE, C).works(),
                read(2).reads(C).by(1),
                read(6).reads(C).by(1),
            ],
        ),
        Case::new(
            "two mappings of one file show the same bytes, wherever they begin",
            [
                truncate(FIRST, 3 * PAGE).works(),
                map(0, 3).of(FIRST).shared().call().works(),
                map(4, 2).of(FIRST).from(PAGE).shared().call().works(),
                write(5, A).works(),
                read(2).reads(A),
                read_file(FIRST, 2 * PAGE).gives(Expected::Number(u64::from(A))),
                unmap(0, 3).works(),
                unmap(4, 2).works(),
                map(8, 1).of(FIRST).from(2 * PAGE).call().works(),
                read(8).reads(A),
            ],
        ),
        Case::new(
            "a shared mapping that has lost the permission to write keeps what was written",
            [
                truncate(FIRST, PAGE).works(),
                map(0, 1).of(FIRST).shared().call().works(),
                write(0, A).works(),
                protect(0, 1, READ).works(),
                write(0, B).faults(Fault::Denied),
                write_file(FIRST, 0, C).works(),
                read(0).reads(C),
                protect(0, 1, READ_WRITE).works(),
                write(0, B).works(),
                read_file(FIRST, 0).gives(Expected::Number(u64::from(B))),
            ],
        ),
        Case::new(
            "populating a writable private mapping makes its copies",
            [
                truncate(FIRST, PAGE).works(),
                write_file(FIRST, 0, A).works(),
                map(0, 1).of(FIRST).populated().call().works(),
                map(1, 1).of(FIRST).with(READ).populated().call().works(),
                write_file(FIRST, 0, B).works(),
                read(0).reads(A),
                read(1).reads(B),
            ],
        ),
    ]
}
