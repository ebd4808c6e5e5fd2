//! The corner cases of the calls: errors, holes, ends of files, forks, stacks.

mod mremap;

use mremap::mremap;

use super::Case;
use super::advice::madvise;
use super::build::*;
use super::files::files;
use crate::compare::answer::{Errno, Fault};
use crate::compare::rules::{Heap, Rules, Support};
use crate::log::operation::{
    Access, Advice, At, Break, Call, Descriptor, Map, Operation, PAGE, Placement, Protection, Sample,
    Sharing, SyncFlags, Vector,
};
use crate::log::slots::TOP;

const FIRST: Descriptor = Descriptor::First;
const NONE: Protection = Protection::NONE;
const READ: Protection = Protection::READ;
const READ_WRITE: Protection = Protection::READ_WRITE;

/// Bytes that a case writes.
const A: u8 = 0x90;
const B: u8 = 0x91;
const C: u8 = 0x92;

/// Returns the corner cases for a system that follows `rules`.
pub fn corner_cases(rules: &Rules) -> Vec<Case> {
    let mut cases = Vec::new();
    cases.extend(mmap());
    cases.extend(files());
    cases.extend(munmap_and_mprotect(rules));
    cases.extend(mremap(rules));
    cases.extend(madvise(rules));
    cases.extend(brk_and_stacks(rules));
    cases.extend(looks());
    cases
}

fn at(placement: Placement<At>) -> Map<At> {
    map(0, 1).placed(placement)
}

fn mmap() -> Vec<Case> {
    let neither = Map { sharing: Sharing::Neither, ..map(0, 1) };
    vec![
        Case::new(
            "1: mmap of length 0, or neither shared nor private",
            [
                map(0, 0).call().fails(Errno::EINVAL),
                neither.call().fails(Errno::EINVAL),
                read(0).faults(Fault::Unmapped),
            ],
        ),
        Case::new(
            "2: an unaligned fixed address is an error, an unaligned hint is rounded down",
            [
                at(Placement::Fixed(At::window(2).plus(1))).call().fails(Errno::EINVAL),
                at(Placement::Hint(At::window(2).plus(1))).call().gives(Expected::Page(2)),
                at(Placement::Hint(At::window(2))).call().gives(Expected::OtherThan(2)),
                read(2).reads(0),
            ],
        ),
        Case::new(
            "3: an unaligned offset is an error for anonymous memory, too",
            [
                map(0, 1).from(1).call().fails(Errno::EINVAL),
                map(0, 1).from(PAGE).call().works(),
                map(0, 1).of(FIRST).from(100).call().fails(Errno::EINVAL),
            ],
        ),
        Case::new(
            "4: mmap of more than there are addresses",
            [
                at(Placement::Anywhere).bytes(1 << 47).call().fails(Errno::ENOMEM),
                at(Placement::Anywhere).bytes(u64::MAX).call().fails(Errno::ENOMEM),
            ],
        ),
        Case::new(
            "5: above the top mmap has no memory, munmap has a wrong argument",
            [
                at(Placement::Fixed(At::raw(1 << 47))).call().fails(Errno::ENOMEM),
                at(Placement::Fixed(At::raw(TOP))).call().fails(Errno::ENOMEM),
                Operation::Call(Call::Unmap { at: At::raw(TOP), length: 4 * PAGE }).fails(Errno::EINVAL),
            ],
        ),
        Case::new(
            "6: a place that must be unoccupied",
            [
                mapped(0, 4),
                write(1, A).works(),
                at(Placement::Unoccupied(At::window(1))).call().fails(Errno::EEXIST),
                read(1).reads(A),
                unmap(1, 1).works(),
                at(Placement::Unoccupied(At::window(1))).call().gives(Expected::Page(1)),
                read(1).reads(0),
            ],
        ),
        Case::new(
            "a fixed mapping replaces what was there",
            [
                mapped(0, 4),
                write(1, A).works(),
                write(2, B).works(),
                map(1, 1).with(READ).call().gives(Expected::Page(1)),
                read(1).reads(0),
                write(1, A).faults(Fault::Denied),
                read(2).reads(B),
            ],
        ),
    ]
}

