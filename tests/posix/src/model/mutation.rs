//! Deliberate errors.

/// An error of the model that the comparison has to find.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names say what goes wrong")]
pub enum Mutation {
    AnonymousDontNeedKeepsBytes,
    FileDontNeedKeepsBytes,
    ForkSharesPrivatePages,
    ForkCopiesSharedPages,
    ForkIgnoresDontFork,
    ForkIgnoresWipeOnFork,
    ProtectGoesOnBeyondHole,
    ProtectChecksHolesFirst,
    TailOfLastPageShowsBytes,
    TruncationKeepsPrivateCopies,
    RemapLeavesSource,
    RemapLosesBytes,
    RemapClearsTargetUnderHole,
    KeptSourceKeepsBytes,
    FixedKeepsOldBytes,
    UnmapLeavesLastPage,
    BreakKeepsBytes,
    BreakNeedsNoGap,
    StackGrowsIntoGap,
    StackRespectsInaccessibleNeighbour,
    GuardKeepsBytes,
    GuardGoesWithDontNeed,
    PrivateWritesReachFile,
    PopulateCopiesNothing,
    LockedDontNeedIsAllowed,
    BeyondEndIsDenied,
}

impl Mutation {
    /// All of them.
    pub const ALL: [Mutation; 26] = [
        Mutation::AnonymousDontNeedKeepsBytes,
        Mutation::FileDontNeedKeepsBytes,
        Mutation::ForkSharesPrivatePages,
        Mutation::ForkCopiesSharedPages,
        Mutation::ForkIgnoresDontFork,
        Mutation::ForkIgnoresWipeOnFork,
        Mutation::ProtectGoesOnBeyondHole,
        Mutation::ProtectChecksHolesFirst,
        Mutation::TailOfLastPageShowsBytes,
        Mutation::TruncationKeepsPrivateCopies,
        Mutation::RemapLeavesSource,
        Mutation::RemapLosesBytes,
        Mutation::RemapClearsTargetUnderHole,
        Mutation::KeptSourceKeepsBytes,
        Mutation::FixedKeepsOldBytes,
        Mutation::UnmapLeavesLastPage,
        Mutation::BreakKeepsBytes,
        Mutation::BreakNeedsNoGap,
        Mutation::StackGrowsIntoGap,
        Mutation::StackRespectsInaccessibleNeighbour,
        Mutation::GuardKeepsBytes,
        Mutation::GuardGoesWithDontNeed,
        Mutation::PrivateWritesReachFile,
        Mutation::PopulateCopiesNothing,
        Mutation::LockedDontNeedIsAllowed,
        Mutation::BeyondEndIsDenied,
    ];
}
