//! What can be broken by name: `--break`.

use topomem::TlbFeatures;

/// A mechanism to break, so that a run must fail: `--break`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Break {
    /// The interrupt handler acknowledges without flushing.
    Shootdown,
    /// CPUs acknowledge a shootdown at once, and flush for it with the next.
    Acknowledge,
    /// CPUs skip what the log of invalidations has lost.
    Overrun,
    /// CPUs come online without a flush.
    Online,
    /// CPUs that cease to be lazy look for what they missed before they say so.
    Switch,
    /// CPUs answer by one flag each, which the next sender resets.
    Flag,
    /// An interrupt that finds nothing to do acknowledges what comes next.
    Spurious,
    /// Lazy CPUs are not interrupted where page tables are freed either.
    Lazy,
    /// CPUs that wait for a shootdown serve none meanwhile.
    Poll,
    /// No CPU is reported for not answering.
    Unreported,
    /// A CPU that was reported counts as done.
    GiveUp,
    /// Shootdowns of user spaces wait for those of the kernel's.
    Serial,
    /// A change claims its generation when it is announced, not with its page-table entries locked.
    Announce,
    /// A change that finds nothing to change waits for nothing.
    Nested,
    /// CPUs return to a space that they left without comparing generations.
    Asid,
    /// CPUs give an ASID to another space without a flush.
    Reuse,
    /// Where tables of the kernel are freed, CPUs keep the ways to them of other ASIDs.
    Ways,
    /// CPUs don't wait for their broadcasts.
    Broadcast,
    /// Magazines hand out frames twice.
    Magazine,
    /// The allocator believes that far memory is near.
    Distance,
    /// The pools of zeroed frames hold frames as they are.
    Zeroed,
    /// Faults put copies in the place of shared pages, and tell no TLB.
    CowWithoutFlush,
    /// The frame of zeros that all spaces share may be written.
    ZeroPageWritable,
    /// Faults look at a page's region before they claim its entry, and not again.
    FaultAfterUnmap,
    /// Writes to shared pages get the frame itself.
    ReuseWithSharer,
    /// Forks take the permission to write, and tell no TLB.
    ForkWithoutFlush,
    /// Pages that are given up are freed, and no TLB is told.
    DontNeedWithoutFlush,
    /// No TLB is told of what is not permitted any more.
    MprotectWithoutFlush,
    /// Moves claim their generation after they have released their entries.
    MremapFlushLate,
    /// Pages move to other nodes, and no TLB is told.
    MigrateWithoutFlush,
    /// Pages of files count as clean when they are written back, and stay writable.
    LostDirtyBit,
    /// Pages show what their frames held before.
    UnzeroedMemory,
    /// Addresses of ranges are handed out before every CPU has acknowledged that they were unmapped.
    RangesReusedEarly,
    /// A CPU forgets a frame that it holds.
    LeakFrame,
    /// A CPU forgets an object that it holds.
    LeakObject,
}

impl Break {
    /// All of them.
    pub const ALL: [Break; 35] = [
        Break::Shootdown,
        Break::Acknowledge,
        Break::Overrun,
        Break::Online,
        Break::Switch,
        Break::Flag,
        Break::Spurious,
        Break::Lazy,
        Break::Poll,
        Break::Unreported,
        Break::GiveUp,
        Break::Serial,
        Break::Announce,
        Break::Nested,
        Break::Asid,
        Break::Reuse,
        Break::Ways,
        Break::Broadcast,
        Break::Magazine,
        Break::Distance,
        Break::Zeroed,
        Break::CowWithoutFlush,
        Break::ZeroPageWritable,
        Break::FaultAfterUnmap,
        Break::ReuseWithSharer,
        Break::ForkWithoutFlush,
        Break::DontNeedWithoutFlush,
        Break::MprotectWithoutFlush,
        Break::MremapFlushLate,
        Break::MigrateWithoutFlush,
        Break::LostDirtyBit,
        Break::UnzeroedMemory,
        Break::RangesReusedEarly,
        Break::LeakFrame,
        Break::LeakObject,
    ];

