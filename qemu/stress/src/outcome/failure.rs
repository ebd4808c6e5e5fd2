//! What the oracle can see go wrong, as values.

use core::fmt;

use topomem::{CpuId, NodeId, PhysFrame, VirtAddr};

use crate::Text;
use crate::oracle::{Holder, Space};

/// Something that must not happen in a coherent memory service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The allocator handed out a frame that somebody still holds.
    FrameTwice {
        /// The frame.
        frame: PhysFrame,
        /// Who was handed it first.
        first: Holder,
        /// Who was handed it again.
        second: Holder,
    },
    /// The allocator's books say that a frame is free which somebody holds: it can be handed out
    /// again.
    FreeWhileHeld {
        /// The frame.
        frame: PhysFrame,
        /// Who holds it.
        holder: Holder,
    },
    /// The allocator handed out a frame that is no RAM of the machine.
    NoSuchFrame {
        /// The frame.
        frame: PhysFrame,
        /// Who was handed it.
        holder: Holder,
    },
    /// A held frame's contents changed under its holder.
    FrameChanged {
        /// The frame.
        frame: PhysFrame,
        /// Who holds it.
        holder: Holder,
        /// The byte offset of the word.
        offset: u16,
        /// What the holder wrote.
        expected: u64,
        /// What was there.
        found: u64,
    },
    /// A frame was asked for zeroed and was not.
    NotZeroed {
        /// The frame.
        frame: PhysFrame,
        /// Who was handed it.
        holder: Holder,
        /// The byte offset of the word.
        offset: u16,
        /// What was there.
        found: u64,
    },
    /// After everything was given back, a node has other than the frames it started with.
    LostFrames {
        /// The node.
        node: NodeId,
        /// Free frames at the start.
        before: u64,
        /// Free frames at the end.
        after: u64,
    },
    /// After everything was given back, other than the objects of the start are held.
    LostObjects {
        /// Objects at the start.
        before: u64,
        /// Objects at the end.
        after: u64,
    },
    /// After everything was given back and all CPUs were drained, the heap still has more slabs of a
    /// class than objects are held in them: at least one is empty and was not returned.
    IdleSlabs {
        /// Bytes of the class's objects.
        object_size: u32,
        /// Slabs that hold pages.
        slabs: u64,
        /// Objects that somebody holds.
        live: u64,
    },
    /// A read went through a translation that was invalidated before the read began.
    StaleTranslation {
        /// The reader.
        cpu: CpuId,
        /// Which address space.
        space: Space,
        /// The address that was read.
        address: VirtAddr,
        /// The lowest tag that was possible.
        expected: u64,
        /// What was read.
        found: u64,
    },
    /// A read went through although the page had been unmapped before, and nothing mapped there.
    StillMapped {
        /// The reader.
        cpu: CpuId,
        /// Which address space.
        space: Space,
        /// The address that was read.
        address: VirtAddr,
        /// What was read.
        found: u64,
    },
    /// A write went through although the page had become read-only, or was unmapped, before.
    StaleWrite {
        /// The writer.
        cpu: CpuId,
        /// Which address space.
        space: Space,
        /// The address that was written.
        address: VirtAddr,
    },
    /// A frame was written to after no CPU could have a translation to it any more.
    LateWrite {
        /// The frame.
        frame: PhysFrame,
        /// The CPU that unmapped it.
        cpu: CpuId,
        /// Which address space it had been in.
        space: Space,
        /// The address it had been at.
        address: VirtAddr,
        /// What was there instead of the poison.
        found: u64,
    },
    /// A page holds what nobody has written there: another page's contents, another space's, or old ones.
    WrongContents {
        /// The reader.
        cpu: CpuId,
        /// Which address space.
        space: Space,
        /// The address that was read.
        address: VirtAddr,
        /// What it must hold.
        expected: u64,
        /// What was read.
        found: u64,
    },
    /// What a CPU has written to a page is not there any more, though the page has not changed.
    LostWrite {
        /// The writer.
        cpu: CpuId,
        /// Which address space.
        space: Space,
        /// The address that was written.
        address: VirtAddr,
        /// What was written.
        expected: u64,
        /// What was read.
        found: u64,
    },
    /// An access faulted although the page was mapped all along.
    MissingMapping {
        /// The CPU.
        cpu: CpuId,
        /// Which address space.
        space: Space,
        /// The address.
        address: VirtAddr,
    },
    /// A local-policy allocation came from a node although a nearer one had memory.
    WrongNode {
        /// The allocating CPU.
        cpu: CpuId,
        /// What it got.
        frame: PhysFrame,
        /// Where that is, and how far from the CPU in truth.
        got: (NodeId, u8),
        /// Where memory was free, and how far that is in truth.
        nearer: (NodeId, u8),
        /// How many frames were free there, before and after at least.
        free: u64,
    },
    /// A policy did not spread frames as it promises, although each node had plenty.
    WrongShare {
        /// The allocating CPU.
        cpu: CpuId,
        /// The policy.
        policy: &'static str,
        /// A node that the policy names.
        node: NodeId,
        /// How many frames it gave.
        got: u64,
        /// How many it should have given, and of how many.
        expected: (u64, u64),
    },
    /// A heap object's bytes changed under its holder: it overlaps another, or was written late.
    ObjectChanged {
        /// The CPU that found it.
        cpu: CpuId,
        /// Where the object is.
        address: VirtAddr,
        /// Its size in bytes.
        size: u32,
        /// The first changed byte's offset.
        offset: u32,
        /// What the holder wrote.
        expected: u8,
        /// What was there.
        found: u8,
    },
    /// A heap object is not aligned as asked.
    ObjectMisaligned {
        /// The CPU.
        cpu: CpuId,
        /// Where the object is.
        address: VirtAddr,
        /// The alignment asked for.
        alignment: u32,
    },
    /// When ordinary requests get no frame of a node, the reserve has too few or too many.
    WrongReserve {
        /// The allocating CPU.
        cpu: CpuId,
        /// The node.
        node: NodeId,
        /// How many frames requests got that may use it.
        frames: u64,
    },
    /// Memory was short, and no service task has reclaimed what the heap had cached.
    NotReclaimed {
        /// The CPU that was short of memory.
        cpu: CpuId,
        /// Slabs without an object that the heap has kept.
        slabs: u64,
    },
    /// A CPU did not get on while another was unresponsive, although nothing it does concerns that one.
    HeldUp {
        /// The CPU.
        cpu: CpuId,
        /// The unresponsive one.
        unresponsive: CpuId,
        /// Operations that it should have finished in addition.
        missing: u64,
    },
    /// A shootdown was waited for so long that it would never have ended.
    WaitedInVain {
        /// The waiting CPU.
        cpu: CpuId,
        /// How long, in multiples of `Tlb::unresponsive_timeout`.
        timeouts: u64,
    },
    /// A CPU was unresponsive and waited for, and nobody was told.
    Unreported {
        /// The unresponsive CPU.
        cpu: CpuId,
    },
    /// The service refused what it should have done.
    Refused {
        /// The CPU.
        cpu: CpuId,
        /// What was asked.
        operation: &'static str,
        /// Its error.
        error: Text,
    },
    /// The service's own cross-check failed at the end.
    Inconsistent {
        /// Which part.
        part: &'static str,
        /// Its error.
        error: Text,
    },
    /// A CPU panicked: an assertion of the service failed, most likely.
    Panicked {
        /// The CPU.
        cpu: CpuId,
        /// The panic's message.
        message: Text,
    },
}

