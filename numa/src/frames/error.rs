//! Why an operation on frames was refused. The allocator's state is unchanged after each.

use core::fmt;

use topomem_percpu::{CpuId, NodeId, Order};
use x86_64::structures::paging::{PhysFrame, Size4KiB};

use super::Zone;

/// Why no frames were handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AllocError {
    /// The allocator has no memory yet: [`super::Frames::init`] has not run.
    NotReady,
    /// No node that the request allows had such a run free above its reserve, at some instant of
    /// the request.
    Exhausted {
        /// The node that was preferred.
        node: NodeId,
        /// The highest zone that was allowed.
        zone: Zone,
        /// The order asked for.
        order: Order,
    },
    /// Nothing is free to take now, but something allowed may be free: retry, or wait with
    /// [`super::Frames::alloc_async`].
    WouldBlock {
        /// The node that was preferred.
        node: NodeId,
        /// The order asked for.
        order: Order,
        /// What stands in the way.
        why: Obstacle,
    },
    /// The request makes no sense on this machine.
    InvalidRequest(InvalidRequest),
}

/// Why a request cannot be served just now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Obstacle {
    /// Other CPUs' magazines hold allowed frames. These CPUs have been asked to drain, which they do
    /// at their next use that is no quick hit, or their next [`super::Frames::service`].
    Held,
    /// Other CPUs were moving frames all the time, which a search may have missed: for some
    /// instructions.
    InTransit,
    /// The request comes from a handler, and the context that it interrupted holds allowed frames or
    /// moves some. Retrying is in vain until that context goes on.
    Interrupted,
    /// Frames are being reclaimed by the layer that passed the request on: the allocator itself never
    /// says this.
    Reclaim,
}

/// What is wrong with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InvalidRequest {
    /// The policy's node set names no node of this machine.
    NoNode,
    /// This machine has no such node.
    UnknownNode(NodeId),
    /// A contiguous run of this many frames is not served: 1 to 2^18 are.
    Count(u64),
    /// A run's alignment must be a power of two of at most 2^18 frames.
    Alignment(u64),
}

impl fmt::Display for AllocError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AllocError::NotReady => f.write_str("the frame allocator has no memory yet"),
            AllocError::Exhausted { node, zone, order } => {
                write!(
                    f,
                    "no run of order {} for {node} in {zone} or below, on any allowed node",
                    order.get()
                )
            }
            AllocError::WouldBlock { node, order, why } => {
                let why = match why {
                    Obstacle::Held => "other CPUs hold frames",
                    Obstacle::InTransit => "other CPUs move frames",
                    Obstacle::Reclaim => "frames are being reclaimed",
                    Obstacle::Interrupted => "the interrupted context holds or moves frames",
                };
                write!(f, "no run of order {} for {node} just now: {why}", order.get())
            }
            AllocError::InvalidRequest(why) => why.fmt(f),
        }
    }
}

impl fmt::Display for InvalidRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            InvalidRequest::NoNode => f.write_str("the policy names no node of this machine"),
            InvalidRequest::UnknownNode(node) => write!(f, "this machine has no {node}"),
            InvalidRequest::Count(count) => write!(f, "a run of {count} frames is not between 1 and 2^18"),
            InvalidRequest::Alignment(align) => write!(f, "no run can be aligned to {align} frames"),
        }
    }
}

impl core::error::Error for AllocError {}

/// Why frames were not taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FreeError {
    /// A frame of the run is free already, in the bitmap or in this CPU's magazine, or has left
    /// circulation ([`super::Frames::retire`]).
    DoubleFree(PhysFrame<Size4KiB>),
    /// The frame belongs to no allocated run: its block is whole and free, or the frame lies
    /// inside a larger run and does not begin it.
    NotAllocated(PhysFrame<Size4KiB>),
    /// The frame begins or lies in a run of another order.
    WrongOrder {
        /// The frame given.
        frame: PhysFrame<Size4KiB>,
        /// The order given.
        given: Order,
        /// The order that the run has.
        actual: Order,
    },
    /// The frame is no multiple of the order's size.
    Misaligned {
        /// The frame given.
        frame: PhysFrame<Size4KiB>,
        /// The order given.
        order: Order,
    },
    /// The run touches frames that the memory map reserves; they were never handed out.
    Reserved(PhysFrame<Size4KiB>),
    /// The frame is in no node's memory, or a run leaves its node's memory.
    OutOfRange(PhysFrame<Size4KiB>),
}

impl fmt::Display for FreeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = |frame: &PhysFrame| frame.start_address().as_u64();
        match self {
            FreeError::DoubleFree(frame) => write!(f, "frame {:#x} is free already", address(frame)),
            FreeError::NotAllocated(frame) => {
                write!(f, "frame {:#x} begins no allocated run", address(frame))
            }
            FreeError::WrongOrder { frame, given, actual } => write!(
                f,
                "frame {:#x} freed with order {}, allocated with {}",
                address(frame),
                given.get(),
                actual.get()
            ),
            FreeError::Misaligned { frame, order } => {
                write!(f, "frame {:#x} is not aligned to order {}", address(frame), order.get())
            }
            FreeError::Reserved(frame) => write!(f, "frame {:#x} is reserved", address(frame)),
            FreeError::OutOfRange(frame) => write!(f, "frame {:#x} is in no node's memory", address(frame)),
        }
    }
}

impl core::error::Error for FreeError {}

/// Why the allocator could not be built. Nothing was handed out by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InitError<E> {
    /// It was built before, or is being built by another CPU.
    AlreadyDone,
    /// No usable memory at all.
    NoMemory,
    /// More separate stretches of memory than regions fit.
    TooManyRegions {
        /// How many fit.
        limit: usize,
    },
    /// Reservations cut the memory into more pieces than were planned for.
    TooManyPieces {
        /// How many fit.
        limit: usize,
    },
    /// Its own bookkeeping found no memory.
    Metadata(E),
}

impl<E: fmt::Display> fmt::Display for InitError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            InitError::AlreadyDone => f.write_str("the frame allocator was built before"),
            InitError::NoMemory => f.write_str("no usable memory"),
            InitError::TooManyRegions { limit } => {
                write!(f, "more than {limit} separate stretches of memory")
            }
            InitError::TooManyPieces { limit } => write!(f, "more than {limit} free pieces of memory"),
            InitError::Metadata(error) => write!(f, "no memory for the allocator's bookkeeping: {error}"),
        }
    }
}

impl<E: fmt::Debug + fmt::Display> core::error::Error for InitError<E> {}

/// Why a CPU got no magazine. It still allocates, on the shared path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnlineError {
    /// [`super::Frames::init`] has not run.
    NotReady,
    /// The topology given to [`super::Frames::init`] did not name this CPU.
    UnknownCpu(CpuId),
}

impl fmt::Display for OnlineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OnlineError::NotReady => f.write_str("the frame allocator has no memory yet"),
            OnlineError::UnknownCpu(cpu) => write!(f, "the topology names no {cpu}"),
        }
    }
}

impl core::error::Error for OnlineError {}