    /// What `--break` calls it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Break::Shootdown => "shootdown",
            Break::Acknowledge => "acknowledge",
            Break::Overrun => "overrun",
            Break::Online => "online",
            Break::Switch => "switch",
            Break::Flag => "flag",
            Break::Spurious => "spurious",
            Break::Lazy => "lazy",
            Break::Poll => "poll",
            Break::Unreported => "unreported",
            Break::GiveUp => "give-up",
            Break::Serial => "serial",
            Break::Announce => "announce",
            Break::Nested => "nested",
            Break::Asid => "asid",
            Break::Reuse => "reuse",
            Break::Ways => "ways",
            Break::Broadcast => "broadcast",
            Break::Magazine => "magazine",
            Break::Distance => "distance",
            Break::Zeroed => "zeroed",
            Break::CowWithoutFlush => "cow-without-flush",
            Break::ZeroPageWritable => "zero-page-writable",
            Break::FaultAfterUnmap => "fault-after-unmap",
            Break::ReuseWithSharer => "reuse-with-sharer",
            Break::ForkWithoutFlush => "fork-without-flush",
            Break::DontNeedWithoutFlush => "dontneed-without-flush",
            Break::MprotectWithoutFlush => "mprotect-without-flush",
            Break::MremapFlushLate => "mremap-flush-late",
            Break::MigrateWithoutFlush => "migrate-without-flush",
            Break::LostDirtyBit => "lost-dirty-bit",
            Break::UnzeroedMemory => "unzeroed-memory",
            Break::RangesReusedEarly => "ranges-reused-early",
            Break::LeakFrame => "leak-frame",
            Break::LeakObject => "leak-object",
        }
    }

    /// Has a machine with `features` what is to be broken?
    #[must_use]
    pub const fn is_possible(self, features: TlbFeatures) -> bool {
        match self {
            Break::Asid | Break::Reuse | Break::Ways => features.asids() != 0,
            Break::Broadcast => features.broadcast_pages().is_some(),
            _ => true,
        }
    }

    /// Can it make a CPU wait for another in vain, which the run has to notice soon? Other faults have waiters
    /// with a longer timeout: on a busy host a thread that plays a CPU may get no time for half a second.
    #[cfg(feature = "sim")]
    pub(crate) const fn stops_cpus(self) -> bool {
        matches!(self, Break::Flag | Break::Poll | Break::Unreported | Break::GiveUp | Break::Serial)
    }

    /// Breaks what is broken by a fault inside `service`. [`Break::Distance`] is not: the service
    /// has to boot from [distorted tables](crate::distort_distances). Nor are the leaks: the boot CPU's
    /// worker forgets something at the end.
    #[cfg(feature = "fault-injection")]
    pub fn inject<P: topomem::Machine>(self, service: &topomem::MemoryService<P>) {
        use topomem::{Fault, frames, shootdown};
        let break_space = |fault| service.inject(Some(fault));
        let break_shootdown = |fault| service.shootdown().inject(Some(fault));
        match self {
            Break::Shootdown => break_shootdown(shootdown::Fault::SkipFlush),
            Break::Acknowledge => break_shootdown(shootdown::Fault::FlushLater),
            Break::Overrun => break_shootdown(shootdown::Fault::DropOnOverrun),
            Break::Online => break_shootdown(shootdown::Fault::OnlineWithoutFlush),
            Break::Switch => break_shootdown(shootdown::Fault::ReadGenerationFirst),
            Break::Flag => break_shootdown(shootdown::Fault::OneFlag),
            Break::Spurious => break_shootdown(shootdown::Fault::CountInterrupts),
            Break::Lazy => break_shootdown(shootdown::Fault::SpareLazy),
            Break::Poll => break_shootdown(shootdown::Fault::WaitWithoutPolling),
            Break::Unreported => break_shootdown(shootdown::Fault::NeverReport),
            Break::GiveUp => break_shootdown(shootdown::Fault::GiveUp),
            Break::Serial => break_shootdown(shootdown::Fault::OneAtATime),
            Break::Announce => break_shootdown(shootdown::Fault::RecordUnlocked),
            Break::Nested => break_shootdown(shootdown::Fault::OwnChangeOnly),
            Break::Asid => break_shootdown(shootdown::Fault::KeepStaleAsid),
            Break::Reuse => break_shootdown(shootdown::Fault::ReuseUnflushed),
            Break::Ways => {
                // Else the pages of a freed table are too many to be flushed singly anyhow.
                service.shootdown().set_threshold(u64::MAX);
                break_shootdown(shootdown::Fault::MissOtherAsids);
            }
            Break::Broadcast => break_shootdown(shootdown::Fault::BroadcastUnsynced),
            Break::Magazine => service.frames().inject(frames::Fault::MagazineDuplicates),
            Break::Zeroed => service.frames().inject(frames::Fault::UnzeroedPools),
            Break::CowWithoutFlush => break_space(Fault::CowWithoutFlush),
            Break::ZeroPageWritable => break_space(Fault::ZeroPageWritable),
            Break::FaultAfterUnmap => break_space(Fault::FaultAfterUnmap),
            Break::ReuseWithSharer => break_space(Fault::ReuseWithSharer),
            Break::ForkWithoutFlush => break_space(Fault::ForkWithoutFlush),
            Break::DontNeedWithoutFlush => break_space(Fault::DontNeedWithoutFlush),
            Break::MprotectWithoutFlush => break_space(Fault::MprotectWithoutFlush),
            Break::MremapFlushLate => break_space(Fault::MremapFlushLate),
            Break::MigrateWithoutFlush => break_space(Fault::MigrateWithoutFlush),
            Break::LostDirtyBit => break_space(Fault::LostDirtyBit),
            Break::UnzeroedMemory => break_space(Fault::UnzeroedMemory),
            Break::RangesReusedEarly => break_space(Fault::RangesReusedEarly),
            Break::Distance | Break::LeakFrame | Break::LeakObject => {}
        }
    }

    /// The fault called `name`.
    #[must_use]
    pub fn named(name: &str) -> Option<Break> {
        Break::ALL.into_iter().find(|fault| fault.name() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_found_by_name() {
        for fault in Break::ALL {
            assert_eq!(Break::named(fault.name()), Some(fault));
        }
        assert_eq!(Break::named("nothing"), None);
    }
}
