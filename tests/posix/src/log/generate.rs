//! Random logs.

use crate::log::operation::{
    Access, Advice, At, Break, Call, Descriptor, Map, OFFSETS, Operation, PAGE, Placement, ProcessId,
    Protection, RemapFlags, Sample, Sharing, Source, SyncFlags, VALUES, Vector,
};
use crate::log::slots::TOP;
use crate::log::{Log, PROCESSES, Step};

/// Where stacks are mapped: far from everything else, so that they can grow.
const STACKS: u32 = 700;

/// Makes logs from a seed. Equal seeds make equal logs.
#[derive(Debug, Clone)]
pub struct Generator {
    state: u64,
    /// Pages of the window that this log uses.
    pages: u32,
    /// Processes that live.
    alive: Vec<ProcessId>,
    forked: u8,
}

impl Generator {
    /// Returns the generator of a seed.
    pub fn new(seed: u64) -> Generator {
        Generator { state: seed, pages: 0, alive: Vec::new(), forked: 0 }
    }

    /// Returns a random log.
    pub fn log(&mut self) -> Log {
        self.pages = [6, 12, 24, 40][self.below(4) as usize];
        self.alive = vec![ProcessId::FIRST];
        self.forked = 0;
        let length = 20 + self.below(80);
        let mut steps = Vec::new();
        if !self.one_in(8) {
            // Without this, most addresses would be in holes.
            let mut all = self.map();
            all.placement = Placement::Fixed(At::window(0));
            all.length = PAGE * u64::from(self.pages);
            all.grows_down = false;
            steps.push(Step(ProcessId::FIRST, Operation::Call(Call::Map(all))));
            for file in [Descriptor::First, Descriptor::Second] {
                let size = self.position();
                steps.push(Step(ProcessId::FIRST, Operation::Call(Call::Truncate { file, length: size })));
            }
        }
        for _ in 0..2 + self.below(4) {
            let map = self.map();
            steps.push(Step(ProcessId::FIRST, Operation::Call(Call::Map(map))));
        }
        // Some logs have one process, since forks make most pages shared.
        let forks = !self.one_in(3);
        for _ in 0..length {
            let by = self.below(self.alive.len() as u64) as usize;
            let by = self.alive[by];
            let operation = self.operation(by, forks);
            steps.push(Step(by, operation));
        }
        Log { steps }
    }

