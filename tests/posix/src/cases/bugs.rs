//! Known errors of other systems, as far as a program of one thread can ask for them.
//!
//! The errors needed two CPUs at once in most cases. The logs are the orders of events that went wrong.

use super::Case;
use super::build::*;
use crate::compare::answer::{Errno, Fault};
use crate::compare::rules::{Guards, Rules, StackGap, Support};
use crate::log::operation::{Advice, Descriptor, PAGE, Protection};

const FIRST: Descriptor = Descriptor::First;
const READ: Protection = Protection::READ;
const READ_WRITE: Protection = Protection::READ_WRITE;

const A: u8 = 0x90;
const B: u8 = 0x91;
const C: u8 = 0x92;

/// Returns the cases for a system that follows `rules`.
pub fn bug_cases(rules: &Rules) -> Vec<Case> {
    // The upper part of a stack is a stack of its own, with the lower part below it.
    let grown = match rules.stack_gap {
        StackGap::NextMapping => read(695).reads(0),
        StackGap::AllPages => read(695).faults(Fault::Unmapped),
    };
    let mut cases = vec![
        Case::new(
            "stale translation after mremap (CVE-2018-18281): the old address must not write the moved page",
            [
                mapped(0, 2),
                write(0, A).works(),
                write(1, A).works(),
                remap(0, 2, 2, MAY_MOVE, Some(8)).works(),
                write(0, B).faults(Fault::Unmapped),
                mapped(0, 2),
                write(0, B).works(),
                read(8).reads(A),
                truncate(FIRST, PAGE).works(),
                map(16, 1).of(FIRST).shared().call().works(),
                write(16, A).works(),
                remap(16, 1, 1, MAY_MOVE, Some(18)).works(),
                truncate(FIRST, 0).works(),
                read(16).faults(Fault::Unmapped),
                read(18).faults(Fault::BeyondEnd),
            ],
        ),
        Case::new(
            "stale translation of a file page (CVE-2022-39188): unmapped, then the file shrinks and grows",
            [
                truncate(FIRST, 2 * PAGE).works(),
                map(0, 2).of(FIRST).shared().call().works(),
                map(4, 2).of(FIRST).shared().call().works(),
                write(1, A).works(),
                unmap(0, 2).works(),
                truncate(FIRST, PAGE).works(),
                read(5).faults(Fault::BeyondEnd),
                truncate(FIRST, 2 * PAGE).works(),
                read(5).reads(0),
                write(1, B).faults(Fault::Unmapped),
                read(5).reads(0),
            ],
        ),
        Case::new(
            "mremap that trusts an earlier look (CVE-2024-50066): what was replaced meanwhile moves",
            [
                mapped(0, 2),
                write(0, A).works(),
                map(0, 2).shared().call().works(),
                write(0, B).works(),
                remap(0, 2, 2, MAY_MOVE, Some(8)).works(),
                fork(1),
                write(8, C).works().by(1),
                read(8).reads(C),
            ],
        ),
        Case::new(
            "copy-on-write after a split of a large page (CVE-2020-29368): a child's page is its own",
            [
                map(0, 1024).call().works(),
                write(0, A).works(),
                write(600, A).works(),
                fork(1),
                advise(512, 16, Advice::DontNeed).works(),
                protect(599, 2, READ).works(),
                protect(599, 2, READ_WRITE).works(),
                write(600, B).works(),
                read(600).reads(A).by(1),
                write(0, C).works().by(1),
                read(0).reads(A),
            ],
        ),
        Case::new(
            "DONTNEED that misses pages: none keeps its bytes, also under another protection",
            [
                mapped(0, 8),
                write(0, A).works(),
                write(5, A).works(),
                protect(4, 4, READ).works(),
                advise(0, 8, Advice::DontNeed).works(),
                read(0).reads(0),
                read(5).reads(0),
            ],
        ),
        Case::new(
            "Dirty COW (CVE-2016-5195): after DONTNEED a write goes to a copy, not to the file",
            [
                truncate(FIRST, PAGE).works(),
                write_file(FIRST, 0, A).works(),
                map(0, 1).of(Descriptor::FirstReadOnly).call().works(),
                write(0, B).works(),
                advise(0, 1, Advice::DontNeed).works(),
                advise(0, 1, Advice::PopulateWrite).works(),
                advise(0, 1, Advice::DontNeed).works(),
                write(0, C).works(),
                read_file(FIRST, 0).gives(Expected::Number(u64::from(A))),
                read(0).reads(C),
            ],
        ),
        Case::new(
            "the huge zero page was written (CVE-2017-1000405): other pages still read zeros",
            [
                map(0, 1024).call().works(),
                advise(0, 1024, Advice::HugePage).gives(Expected::Success),
                read(0).reads(0),
                read(512).reads(0),
                write(0, A).works(),
                read(512).reads(0),
                advise(0, 1024, Advice::DontNeed).works(),
                read(0).reads(0),
                write(512, B).works(),
                read(0).reads(0),
            ],
        ),
        Case::new(
            "a stack's growth beside its end (CVE-2023-3269): the pages in between are its own",
            [
                map(700, 2).stack().call().works(),
                write(690, A).works(),
                unmap(695, 1).works(),
                grown,
                read(690).reads(A),
                protect(690, 5, READ).works(),
                write(689, A).faults(Fault::Denied),
                read(689).reads(0),
            ],
        ),
        Case::new(
            "FreeBSD's stale mapping after copy-on-write: a forked page has one writer at a time",
            [
                mapped(0, 1),
                write(0, A).works(),
                fork(1),
                write(0, B).works(),
                read(0).reads(A).by(1),
                fork(2),
                write(0, C).works().by(2),
                read(0).reads(B),
                read(0).reads(A).by(1),
                write(0, C).works(),
                read(0).reads(A).by(1),
            ],
        ),
        Case::new(
            "a page that was shared in turn: no write of one process shows in another",
            [
                mapped(0, 1),
                write(0, A).works(),
                fork(1),
                fork(2).by(1),
                write_sample(0, 1, A).works().by(2),
                write_sample(0, 2, B).works().by(1),
                write_sample(0, 3, C).works(),
                read_sample(0, 1).reads(0),
                read_sample(0, 2).reads(0),
                read_sample(0, 1).reads(0).by(1),
                read_sample(0, 3).reads(0).by(1),
                read_sample(0, 2).reads(0).by(2),
                read_sample(0, 3).reads(0).by(2),
            ],
        ),
    ];
    if rules.guards != Guards::Unknown {
        let moves = match rules.remap_with_guards {
            Support::Present => vec![remap(0, 2, 2, MAY_MOVE, Some(8)).works()],
            Support::Absent => vec![
                remap(0, 2, 2, MAY_MOVE, Some(8)).fails(Errno::EFAULT),
                remap(0, 1, 1, MAY_MOVE, Some(8)).works(),
                remap(1, 1, 1, MAY_MOVE, Some(9)).works(),
            ],
        };
        let prepared = [mapped(0, 2), write(1, A).works(), advise(0, 1, Advice::GuardInstall).works()];
        cases.push(Case::new(
            "guards move with mremap, and go to a child",
            prepared.into_iter().chain(moves).chain([
                read(8).faults(Fault::Unmapped),
                read(9).reads(A),
                fork(1),
                read(8).faults(Fault::Unmapped).by(1),
                advise(8, 1, Advice::GuardRemove).works().by(1),
                read(8).reads(0).by(1),
                read(8).faults(Fault::Unmapped),
            ]),
        ));
        cases.push(Case::new(
            "a child inherits no guards where it inherits no contents",
            [
                mapped(0, 2),
                advise(0, 1, Advice::GuardInstall).works(),
                advise(0, 2, Advice::WipeOnFork).works(),
                fork(1),
                write(0, A).works().by(1),
                read(0).faults(Fault::Unmapped),
            ],
        ));
        cases.push(Case::new(
            "pages that are added behind a guard, or below one, are no guards",
            [
                mapped(0, 2),
                advise(0, 2, Advice::GuardInstall).works(),
                resize(1, 1, 3).gives(Expected::Page(1)),
                read(1).faults(Fault::Unmapped),
                read(2).reads(0),
                map(700, 2).stack().call().works(),
                advise(700, 2, Advice::GuardInstall).works(),
                write(698, A).works(),
                read(699).reads(0),
                read(700).faults(Fault::Unmapped),
            ],
        ));
    }
    cases
}