/// The kind of a [`Failure`], for whoever expects one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// Allocation broke exclusive ownership, or memory changed under its holder.
    Ownership,
    /// Frames were lost or appeared.
    Lost,
    /// A translation outlived its invalidation.
    Stale,
    /// A mapping that should be there is not.
    Missing,
    /// A page does not hold what was written there.
    Contents,
    /// Memory came from the wrong node.
    Placement,
    /// The heap broke its contract.
    Heap,
    /// The service returned an error or contradicts itself.
    Service,
    /// A CPU panicked.
    Panic,
}

impl Failure {
    /// Its kind.
    #[must_use]
    pub const fn kind(&self) -> FailureKind {
        match self {
            Failure::FrameTwice { .. }
            | Failure::FreeWhileHeld { .. }
            | Failure::NoSuchFrame { .. }
            | Failure::FrameChanged { .. }
            | Failure::NotZeroed { .. } => FailureKind::Ownership,
            Failure::LostFrames { .. } | Failure::LostObjects { .. } => FailureKind::Lost,
            Failure::StaleTranslation { .. }
            | Failure::StillMapped { .. }
            | Failure::StaleWrite { .. }
            | Failure::LateWrite { .. } => FailureKind::Stale,
            Failure::MissingMapping { .. } => FailureKind::Missing,
            Failure::WrongContents { .. } | Failure::LostWrite { .. } => FailureKind::Contents,
            Failure::WrongNode { .. } | Failure::WrongShare { .. } => FailureKind::Placement,
            Failure::WrongReserve { .. } | Failure::NotReclaimed { .. } => FailureKind::Service,
            Failure::ObjectChanged { .. } | Failure::ObjectMisaligned { .. } | Failure::IdleSlabs { .. } => {
                FailureKind::Heap
            }
            Failure::HeldUp { .. }
            | Failure::WaitedInVain { .. }
            | Failure::Unreported { .. }
            | Failure::Refused { .. }
            | Failure::Inconsistent { .. } => FailureKind::Service,
            Failure::Panicked { .. } => FailureKind::Panic,
        }
    }

