//! The scenarios by name: what the CPUs do, and in which proportion.

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
    /// Map, unmap, protect, give up, move, copy and use regions.
    pub regions: u32,
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
            + self.regions
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
    OneIsUnresponsive,
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
            regions: 0,
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
            regions: 0,
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
            regions: 0,
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
            regions: 0,
            rests: 5,
        },
        share: Share::Half,
        course: Course::ComeAndGo,
        limit: Limit::Milliseconds(5_000),
    },
    Scenario {
        name: "regions",
        summary: "regions of programs: mapped, protected, moved, migrated, copied by forks, and used meanwhile; a file",
        weights: Weights {
            frames: 6,
            waits: 0,
            objects: 0,
            changes: 0,
            probes: 0,
            switches: 2,
            sizes: 0,
            regions: 90,
            rests: 2,
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
            regions: 0,
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
            regions: 0,
            rests: 2,
        },
        share: Share::Excess,
        course: Course::Stay,
        limit: Limit::Milliseconds(5_000),
    },
    Scenario {
        name: "unresponsive",
        summary: "one CPU is unresponsive for a while: it is reported, memory waits, the others go on",
        weights: Weights {
            frames: 45,
            waits: 0,
            objects: 25,
            changes: 10,
            probes: 0,
            switches: 18,
            sizes: 0,
            regions: 0,
            rests: 2,
        },
        share: Share::Half,
        course: Course::OneIsUnresponsive,
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
            regions: 0,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scenarios_are_found_by_name() {
        for scenario in SCENARIOS {
            assert_eq!(Scenario::named(scenario.name), Some(scenario));
            assert!(scenario.weights.total() > 0);
        }
        assert_eq!(Scenario::standard().name, "stress");
    }
}
