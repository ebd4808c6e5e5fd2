//! The corner cases of `mremap`.

use super::{A, B, C, READ};
use crate::cases::Case;
use crate::cases::build::*;
use crate::compare::answer::{Errno, Fault};
use crate::compare::rules::{Moves, RemapChecks, Rules};
use crate::log::operation::{At, Call, Descriptor, Operation, PAGE, Placement, RemapFlags};

pub(super) fn mremap(rules: &Rules) -> Vec<Case> {
    let fixed_alone = RemapFlags { may_move: false, ..MAY_MOVE };
    let unknown = RemapFlags { unknown: true, ..MAY_MOVE };
    let mut cases = vec![
        Case::new(
            "16: mremap to nothing, onto itself, to a fixed place without leave to move",
            [
                mapped(0, 4),
                remap(0, 1, 0, MAY_MOVE, None).fails(Errno::EINVAL),
                remap(0, 2, 2, MAY_MOVE, Some(1)).fails(Errno::EINVAL),
                remap(0, 1, 1, fixed_alone, Some(8)).fails(Errno::EINVAL),
                remap(0, 1, 1, unknown, Some(8)).fails(Errno::EINVAL),
                Operation::Call(Call::Remap {
                    at: At::window(0).plus(1),
                    old: PAGE,
                    new: PAGE,
                    flags: MAY_MOVE,
                    to: None,
                    slot: 0,
                })
                .fails(Errno::EINVAL),
            ],
        ),
        Case::new(
            "17: mremap of a hole, and growth of two mappings at once",
            [
                remap(0, 1, 2, MAY_MOVE, None).fails(Errno::EFAULT),
                mapped(0, 4),
                protect(1, 1, READ).works(),
                remap(0, 4, 8, MAY_MOVE, None).fails(Errno::EFAULT),
                remap(0, 4, 4, MAY_MOVE, None).gives(Expected::Page(0)),
            ],
        ),
        Case::new("mremap looks at the arguments before the source, or after it", {
            let wrong = match rules.remap_checks {
                RemapChecks::ArgumentsFirst => Errno::EINVAL,
                RemapChecks::SourceFirst => Errno::EFAULT,
            };
            [
                remap(4, 0, 2, MAY_MOVE, Some(3)).fails(wrong),
                remap(4, 2, 2, MAY_MOVE, Some(3)).fails(wrong),
                remap(4, 4, 1 << 40, MAY_MOVE, Some(8)).fails(wrong),
            ]
        }),
        Case::new(
            "mmap finds a taken place before it looks at the descriptor's mode",
            [
                mapped(0, 1),
                map(0, 1)
                    .of(Descriptor::FirstWriteOnly)
                    .placed(Placement::Unoccupied(At::window(0)))
                    .call()
                    .fails(Errno::EEXIST),
                map(1, 1)
                    .of(Descriptor::FirstWriteOnly)
                    .placed(Placement::Unoccupied(At::window(1)))
                    .call()
                    .fails(Errno::EACCES),
            ],
        ),
        Case::new(
            "18: growth in place, blocked and not",
            [
                mapped(0, 3),
                write(0, A).works(),
                resize(0, 1, 2).fails(Errno::ENOMEM),
                unmap(1, 2).works(),
                resize(0, 1, 3).gives(Expected::Page(0)),
                read(0).reads(A),
                read(2).reads(0),
                resize(0, 3, 1).gives(Expected::Page(0)),
                read(1).faults(Fault::Unmapped),
            ],
        ),
        Case::new(
            "a mapping that cannot grow in place moves, and takes its bytes along",
            [
                mapped(0, 3),
                write(0, A).works(),
                remap(0, 1, 2, MAY_MOVE, None).gives(Expected::OtherThan(0)),
                read_at(At::slot(1, 0)).reads(A),
                read_at(At::slot(1, 1)).reads(0),
                read(0).faults(Fault::Unmapped),
            ],
        ),
        Case::new(
            "a move to a fixed place replaces what is there",
            [
                mapped(0, 4),
                mapped(8, 4),
                write(0, A).works(),
                write(9, B).works(),
                remap(0, 2, 2, MAY_MOVE, Some(9)).gives(Expected::Page(9)),
                read(9).reads(A),
                read(10).reads(0),
                read(0).faults(Fault::Unmapped),
                read(2).reads(0),
            ],
        ),
        Case::new(
            "19: an old length of 0 is a second mapping of what is shared",
            [
                map(0, 1).shared().call().works(),
                mapped(2, 1),
                write(0, A).works(),
                remap(0, 0, 1, MAY_MOVE, None).gives(Expected::OtherThan(0)),
                write(0, B).works(),
                read_at(At::slot(1, 0)).reads(B),
                remap(2, 0, 1, MAY_MOVE, None).fails(Errno::EINVAL),
                resize(0, 0, 1).fails(Errno::ENOMEM),
            ],
        ),
        Case::new(
            "20: a private source that stays belongs to its mapping, and to the children's",
            [
                mapped(0, 3),
                mapped(8, 4),
                write(0, A).works(),
                write(1, A).works(),
                write(9, B).works(),
                remap(1, 1, 1, KEEP, Some(9)).gives(Expected::Page(9)),
                read(9).reads(A),
                read(10).reads(0),
                read(0).reads(A),
                read(1).reads(0),
                fork(1),
                write(1, B).works().by(1),
                write(9, C).works().by(1),
                read(1).reads(0),
                read(9).reads(A),
                write(1, C).works(),
                protect(0, 3, READ).works(),
                read(1).reads(C),
                write(1, B).faults(Fault::Denied),
                remap(4, 1, 1, KEEP, None).fails(Errno::EFAULT),
                remap(0, 1, 1, KEEP, Some(0)).fails(Errno::EINVAL),
            ],
        ),
        Case::new(
            "20: a source that stays is empty, and the length cannot change",
            [
                mapped(0, 2),
                write(0, A).works(),
                remap(0, 2, 1, KEEP, None).fails(Errno::EINVAL),
                remap(0, 2, 4, KEEP, None).fails(Errno::EINVAL),
                remap(0, 2, 2, KEEP, None).gives(Expected::OtherThan(0)),
                read_at(At::slot(1, 0)).reads(A),
                read(0).reads(0),
                map(4, 1).shared().call().works(),
                write(4, B).works(),
                remap(4, 1, 1, KEEP, Some(6)).gives(Expected::Page(6)),
                read(6).reads(B),
                read(4).reads(B),
            ],
        ),
        Case::new(
            "21: shared memory that grew has nothing behind its end",
            [
                map(0, 1).shared().call().works(),
                write(0, A).works(),
                resize(0, 1, 3).gives(Expected::Page(0)),
                read(0).reads(A),
                read(2).faults(Fault::BeyondEnd),
            ],
        ),
        Case::new(
            "a stack can grow up",
            [map(0, 1).stack().call().works(), resize(0, 1, 2).gives(Expected::Page(0)), write(1, A).works()],
        ),
    ];
    let prepared = [
        mapped(0, 4),
        protect(2, 1, READ).works(),
        write(0, A).works(),
        unmap(1, 1).works(),
        mapped(8, 8),
        write(9, B).works(),
    ];
    cases.push(match rules.moves {
        Moves::Several => Case::new(
            "several mappings and holes move at once; the target stays under a hole",
            prepared.into_iter().chain([
                remap(0, 4, 4, MAY_MOVE, Some(8)).gives(Expected::Page(8)),
                read(8).reads(A),
                read(9).reads(B),
                write(10, A).faults(Fault::Denied),
                write(11, A).works(),
                read(0).faults(Fault::Unmapped),
                read(3).faults(Fault::Unmapped),
            ]),
        ),
        Moves::OneMapping | Moves::OneMappingOrNothing => Case::new(
            "several mappings do not move at once (Linux before 6.17)",
            prepared
                .into_iter()
                .chain([remap(0, 4, 4, MAY_MOVE, Some(8)).fails(Errno::EFAULT), read(0).reads(A)]),
        ),
    });
    cases.push(Case::new(
        "a move that begins in a hole",
        [
            mapped(0, 4),
            unmap(0, 1).works(),
            mapped(8, 4),
            write(8, B).works(),
            remap(0, 4, 4, MAY_MOVE, Some(8)).fails(Errno::EFAULT),
            read(8).reads(B),
        ],
    ));
    cases
}
