//! What the oracle can see go wrong, as values.

use topomem::{CpuId, NodeId, PhysFrame, VirtAddr};

use super::failure_text::Place;
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

pub(super) fn address_of(frame: PhysFrame) -> u64 {
    frame.start_address().as_u64()
}
