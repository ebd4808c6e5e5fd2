//! The corner cases of `madvise`.

use super::Case;
use super::build::*;
use crate::compare::answer::{Errno, Fault};
use crate::compare::rules::{Guards, Rules};
use crate::log::operation::{Advice, At, Call, Descriptor, Operation, PAGE, Protection};

const FIRST: Descriptor = Descriptor::First;
const NONE: Protection = Protection::NONE;
const READ: Protection = Protection::READ;

/// Bytes that a case writes.
const A: u8 = 0x90;
const B: u8 = 0x91;

pub(super) fn madvise(rules: &Rules) -> Vec<Case> {
    let lock = Operation::Call(Call::Lock { at: At::window(4), length: PAGE });
    let unaligned = At::window(0).plus(1);
    let mut cases = vec![
        Case::new(
            "22: DONTNEED over a hole is done, and then an error",
            [
                mapped(0, 3),
                write(0, A).works(),
                write(2, B).works(),
                unmap(1, 1).works(),
                advise(0, 3, Advice::DontNeed).fails(Errno::ENOMEM),
                read(0).reads(0),
                read(2).reads(0),
            ],
        ),
        Case::new(
            "23: DONTNEED shows the file again, keeps what is shared, refuses what is locked",
            [
                truncate(FIRST, PAGE).works(),
                write_file(FIRST, 0, A).works(),
                map(0, 1).of(FIRST).call().works(),
                write(0, B).works(),
                advise(0, 1, Advice::DontNeed).works(),
                read(0).reads(A),
                map(2, 1).shared().call().works(),
                write(2, A).works(),
                advise(2, 1, Advice::DontNeed).works(),
                read(2).reads(A),
                mapped(4, 1),
                write(4, A).works(),
                lock.works(),
                advise(4, 1, Advice::DontNeed).fails(Errno::EINVAL),
                read(4).reads(A),
                advise(4, 1, Advice::DontNeedLocked).works(),
                read(4).reads(0),
            ],
        ),
        Case::new(
            "24: unknown advice, wrong ranges",
            [
                mapped(0, 1),
                advise(0, 1, Advice::Unknown).fails(Errno::EINVAL),
                advise(0, 0, Advice::Unknown).fails(Errno::EINVAL),
                advise(1, 1, Advice::DontNeedLocked).fails(Errno::ENOMEM),
                advise(0, 0, Advice::DontNeed).works(),
                Operation::Call(Call::Advise { at: unaligned, length: PAGE, advice: Advice::DontNeed })
                    .fails(Errno::EINVAL),
                Operation::Call(Call::Advise {
                    at: At::window(0),
                    length: u64::MAX,
                    advice: Advice::DontNeed,
                })
                .fails(Errno::EINVAL),
            ],
        ),
        Case::new(
            "25: advice for the wrong kind of memory",
            [
                mapped(0, 1),
                map(1, 1).shared().call().works(),
                write(1, A).works(),
                advise(0, 1, Advice::Remove).fails(Errno::EINVAL),
                advise(1, 1, Advice::Free).fails(Errno::EINVAL),
                advise(1, 1, Advice::WipeOnFork).fails(Errno::EINVAL),
                advise(1, 1, Advice::Remove).works(),
                read(1).reads(0),
                advise(0, 1, Advice::Free).works(),
            ],
        ),
        Case::new(
            "25: REMOVE takes the pages out of the object, for all but private copies",
            [
                truncate(FIRST, 2 * PAGE).works(),
                map(0, 2).of(FIRST).shared().call().works(),
                map(4, 2).of(FIRST).call().works(),
                map(6, 1).of(Descriptor::FirstReadOnly).shared().with(READ).call().works(),
                write(0, A).works(),
                write(1, A).works(),
                write(4, B).works(),
                advise(4, 1, Advice::Remove).fails(Errno::EACCES),
                advise(6, 1, Advice::Remove).fails(Errno::EACCES),
                advise(0, 1, Advice::Remove).works(),
                read(0).reads(0),
                read(6).reads(0),
                read(4).reads(B),
                read(1).reads(A),
                read_file(FIRST, 0).gives(Expected::Number(0)),
                write(0, B).works(),
                read(6).reads(B),
            ],
        ),
        Case::new(
            "26: what a child does not inherit, or inherits empty",
            [
                mapped(0, 3),
                write(0, A).works(),
                write(1, A).works(),
                write(2, A).works(),
                advise(1, 1, Advice::DontFork).works(),
                advise(2, 1, Advice::WipeOnFork).works(),
                fork(1),
                read(0).reads(A).by(1),
                read(1).faults(Fault::Unmapped).by(1),
                read(2).reads(0).by(1),
                read(1).reads(A),
                read(2).reads(A),
            ],
        ),
        Case::new(
            "populating needs the permission",
            [
                map(0, 1).with(READ).call().works(),
                map(1, 1).with(NONE).call().works(),
                advise(0, 1, Advice::PopulateWrite).fails(Errno::EINVAL),
                advise(0, 1, Advice::PopulateRead).works(),
                advise(1, 1, Advice::PopulateRead).fails(Errno::EINVAL),
                advise(2, 1, Advice::PopulateRead).fails(Errno::ENOMEM),
                map(3, 1).of(FIRST).call().works(),
                advise(3, 1, Advice::PopulateRead).fails(Errno::EFAULT),
            ],
        ),
    ];
    let guards = [mapped(0, 2), write(0, A).works(), write(1, B).works()];
    cases.push(if rules.guards == Guards::Unknown {
        Case::new(
            "27: before Linux 6.13 there are no guards",
            guards
                .into_iter()
                .chain([advise(0, 1, Advice::GuardInstall).fails(Errno::EINVAL), read(0).reads(A)]),
        )
    } else {
        Case::new(
            "27: a guard takes the contents away, and outlives DONTNEED",
            guards.into_iter().chain([
                advise(0, 1, Advice::GuardInstall).works(),
                read(0).faults(Fault::Unmapped),
                advise(0, 1, Advice::GuardRemove).works(),
                read(0).reads(0),
                write(0, A).works(),
                advise(0, 1, Advice::GuardInstall).works(),
                read(1).reads(B),
                advise(0, 2, Advice::DontNeed).works(),
                read(0).faults(Fault::Unmapped),
                read(1).reads(0),
                advise(0, 2, Advice::GuardRemove).works(),
                read(0).reads(0),
            ]),
        )
    });
    cases
}
