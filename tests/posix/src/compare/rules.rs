//! Where systems differ, and Linux's versions differ from each other.

/// Which mappings `MADV_GUARD_INSTALL` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Guards {
    /// The advice is unknown (Linux before 6.13).
    Unknown,
    /// Private anonymous memory alone (before 6.15).
    PrivateAnonymous,
    /// All mappings that are not locked.
    All,
}

/// What `mremap` moves in one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Moves {
    /// A part of one mapping; what spans several ones is an error, and the target is unmapped even
    /// if the call then fails (Linux before 6.17).
    OneMapping,
    /// A part of one mapping; what spans several ones is an error, and nothing has changed.
    OneMappingOrNothing,
    /// Any number of mappings with the holes between them, if the length stays the same and the target is
    /// given.
    Several,
}

/// What `mremap` looks at first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RemapChecks {
    /// Whether the source is mapped (Linux before 6.15).
    SourceFirst,
    /// Whether the arguments can be right.
    ArgumentsFirst,
}

/// When `brk` refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heap {
    /// Also if the page above the new end belongs to a mapping, or one of the 256 pages above to a stack; and if
    /// the heap shrinks where nothing is mapped.
    Linux,
    /// Only if the new pages belong to a mapping.
    Plain,
}

/// What a stack keeps away from by its growth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StackGap {
    /// The next mapping below, unless it is inaccessible or a stack (Linux).
    NextMapping,
    /// All pages below that can be accessed.
    AllPages,
}

/// Whether something is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Support {
    /// It is there.
    Present,
    /// It is not.
    Absent,
}

/// What a system promises where systems differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Guard pages.
    pub guards: Guards,
    /// Moves by `mremap`.
    pub moves: Moves,
    /// Errors of `mremap`.
    pub remap_checks: RemapChecks,
    /// `MADV_HUGEPAGE` and `MADV_NOHUGEPAGE`.
    pub huge_advice: Support,
    /// Mappings that can be executed and not read.
    pub execute_only: Support,
    /// `brk`.
    pub heap: Heap,
    /// Growth of stacks.
    pub stack_gap: StackGap,
    /// Whether `MADV_DONTFORK` and `MADV_WIPEONFORK` exclude each other, so that the last one counts.
    pub one_inheritance: Support,
    /// Whether populating grows stacks, as an access does.
    pub populate_grows_stacks: Support,
    /// Whether `mremap` grows and moves a range with guards and other pages as one mapping.
    pub remap_with_guards: Support,
}

impl Rules {
    /// The rules of Linux 6.18 on a CPU with protection keys.
    pub const LINUX_6_18: Rules = Rules {
        guards: Guards::All,
        moves: Moves::Several,
        remap_checks: RemapChecks::ArgumentsFirst,
        huge_advice: Support::Present,
        execute_only: Support::Present,
        heap: Heap::Linux,
        stack_gap: StackGap::NextMapping,
        one_inheritance: Support::Absent,
        populate_grows_stacks: Support::Absent,
        remap_with_guards: Support::Present,
    };

    /// The rules of topomem.
    pub const TOPOMEM: Rules = Rules {
        guards: Guards::All,
        moves: Moves::OneMappingOrNothing,
        remap_checks: RemapChecks::ArgumentsFirst,
        huge_advice: Support::Present,
        execute_only: Support::Absent,
        heap: Heap::Plain,
        stack_gap: StackGap::AllPages,
        one_inheritance: Support::Present,
        populate_grows_stacks: Support::Present,
        remap_with_guards: Support::Absent,
    };

    /// The oldest Linux whose rules are known.
    pub const OLDEST_LINUX: (u32, u32) = (6, 8);

    /// Returns the rules of a version of Linux, [`Rules::OLDEST_LINUX`] or later, apart from those that depend on its configuration or its
    /// CPU, which are as for [`Rules::LINUX_6_18`].
    pub fn of_linux(version: (u32, u32)) -> Rules {
        let guards = match version {
            version if version >= (6, 15) => Guards::All,
            version if version >= (6, 13) => Guards::PrivateAnonymous,
            _ => Guards::Unknown,
        };
        let moves = if version >= (6, 17) { Moves::Several } else { Moves::OneMapping };
        let remap_checks =
            if version >= (6, 15) { RemapChecks::ArgumentsFirst } else { RemapChecks::SourceFirst };
        Rules { guards, moves, remap_checks, ..Rules::LINUX_6_18 }
    }
}
