//! What a system can do.

use crate::compare::rules::Support;
use crate::log::operation::{Advice, Call, Map, Operation, PAGE, Protection, RemapFlags, Sharing, Source};
use crate::log::{Log, Step};

/// The operations that a system has. Logs are adapted to it, so that they ask for nothing else.
#[derive(Debug, Clone, Copy)]
pub struct Scope {
    /// The protections of mappings.
    pub protections: &'static [Protection],
    /// The advice.
    pub advice: &'static [Advice],
    /// Files and shared memory.
    pub objects: Support,
    /// Mappings that grow down.
    pub stacks: Support,
    /// `mremap`.
    pub remap: Support,
    /// `MREMAP_DONTUNMAP`.
    pub kept_sources: Support,
    /// Processes that fork.
    pub forks: Support,
    /// `msync` and `mincore`.
    pub looks: Support,
    /// `mlock` and `munlock`.
    pub locks: Support,
    /// `brk`.
    pub heap: Support,
}

impl Scope {
    /// What topomem has.
    pub const TOPOMEM: Scope = Scope {
        protections: &[Protection::NONE, Protection::READ, Protection::READ_WRITE, Protection(5)],
        advice: &[
            Advice::DontNeed,
            Advice::DontNeedLocked,
            Advice::Free,
            Advice::Remove,
            Advice::DontFork,
            Advice::DoFork,
            Advice::WipeOnFork,
            Advice::KeepOnFork,
            Advice::HugePage,
            Advice::NoHugePage,
            Advice::GuardInstall,
            Advice::GuardRemove,
            Advice::PopulateRead,
            Advice::PopulateWrite,
            Advice::Unknown,
        ],
        objects: Support::Present,
        stacks: Support::Present,
        remap: Support::Present,
        kept_sources: Support::Present,
        forks: Support::Present,
        looks: Support::Present,
        locks: Support::Absent,
        heap: Support::Present,
    };

    /// What topomem has of private anonymous memory.
    pub const WITHOUT_OBJECTS: Scope = Scope { objects: Support::Absent, ..Scope::TOPOMEM };

    /// What topomem has of memory that is not executed.
    pub const WITHOUT_EXECUTION: Scope = Scope {
        protections: &[Protection::NONE, Protection::READ, Protection::READ_WRITE],
        ..Scope::TOPOMEM
    };

    /// Returns `log` with operations that the system has in place of others, or without these.
    #[must_use]
    pub fn adapt(&self, log: &Log) -> Log {
        let adapted = |&Step(by, operation): &Step| Some(Step(by, self.operation(operation)?));
        Log { steps: log.steps.iter().filter_map(adapted).collect() }
    }

    /// Tells whether the system has all operations of `log`.
    pub fn has(&self, log: &Log) -> bool {
        self.adapt(log) == *log
    }

    fn operation(&self, operation: Operation) -> Option<Operation> {
        let present = |support: Support| (support == Support::Present).then_some(operation);
        match operation {
            Operation::Fork(_) | Operation::Exit => present(self.forks),
            Operation::Touch { .. } | Operation::Inspect => Some(operation),
            Operation::Call(call) => match call {
                Call::Map(map) => Some(Operation::Call(Call::Map(self.map(map)))),
                Call::Protect { at, length, protection } => {
                    let protection = self.protection(protection);
                    Some(Operation::Call(Call::Protect { at, length, protection }))
                }
                // A second mapping of shared memory.
                Call::Remap { old: 0, .. } => present(self.objects),
                Call::Remap { at, old, new, flags, to, slot } => {
                    let keep_source = flags.keep_source && self.kept_sources == Support::Present;
                    let flags = RemapFlags { keep_source, ..flags };
                    let call = Operation::Call(Call::Remap { at, old, new, flags, to, slot });
                    present(self.remap).map(|_| call)
                }
                Call::Advise { advice, .. } => self.advice.contains(&advice).then_some(operation),
                Call::Sync { .. } | Call::Resident { .. } => present(self.looks),
                Call::Lock { .. } | Call::Unlock { .. } => present(self.locks),
                Call::WriteFile { .. } | Call::ReadFile { .. } | Call::Truncate { .. } => {
                    present(self.objects)
                }
                Call::Break(_) => present(self.heap),
                Call::Unmap { .. } => Some(operation),
            },
        }
    }

    fn map<A: Copy>(&self, map: Map<A>) -> Map<A> {
        let protection = self.protection(map.protection);
        let map = Map { protection, ..map };
        let has_objects = self.objects == Support::Present;
        let is_plain = map.source == Source::Anonymous && map.sharing == Sharing::Private;
        let map = if has_objects || is_plain {
            map
        } else {
            Map { source: Source::Anonymous, sharing: Sharing::Private, offset: map.offset % PAGE, ..map }
        };
        Map { grows_down: map.grows_down && self.stacks == Support::Present, ..map }
    }

    /// Returns the protection, or the greatest one that the system has and that permits no more.
    fn protection(&self, protection: Protection) -> Protection {
        let permitted = self.protections.iter().filter(|&&other| protection.has(other));
        permitted.max_by_key(|other| other.0).copied().unwrap_or(Protection::NONE)
    }
}