fn munmap_and_mprotect(rules: &Rules) -> Vec<Case> {
    let length = |at: At, length: u64| Operation::Call(Call::Unmap { at, length });
    let execute_only = match rules.execute_only {
        Support::Present => read(0).faults(Fault::Denied),
        Support::Absent => read(0).reads(A),
    };
    vec![
        Case::new(
            "11: munmap of a hole, of nothing, of a part of a page",
            [
                unmap(0, 16).works(),
                unmap(0, 0).fails(Errno::EINVAL),
                length(At::window(0).plus(1), PAGE).fails(Errno::EINVAL),
                mapped(0, 3),
                length(At::window(1), 1).works(),
                read(0).reads(0),
                read(1).faults(Fault::Unmapped),
                read(2).reads(0),
            ],
        ),
        Case::new(
            "12: mprotect of nothing",
            [protect(0, 0, READ).works(), protect(0, 1, READ).fails(Errno::ENOMEM)],
        ),
        Case::new(
            "13: mprotect up to a hole",
            [
                mapped(0, 3),
                unmap(1, 1).works(),
                protect(0, 3, READ).fails(Errno::ENOMEM),
                write(0, A).faults(Fault::Denied),
                write(2, A).works(),
                protect(0, 2, READ_WRITE).fails(Errno::ENOMEM),
                write(0, A).works(),
            ],
        ),
        Case::new(
            "14: mprotect cannot permit writes to what was opened for reading",
            [
                truncate(FIRST, PAGE).works(),
                map(0, 1).of(Descriptor::FirstReadOnly).shared().with(READ).call().works(),
                map(1, 1).of(Descriptor::FirstReadOnly).with(READ).call().works(),
                protect(0, 1, READ_WRITE).fails(Errno::EACCES),
                protect(1, 1, READ_WRITE).works(),
                write(1, A).works(),
                protect(0, 1, NONE).works(),
                read(0).faults(Fault::Denied),
            ],
        ),
        Case::new(
            "15: what may not be accessed for a while keeps its contents",
            [
                mapped(0, 1),
                write(0, A).works(),
                protect(0, 1, NONE).works(),
                read(0).faults(Fault::Denied),
                execute(0).faults(Fault::Denied),
                protect(0, 1, READ_WRITE).works(),
                read(0).reads(A),
            ],
        ),
        Case::new(
            "what may be written may be read; what may be executed depends on the CPU",
            [
                mapped(0, 1),
                write(0, A).works(),
                protect(0, 1, Protection::WRITE).works(),
                read(0).reads(A),
                execute(0).faults(Fault::Denied),
                protect(0, 1, Protection::EXECUTE).works(),
                execute(0).works(),
                write(0, B).faults(Fault::Denied),
                execute_only,
                protect(0, 1, Protection(0x10)).fails(Errno::EINVAL),
            ],
        ),
    ]
}

fn brk_and_stacks(rules: &Rules) -> Vec<Case> {
    // Whether a page stays free below the next mapping.
    let beside = if rules.heap == Heap::Linux { 2 * PAGE } else { 4 * PAGE };
    let heap = |page: u32| map(0, 1).placed(Placement::Fixed(At::heap(page))).call();
    let to = |to: Break| Operation::Call(Call::Break(to));
    vec![
        Case::new(
            "28: a break below the start, into a mapping, beyond all limits",
            [
                brk(2 * PAGE).gives(Expected::Number(2 * PAGE)),
                to(Break::Below).gives(Expected::Number(2 * PAGE)),
                to(Break::TooHigh).gives(Expected::Number(2 * PAGE)),
                heap(4).works(),
                brk(16 * PAGE).gives(Expected::Number(2 * PAGE)),
                brk(4 * PAGE).gives(Expected::Number(beside)),
                brk(3 * PAGE).gives(Expected::Number(3 * PAGE)),
            ],
        ),
        Case::new(
            "29: the break need not be aligned; what comes back is zeros",
            [
                brk(3 * PAGE + 5).gives(Expected::Number(3 * PAGE + 5)),
                write_at(At::heap(0), A).works(),
                write_at(At::heap(3), A).works(),
                brk(0).gives(Expected::Number(0)),
                read_at(At::heap(0)).faults(Fault::Unmapped),
                brk(3 * PAGE).gives(Expected::Number(3 * PAGE)),
                read_at(At::heap(0)).reads(0),
                read_at(At::heap(3)).faults(Fault::Unmapped),
            ],
        ),
        Case::new(
            "30: a stack grows up to its gap, and past an inaccessible neighbour",
            [
                map(700, 1).stack().call().works(),
                mapped(700 - 260, 1),
                write(699, A).works(),
                // 256 pages lie between the neighbour and page 697, and 255 below page 696.
                write(697, A).works(),
                write(696, A).faults(Fault::Unmapped),
            ],
        ),
        Case::new(
            "30: a stack does not grow into its gap",
            [
                map(700, 1).stack().call().works(),
                mapped(700 - 256, 1),
                write(699, A).faults(Fault::Unmapped),
                protect(700 - 256, 1, NONE).works(),
                write(699, A).works(),
                map(698, 1).with(NONE).call().works(),
                write(699, B).works(),
                read(697).faults(Fault::Unmapped),
            ],
        ),
        Case::new(
            "a stack has a limit",
            [
                map(900, 1).stack().call().works(),
                write(900 - 100, A).works(),
                write(900 - 128, A).faults(Fault::Unmapped),
                write(900 - 127, A).works(),
            ],
        ),
    ]
}

