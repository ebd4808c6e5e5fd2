//! Short forms for cases.

use crate::compare::answer::{Answer, Errno, Fault};
use crate::log::operation::{
    Access, Advice, At, Break, Call, Descriptor, Map, Operation, PAGE, Placement, ProcessId, Protection,
    RemapFlags, Sample, Sharing, Source,
};
use crate::log::slots::Layout;

/// What a case expects of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// Any success.
    Success,
    /// This number.
    Number(u64),
    /// The address of this page of the window.
    Page(u32),
    /// Anything but the address of this page of the window.
    OtherThan(u32),
    /// This error.
    Error(Errno),
    /// This byte.
    Byte(u8),
    /// This fault.
    Fault(Fault),
}

impl Expected {
    /// Tells whether `answer` is what is expected.
    pub fn allows(self, answer: Answer, layout: Layout) -> bool {
        let address = |page: u32| layout.window + u64::from(page) * PAGE;
        match (self, answer) {
            (Expected::Success, Answer::Returned(result)) => result.is_ok(),
            (Expected::Success, Answer::Touched(result)) => result.is_ok(),
            (Expected::Success, Answer::Done) => true,
            (Expected::Number(number), Answer::Returned(result)) => result == Ok(number),
            (Expected::Page(page), Answer::Returned(result)) => result == Ok(address(page)),
            (Expected::OtherThan(page), Answer::Returned(Ok(chosen))) => chosen != address(page),
            (Expected::Error(error), Answer::Returned(result)) => result == Err(error),
            (Expected::Byte(byte), Answer::Touched(result)) => result == Ok(byte),
            (Expected::Fault(fault), Answer::Touched(result)) => result == Err(fault),
            _ => false,
        }
    }
}

/// A step of a case, and what it must answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Line(pub(super) u8, pub(super) Operation, pub(super) Expected);

impl Operation {
    /// Ties what is expected to an operation of process 0.
    pub(super) fn gives(self, expected: Expected) -> Line {
        Line(0, self, expected)
    }

    pub(super) fn works(self) -> Line {
        self.gives(Expected::Success)
    }

    pub(super) fn fails(self, error: Errno) -> Line {
        self.gives(Expected::Error(error))
    }

    pub(super) fn faults(self, fault: Fault) -> Line {
        self.gives(Expected::Fault(fault))
    }

    pub(super) fn reads(self, byte: u8) -> Line {
        self.gives(Expected::Byte(byte))
    }
}

impl Line {
    /// Makes another process do the step.
    pub(super) fn by(self, process: u8) -> Line {
        Line(process, self.1, self.2)
    }
}

/// Maps private anonymous memory at a page of the window, for reading and writing.
pub(super) fn map(page: u32, pages: u64) -> Map<At> {
    Map {
        placement: Placement::Fixed(At::window(page)),
        length: pages * PAGE,
        protection: Protection::READ_WRITE,
        sharing: Sharing::Private,
        source: Source::Anonymous,
        offset: 0,
        grows_down: false,
        populate: false,
        slot: 0,
    }
}

impl Map<At> {
    pub(super) fn with(self, protection: Protection) -> Map<At> {
        Map { protection, ..self }
    }

    pub(super) fn shared(self) -> Map<At> {
        Map { sharing: Sharing::Shared, ..self }
    }

    pub(super) fn of(self, file: Descriptor) -> Map<At> {
        Map { source: Source::File(file), ..self }
    }

    pub(super) fn from(self, offset: u64) -> Map<At> {
        Map { offset, ..self }
    }

    pub(super) fn bytes(self, length: u64) -> Map<At> {
        Map { length, ..self }
    }

    pub(super) fn stack(self) -> Map<At> {
        Map { grows_down: true, ..self }
    }

    pub(super) fn populated(self) -> Map<At> {
        Map { populate: true, ..self }
    }

    pub(super) fn placed(self, placement: Placement<At>) -> Map<At> {
        Map { placement, ..self }
    }

    pub(super) fn call(self) -> Operation {
        Operation::Call(Call::Map(self))
    }
}

/// Maps as [`map`] does, as a step that works.
pub(super) fn mapped(page: u32, pages: u64) -> Line {
    map(page, pages).call().works()
}

pub(super) fn unmap(page: u32, pages: u64) -> Operation {
    Operation::Call(Call::Unmap { at: At::window(page), length: pages * PAGE })
}

pub(super) fn protect(page: u32, pages: u64, protection: Protection) -> Operation {
    Operation::Call(Call::Protect { at: At::window(page), length: pages * PAGE, protection })
}

/// Changes the size in place, if that is possible.
pub(super) fn resize(page: u32, old: u64, new: u64) -> Operation {
    remap(page, old, new, RemapFlags::default(), None)
}

/// `MREMAP_MAYMOVE`
pub(super) const MAY_MOVE: RemapFlags = RemapFlags { may_move: true, keep_source: false, unknown: false };
/// `MREMAP_MAYMOVE | MREMAP_DONTUNMAP`
pub(super) const KEEP: RemapFlags = RemapFlags { may_move: true, keep_source: true, unknown: false };

pub(super) fn remap(page: u32, old: u64, new: u64, flags: RemapFlags, to: Option<u32>) -> Operation {
    let (at, to) = (At::window(page), to.map(At::window));
    Operation::Call(Call::Remap { at, old: old * PAGE, new: new * PAGE, flags, to, slot: 1 })
}

pub(super) fn advise(page: u32, pages: u64, advice: Advice) -> Operation {
    Operation::Call(Call::Advise { at: At::window(page), length: pages * PAGE, advice })
}

pub(super) fn brk(bytes: u64) -> Operation {
    Operation::Call(Call::Break(Break::Above(bytes)))
}

fn touch(at: At, sample: u8, access: Access) -> Operation {
    Operation::Touch { at, sample: Sample(sample), access }
}

/// Reads the first byte of a page.
pub(super) fn read(page: u32) -> Operation {
    touch(At::window(page), 0, Access::Read)
}

/// Writes the first byte of a page.
pub(super) fn write(page: u32, value: u8) -> Operation {
    touch(At::window(page), 0, Access::Write(value))
}

pub(super) fn execute(page: u32) -> Operation {
    touch(At::window(page), 0, Access::Execute)
}

pub(super) fn read_sample(page: u32, sample: u8) -> Operation {
    touch(At::window(page), sample, Access::Read)
}

pub(super) fn write_sample(page: u32, sample: u8, value: u8) -> Operation {
    touch(At::window(page), sample, Access::Write(value))
}

pub(super) fn read_at(at: At) -> Operation {
    touch(at, 0, Access::Read)
}

pub(super) fn write_at(at: At, value: u8) -> Operation {
    touch(at, 0, Access::Write(value))
}

pub(super) fn truncate(file: Descriptor, length: u64) -> Operation {
    Operation::Call(Call::Truncate { file, length })
}

pub(super) fn write_file(file: Descriptor, position: u64, value: u8) -> Operation {
    Operation::Call(Call::WriteFile { file, position, value })
}

pub(super) fn read_file(file: Descriptor, position: u64) -> Operation {
    Operation::Call(Call::ReadFile { file, position })
}

pub(super) fn fork(child: u8) -> Line {
    Operation::Fork(ProcessId(child)).works()
}