    /// Returns a number of an evenly distributed 64 bits (splitmix64).
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }

    fn operation(&mut self, by: ProcessId, forks: bool) -> Operation {
        match self.below(100) {
            0..42 => self.touch(),
            42..54 => Operation::Call(Call::Map(self.map())),
            54..59 => self.unmap(),
            59..67 => self.protect(),
            67..75 => self.remap(),
            75..86 => self.advise(),
            86..89 => self.set_break(),
            89..93 => self.file(),
            93..95 => self.look(),
            95..97 => Operation::Inspect,
            97..99 if forks && usize::from(self.forked) + 1 < PROCESSES && self.alive.len() < 4 => {
                self.forked += 1;
                self.alive.push(ProcessId(self.forked));
                Operation::Fork(ProcessId(self.forked))
            }
            99 if self.alive.len() > 1 && by != ProcessId::FIRST => {
                self.alive.retain(|&process| process != by);
                Operation::Exit
            }
            _ => self.touch(),
        }
    }

    /// Returns an address, mostly one where something is mapped.
    fn at(&mut self) -> At {
        match self.below(40) {
            0..33 => At::window(self.below(u64::from(self.pages)) as u32),
            33..36 => At::heap(self.below(8) as u32),
            36..38 => At::slot(self.below(4) as u8, self.below(6) as u32),
            _ => At::window(STACKS - 24 + self.below(28) as u32),
        }
    }

    /// Returns an address for a range, sometimes an unaligned one.
    fn start(&mut self) -> At {
        let at = self.at();
        match self.below(60) {
            0 => at.plus(1),
            1 => at.plus(2048),
            _ => at,
        }
    }

    /// Returns a length, mostly of a few whole pages.
    fn length(&mut self) -> u64 {
        match self.below(40) {
            0 => 0,
            1 => 1,
            2 => PAGE + 1,
            3 => 3 * PAGE - 1,
            4 => PAGE * (8 + self.below(24)),
            5..20 => PAGE,
            20..30 => PAGE * 2,
            _ => PAGE * (1 + self.below(6)),
        }
    }

    /// Returns a length that may be one that no system accepts.
    fn any_length(&mut self) -> u64 {
        match self.below(80) {
            0 => 1 << 47,
            1 => u64::MAX,
            _ => self.length(),
        }
    }

    fn protection(&mut self) -> Protection {
        match self.below(16) {
            0..7 => Protection::READ_WRITE,
            7..10 => Protection::READ,
            10..12 => Protection::NONE,
            12 => Protection::WRITE,
            13 => Protection(5),
            14 => Protection(7),
            _ => Protection::EXECUTE,
        }
    }

    fn descriptor(&mut self) -> Descriptor {
        match self.below(24) {
            0..9 => Descriptor::First,
            9..15 => Descriptor::Second,
            15..19 => Descriptor::FirstReadOnly,
            19..21 => Descriptor::FirstWriteOnly,
            21 => Descriptor::Pipe,
            22 => Descriptor::Directory,
            _ => Descriptor::Closed,
        }
    }

    fn map(&mut self) -> Map<At> {
        let is_stack = self.one_in(14);
        let source =
            if !is_stack && self.one_in(3) { Source::File(self.descriptor()) } else { Source::Anonymous };
        let sharing = match self.below(40) {
            0 => Sharing::Neither,
            1..14 if !is_stack || self.one_in(8) => Sharing::Shared,
            _ => Sharing::Private,
        };
        let placement = match self.below(40) {
            _ if is_stack => Placement::Fixed(At::window(STACKS + self.below(4) as u32)),
            0..26 => Placement::Fixed(self.start()),
            26..31 => Placement::Unoccupied(self.start()),
            31..35 => Placement::Hint(self.start()),
            35 => Placement::Fixed(self.one_of(&[At::raw(1 << 47), At::raw(TOP), At::heap(9)])),
            _ => Placement::Anywhere,
        };
        let offset = match (source, self.below(24)) {
            (_, 0) => 100,
            (Source::File(_), 1) => i64::MAX as u64 & !(PAGE - 1),
            (Source::File(_), _) => PAGE * self.below(4),
            _ => 0,
        };
        let length = if is_stack { PAGE * (1 + self.below(2)) } else { self.any_length() };
        Map {
            placement,
            length,
            protection: self.protection(),
            sharing,
            source,
            offset,
            grows_down: is_stack || self.one_in(60),
            populate: self.one_in(8),
            slot: self.below(4) as u8,
        }
    }

    fn touch(&mut self) -> Operation {
        let access = match self.below(20) {
            0..9 => Access::Read,
            9..18 => Access::Write(self.one_of(&VALUES)),
            _ => Access::Execute,
        };
        let sample = if access == Access::Execute { 0 } else { self.below(OFFSETS.len() as u64) as u8 };
        Operation::Touch { at: self.at(), sample: Sample(sample), access }
    }

    fn unmap(&mut self) -> Operation {
        let at = if self.one_in(30) { At::raw((1 << 47) - PAGE) } else { self.start() };
        let length = if self.one_in(4) { self.any_length() } else { PAGE * (1 + self.below(2)) };
        Operation::Call(Call::Unmap { at, length })
    }

    fn protect(&mut self) -> Operation {
        let protection = if self.one_in(30) { Protection(0x10) } else { self.protection() };
        Operation::Call(Call::Protect { at: self.start(), length: self.any_length(), protection })
    }

    fn remap(&mut self) -> Operation {
        let old = if self.one_in(20) { 0 } else { self.length() };
        let new = match self.below(6) {
            0..3 => old,
            _ => self.any_length(),
        };
        let moves_to = self.one_in(2);
        let to = match self.below(12) {
            0..2 if moves_to => At::window(STACKS + 20 + self.below(20) as u32),
            2 if moves_to => At::window(4).plus(1),
            _ => At::window(self.below(u64::from(self.pages)) as u32),
        };
        let flags =
            RemapFlags { may_move: !self.one_in(4), keep_source: self.one_in(6), unknown: self.one_in(60) };
        let to = moves_to.then_some(to);
        Operation::Call(Call::Remap { at: self.start(), old, new, flags, to, slot: self.below(4) as u8 })
    }

    fn advise(&mut self) -> Operation {
        let advice = match self.below(30) {
            0..6 => Advice::DontNeed,
            6 => Advice::DontNeedLocked,
            7..10 => Advice::Free,
            10..13 => Advice::Remove,
            13..15 => Advice::DontFork,
            15 => Advice::DoFork,
            16..18 => Advice::WipeOnFork,
            18 => Advice::KeepOnFork,
            19 => Advice::HugePage,
            20 => Advice::NoHugePage,
            21..23 => Advice::PopulateRead,
            23..25 => Advice::PopulateWrite,
            25..27 => Advice::GuardInstall,
            27..29 => Advice::GuardRemove,
            _ => Advice::Unknown,
        };
        // Not 1 << 47: advice passes over holes, and so would reach the rest of the process.
        let length = if self.one_in(40) { u64::MAX } else { self.length() };
        Operation::Call(Call::Advise { at: self.start(), length, advice })
    }

    fn set_break(&mut self) -> Operation {
        Operation::Call(Call::Break(match self.below(12) {
            0 => Break::Below,
            1 => Break::TooHigh,
            2 => Break::Above(PAGE * self.below(8) + 5),
            _ => Break::Above(PAGE * self.below(12)),
        }))
    }

    fn position(&mut self) -> u64 {
        PAGE * self.below(6) + self.one_of(&OFFSETS)
    }

    fn file(&mut self) -> Operation {
        let file = match self.below(16) {
            0..7 => Descriptor::First,
            7..12 => Descriptor::Second,
            12..14 => Descriptor::FirstReadOnly,
            14 => Descriptor::FirstWriteOnly,
            _ => Descriptor::Closed,
        };
        let position = self.position();
        Operation::Call(match self.below(8) {
            0..3 => Call::WriteFile { file, position, value: self.one_of(&VALUES) },
            3..5 => Call::ReadFile { file, position },
            5 => Call::Truncate { file, length: position },
            _ => Call::Truncate { file, length: PAGE * self.below(8) },
        })
    }

    /// Returns a call that changes little.
    fn look(&mut self) -> Operation {
        let (at, length) = (self.start(), self.length());
        Operation::Call(match self.below(8) {
            0..3 => {
                let mut flag = || self.one_in(2);
                let flags = SyncFlags { asynchronous: flag(), synchronous: flag(), invalidate: flag() };
                Call::Sync { at, length, flags }
            }
            3..5 => {
                let vector = if self.one_in(3) { Vector::Bad } else { Vector::Good };
                Call::Resident { at, length, vector }
            }
            5..7 => Call::Lock { at, length },
            _ => Call::Unlock { at, length },
        })
    }
}
