//! The scenarios by name: what the CPUs do, and in which proportion.

use topomem::TlbFeatures;

/// How long a run lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// So many milliseconds.
    Milliseconds(u64),
    /// So many operations on each CPU: the same work every time.
    Operations(u64),
}

/// How often each kind of operation is drawn, relative to the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Weights {
    /// Allocate a run of frames, keep it, send it to another CPU or free it.
    pub frames: u32,
    /// Await a frame.
    pub waits: u32,
    /// The same as `frames` with heap objects.
    pub objects: u32,
    /// Map, unmap, remap or protect a page of a shared address space.
    pub changes: u32,
    /// Read and write pages of a shared address space.
    pub probes: u32,
    /// Switch to another address space.
    pub switches: u32,
    /// Cut and promote a large page, or read another CPU's.
    pub sizes: u32,
    /// Idle for a moment.
    pub rests: u32,
}

impl Weights {
    /// Their sum.
    #[must_use]
    pub const fn total(&self) -> u32 {
        self.frames
            + self.waits
            + self.objects
            + self.changes
            + self.probes
            + self.switches
            + self.sizes
            + self.rests
    }
}

/// How much of the machine's memory the CPUs may hold together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// Half: allocations fail for lack of contiguous frames at most.
    Half,
    /// A quarter more than there is: memory runs out, and CPUs wait for each other's frees.
    Excess,
}

impl Share {
    /// This share of `frames`.
    #[must_use]
    pub const fn of(self, frames: u64) -> u64 {
        match self {
            Share::Half => frames / 2,
            Share::Excess => frames + frames / 4,
        }
    }
}

/// What becomes of the CPUs during a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Course {
    /// All stay.
    Stay,
    /// Each goes off now and then and comes back; at least one stays.
    ComeAndGo,
    /// The last one answers no shootdown until it has been reported, while the boot CPU waits for
    /// it and the others go on.
    OneIsDeaf,
}

/// What all CPUs run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scenario {
    /// What `--scenario` calls it.
    pub name: &'static str,
    /// One line for `--help`.
    pub summary: &'static str,
    /// The mix.
    pub weights: Weights,
    /// How much memory it takes.
    pub share: Share,
    /// Who is there.
    pub course: Course,
    /// Its length, unless the user says otherwise.
    pub limit: Limit,
}

/// All scenarios; the first is the default.
pub static SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "stress",
        summary: "frames, heap, mappings and shootdowns on all CPUs",
        weights: Weights {
            frames: 30,
            waits: 4,
            objects: 20,
            changes: 12,
            probes: 30,
            switches: 6,
            sizes: 0,
            rests: 2,
        },
        share: Share::Half,
        course: Course::ComeAndGo,
        limit: Limit::Milliseconds(10_000),
    },
    Scenario {
        name: "frames",
        summary: "only frames: all orders and policies, freed across CPUs",
        weights: Weights {
            frames: 94,
            waits: 4,
            objects: 0,
            changes: 0,
            probes: 0,
            switches: 0,
            sizes: 0,
            rests: 2,
        },
        share: Share::Half,
        course: Course::Stay,
        limit: Limit::Milliseconds(5_000),
    },
    Scenario {
        name: "shootdown",
        summary: "only shared mappings: change, shoot down, read",
        weights: Weights {
            frames: 0,
            waits: 0,
            objects: 0,
            changes: 30,
            probes: 57,
            switches: 8,
            sizes: 0,
            rests: 5,
        },
        share: Share::Half,
        course: Course::ComeAndGo,
        limit: Limit::Milliseconds(5_000),
    },
    Scenario {
        name: "sizes",
        summary: "only large pages: cut, promoted and unmapped while other CPUs read them",
        weights: Weights {
            frames: 0,
            waits: 0,
            objects: 0,
            changes: 0,
            probes: 0,
            switches: 10,
            sizes: 85,
            rests: 5,
        },
        share: Share::Half,
        course: Course::ComeAndGo,
        limit: Limit::Milliseconds(5_000),
    },
    Scenario {
        name: "heap",
        summary: "only heap objects, freed across CPUs",
        weights: Weights {
            frames: 0,
            waits: 0,
            objects: 98,
            changes: 0,
            probes: 0,
            switches: 0,
            sizes: 0,
            rests: 2,
        },
        share: Share::Half,
        course: Course::Stay,
        limit: Limit::Milliseconds(5_000),
    },
    Scenario {
        name: "pressure",
        summary: "frames until there are none, and waiting for them",
        weights: Weights {
            frames: 60,
            waits: 38,
            objects: 0,
            changes: 0,
            probes: 0,
            switches: 0,
            sizes: 0,
            rests: 2,
        },
        share: Share::Excess,
        course: Course::Stay,
        limit: Limit::Milliseconds(5_000),
    },
    Scenario {
        name: "unresponsive",
        summary: "one CPU is deaf for a while: it is reported, memory waits, the others go on",
        weights: Weights {
            frames: 45,
            waits: 0,
            objects: 25,
            changes: 10,
            probes: 0,
            switches: 18,
            sizes: 0,
            rests: 2,
        },
        share: Share::Half,
        course: Course::OneIsDeaf,
        limit: Limit::Milliseconds(5_000),
    },
    Scenario {
        name: "smoke",
        summary: "a little of everything, the same amount every time",
        weights: Weights {
            frames: 30,
            waits: 4,
            objects: 20,
            changes: 15,
            probes: 25,
            switches: 8,
            sizes: 0,
            rests: 2,
        },
        share: Share::Half,
        course: Course::Stay,
        limit: Limit::Operations(400),
    },
];

impl Scenario {
    /// The scenario called `name`.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Scenario> {
        SCENARIOS.iter().find(|scenario| scenario.name == name)
    }

    /// The default.
    #[must_use]
    pub fn standard() -> &'static Scenario {
        &SCENARIOS[0]
    }
}

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
}

impl Break {
    /// All of them.
    pub const ALL: [Break; 19] = [
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
        Break::Asid,
        Break::Reuse,
        Break::Ways,
        Break::Broadcast,
        Break::Magazine,
        Break::Distance,
        Break::Zeroed,
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
            Break::Asid => "asid",
            Break::Reuse => "reuse",
            Break::Ways => "ways",
            Break::Broadcast => "broadcast",
            Break::Magazine => "magazine",
            Break::Distance => "distance",
            Break::Zeroed => "zeroed",
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

    /// Breaks what is broken by a fault inside `service`. [`Break::Distance`] is not: the service
    /// has to boot from [distorted tables](crate::distort_distances).
    #[cfg(feature = "fault-injection")]
    pub(crate) fn inject<P: topomem::Machine>(self, service: &topomem::MemoryService<P>) {
        use topomem::{frames, shootdown};
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
            Break::Distance => {}
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
    fn scenarios_and_faults_are_found_by_name() {
        for scenario in SCENARIOS {
            assert_eq!(Scenario::named(scenario.name), Some(scenario));
            assert!(scenario.weights.total() > 0);
        }
        assert_eq!(Scenario::standard().name, "stress");
        for fault in Break::ALL {
            assert_eq!(Break::named(fault.name()), Some(fault));
        }
        assert_eq!(Break::named("nothing"), None);
    }
}