    /// Where it was seen, displayed: CPU, node or part.
    #[must_use]
    pub const fn place(&self) -> Place<'_> {
        Place(self)
    }
}

fn address_of(frame: PhysFrame) -> u64 {
    frame.start_address().as_u64()
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Failure::FrameTwice { frame, first, second } => write!(
                f,
                "frame {:#x} handed out twice: to {first:?}, who still holds it, and to {second:?}",
                address_of(frame)
            ),
            Failure::FreeWhileHeld { frame, holder } => write!(
                f,
                "frame {:#x} is free by the allocator's books while {holder:?} holds it: it can be handed out twice",
                address_of(frame)
            ),
            Failure::NoSuchFrame { frame, holder } => {
                write!(f, "frame {:#x}, which is no RAM, handed out to {holder:?}", address_of(frame))
            }
            Failure::FrameChanged { frame, holder, offset, expected, found } => write!(
                f,
                "frame {:#x} changed under {holder:?}: {found:#x} instead of {expected:#x} at offset {offset}",
                address_of(frame)
            ),
            Failure::NotZeroed { frame, holder, offset, found } => write!(
                f,
                "frame {:#x} for {holder:?} is not zeroed: {found:#x} at offset {offset}",
                address_of(frame)
            ),
            Failure::LostFrames { node, before, after } if after < before => {
                write!(
                    f,
                    "{node} lost {} frames: {before} were free at the start, {after} are at the end",
                    before - after
                )
            }
            Failure::LostFrames { node, before, after } => {
                write!(
                    f,
                    "{node} gained {} frames: {before} were free at the start, {after} are at the end",
                    after - before
                )
            }
            Failure::LostObjects { before, after } => {
                write!(
                    f,
                    "heap objects lost or freed twice: {before} were held at the start, {after} are at the end"
                )
            }
            Failure::IdleSlabs { object_size, slabs, live } => {
                write!(f, "the drained heap keeps {slabs} slabs of {object_size} bytes, for {live} objects")
            }
            Failure::StaleTranslation { cpu, space, address, expected, found } => write!(
                f,
                "stale translation: {cpu} read {found:#x} at {address} of {space}, expected {expected:#x} or newer"
            ),
            Failure::StillMapped { cpu, space, address, found } => write!(
                f,
                "stale translation: {cpu} read {found:#x} at {address} of {space}, which is unmapped"
            ),
            Failure::StaleWrite { cpu, space, address } => {
                write!(
                    f,
                    "stale translation: {cpu} wrote at {address} of {space}, which is read-only or unmapped"
                )
            }
            Failure::LateWrite { frame, space, address, found, .. } => write!(
                f,
                "stale translation: frame {:#x} was written ({found:#x}) after its unmapping from {address} of {space} had completed",
                address_of(frame)
            ),
            Failure::WrongContents { cpu, space, address, expected, found } => write!(
                f,
                "wrong contents: {cpu} read {found:#x} at {address} of {space}, where {expected:#x} must be"
            ),
            Failure::LostWrite { cpu, space, address, expected, found } => write!(
                f,
                "lost write: {cpu} read {found:#x} at {address} of {space}, where it has written {expected:#x}"
            ),
            Failure::MissingMapping { cpu, space, address } => {
                write!(f, "missing mapping: {cpu} faulted at {address} of {space}, which stayed mapped")
            }
            Failure::WrongNode { cpu, frame, got, nearer, free } => write!(
                f,
                "wrong node: {cpu} got frame {:#x} of {} at distance {} while {} at distance {} had {free} frames free",
                address_of(frame),
                got.0,
                got.1,
                nearer.0,
                nearer.1
            ),
            Failure::WrongShare { cpu, policy, node, got, expected } => write!(
                f,
                "wrong share: {policy} placement gave {cpu} {got} frames of {node}, not {} of {}",
                expected.0, expected.1
            ),
            Failure::WrongReserve { cpu, node, frames } => {
                write!(
                    f,
                    "wrong reserve: {cpu} got {frames} frames of {node} when ordinary requests got none"
                )
            }
            Failure::NotReclaimed { cpu, slabs } => {
                write!(f, "{cpu} was short of memory, and {slabs} empty slabs stayed with the heap")
            }
            Failure::ObjectChanged { cpu, address, size, offset, expected, found } => write!(
                f,
                "heap object at {address} ({size} bytes) changed: {cpu} found {found:#x} instead of {expected:#x} at offset {offset}"
            ),
            Failure::ObjectMisaligned { cpu, address, alignment } => {
                write!(f, "heap object at {address} for {cpu} is not aligned to {alignment}")
            }
            Failure::HeldUp { cpu, unresponsive, missing } => {
                write!(
                    f,
                    "{cpu} was held up by {unresponsive}, which is unresponsive: {missing} operations too few"
                )
            }
            Failure::WaitedInVain { cpu, timeouts } => {
                write!(f, "{cpu} waited for a shootdown for {timeouts} timeouts: in vain")
            }
            Failure::Unreported { cpu } => write!(f, "nobody was told that {cpu} does not answer"),
            Failure::Refused { operation, error, .. } => write!(f, "{operation} refused: {error}"),
            Failure::Inconsistent { part, error } => write!(f, "{part} inconsistent: {error}"),
            Failure::Panicked { message, .. } => write!(f, "panic: {message}"),
        }
    }
}