fn looks() -> Vec<Case> {
    let sync = |page: u32, pages: u64, flags: SyncFlags| {
        Operation::Call(Call::Sync { at: At::window(page), length: pages * PAGE, flags })
    };
    let synchronous = SyncFlags { synchronous: true, ..SyncFlags::default() };
    let both = SyncFlags { asynchronous: true, ..synchronous };
    let resident = |page: u32, pages: u64, vector: Vector| {
        Operation::Call(Call::Resident { at: At::window(page), length: pages * PAGE, vector })
    };
    let lock =
        |page: u32, pages: u64| Operation::Call(Call::Lock { at: At::window(page), length: pages * PAGE });
    let unaligned = At::window(0).plus(1);
    vec![
        Case::new(
            "31: msync of wrong flags, of a hole, of an unaligned range",
            [
                mapped(0, 3),
                unmap(1, 1).works(),
                sync(0, 1, both).fails(Errno::EINVAL),
                sync(0, 3, synchronous).fails(Errno::ENOMEM),
                sync(0, 1, synchronous).works(),
                sync(0, 0, synchronous).works(),
                truncate(FIRST, 2 * PAGE).works(),
                map(4, 2).of(FIRST).shared().call().works(),
                write(4, A).works(),
                sync(4, 2, synchronous).works(),
                sync(4, 2, SyncFlags { asynchronous: true, ..SyncFlags::default() }).works(),
                sync(4, 2, SyncFlags { invalidate: true, ..synchronous }).works(),
                read_file(FIRST, 0).gives(Expected::Number(u64::from(A))),
                read(4).reads(A),
                Operation::Call(Call::Sync { at: unaligned, length: PAGE, flags: synchronous })
                    .fails(Errno::EINVAL),
            ],
        ),
        Case::new(
            "32: mincore of a hole, into memory that is not there",
            [
                mapped(0, 2),
                resident(0, 2, Vector::Good).works(),
                resident(0, 2, Vector::Bad).fails(Errno::EFAULT),
                resident(1, 2, Vector::Good).fails(Errno::ENOMEM),
                Operation::Call(Call::Resident { at: unaligned, length: PAGE, vector: Vector::Good })
                    .fails(Errno::EINVAL),
            ],
        ),
        Case::new(
            "mlock of a hole locks what comes before; of an unaligned range it takes whole pages",
            [
                mapped(0, 3),
                unmap(1, 1).works(),
                lock(1, 1).fails(Errno::ENOMEM),
                lock(0, 3).fails(Errno::ENOMEM),
                advise(0, 1, Advice::DontNeed).fails(Errno::EINVAL),
                advise(2, 1, Advice::DontNeed).works(),
                Operation::Call(Call::Lock { at: At::window(2).plus(1), length: 1 }).works(),
                advise(2, 1, Advice::DontNeed).fails(Errno::EINVAL),
                fork(1),
                advise(2, 1, Advice::DontNeed).works().by(1),
            ],
        ),
        Case::new(
            "a fork copies private memory and shares the rest",
            [
                mapped(0, 1),
                map(1, 1).shared().call().works(),
                write(0, A).works(),
                write(1, A).works(),
                fork(1),
                write(0, B).works().by(1),
                write(1, B).works().by(1),
                read(0).reads(A),
                read(1).reads(B),
                write_sample(0, 1, B).works(),
                read_sample(0, 1).reads(0).by(1),
            ],
        ),
        Case::new(
            "an access knows its byte",
            [
                mapped(0, 1),
                Operation::Touch { at: At::window(0), sample: Sample(7), access: Access::Write(A) }.works(),
                read_sample(0, 7).reads(A),
                read_sample(1, 0).faults(Fault::Unmapped),
            ],
        ),
    ]
}