impl core::error::Error for Failure {}

/// [`Failure::place`].
#[derive(Debug, Clone, Copy)]
pub struct Place<'a>(&'a Failure);

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self.0 {
            Failure::FrameTwice { second: holder, .. }
            | Failure::FreeWhileHeld { holder, .. }
            | Failure::NoSuchFrame { holder, .. }
            | Failure::FrameChanged { holder, .. }
            | Failure::NotZeroed { holder, .. } => write!(f, "cpu{}", holder.cpu()),
            Failure::LostFrames { node, .. } => write!(f, "{node}"),
            Failure::LostObjects { .. } | Failure::IdleSlabs { .. } => f.write_str("heap"),
            Failure::StaleTranslation { cpu, space, address, .. }
            | Failure::StillMapped { cpu, space, address, .. }
            | Failure::StaleWrite { cpu, space, address }
            | Failure::WrongContents { cpu, space, address, .. }
            | Failure::LostWrite { cpu, space, address, .. }
            | Failure::LateWrite { cpu, space, address, .. }
            | Failure::MissingMapping { cpu, space, address } => write!(f, "{cpu}, {space}, {address}"),
            Failure::WrongNode { cpu, got, .. } => write!(f, "{cpu}, {}", got.0),
            Failure::WrongShare { cpu, node, .. } | Failure::WrongReserve { cpu, node, .. } => {
                write!(f, "{cpu}, {node}")
            }
            Failure::ObjectChanged { cpu, .. }
            | Failure::ObjectMisaligned { cpu, .. }
            | Failure::HeldUp { cpu, .. }
            | Failure::WaitedInVain { cpu, .. }
            | Failure::NotReclaimed { cpu, .. }
            | Failure::Unreported { cpu }
            | Failure::Refused { cpu, .. }
            | Failure::Panicked { cpu, .. } => write!(f, "{cpu}"),
            Failure::Inconsistent { part, .. } => f.write_str(part),
        }
    }
}
