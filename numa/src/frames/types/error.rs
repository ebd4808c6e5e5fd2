//! Errors of operations on frames. The allocator's state is unchanged after each.

use core::fmt;

use topomem_percpu::{CpuId, NodeId, Order, PhysFrame};

use super::zone::Zone;

/// An error of an allocation.
///
/// ```
/// # mod machine { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/machine.rs")); }
/// # machine::run(|frames, pin| {
/// use topomem_numa::Order;
/// use topomem_numa::frames::{AllocError, FrameRequest};
///
/// let huge = frames.alloc(pin, &FrameRequest::order(Order::GIANT)); // 1 GiB of a machine of 8 MiB
/// assert!(matches!(huge, Err(AllocError::Exhausted { order: Order::GIANT, .. })));
/// # Ok(())
/// # }).unwrap();
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AllocError {
    /// The allocator has no memory yet: [`crate::frames::Frames::init`] has not run.
    NotReady,
    /// At some instant of the request, no allowed node had such a run free above its reserve.
    Exhausted {
        /// The preferred node.
        node: NodeId,
        /// The highest allowed zone.
        zone: Zone,
        /// The requested order.
        order: Order,
    },
    /// No run can be taken now, but an allowed run may be free: retry, or wait with
    /// [`crate::frames::Frames::alloc_waiting`] or [`crate::frames::Frames::alloc_async`].
    WouldBlock {
        /// The preferred node.
        node: NodeId,
        /// The requested order.
        order: Order,
        /// The obstacle.
        why: Obstacle,
    },
    /// The request is invalid on this machine.
    InvalidRequest(InvalidRequest),
}

/// A reason why a request cannot be served now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Obstacle {
    /// Other CPUs' magazines hold allowed frames. These CPUs were asked to drain, and do so at
    /// their next use that is no quick hit, or at their next [`crate::frames::Frames::service`].
    Held,
    /// Other CPUs were moving frames during the whole search, so the search may have missed frames.
    /// The state lasts for some instructions.
    InTransit,
    /// The request comes from a handler, and the interrupted context holds or moves allowed frames.
    /// Retrying is in vain until that context continues.
    Interrupted,
    /// The layer that passed the request on is reclaiming frames. The allocator itself never
    /// returns this.
    Reclaim,
}

/// The fault of an invalid request.
///
/// ```
/// # mod machine { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/machine.rs")); }
/// # machine::run(|frames, pin| {
/// use topomem_numa::frames::{AllocError, FrameRequest, InvalidRequest};
///
/// let none = frames.alloc_run(pin, &FrameRequest::frame(), 0, 1);
/// assert_eq!(none, Err(AllocError::InvalidRequest(InvalidRequest::Count(0))));
/// # Ok(())
/// # }).unwrap();
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum InvalidRequest {
    /// The policy's node set names no node of this machine.
    NoNode,
    /// This machine does not have the node.
    UnknownNode(NodeId),
    /// Contiguous runs of this many frames are not supported: 1 to 2^18 frames are.
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
            InvalidRequest::NoNode => f.write_str("the policy names no node of this state"),
            InvalidRequest::UnknownNode(node) => write!(f, "this state has no {node}"),
            InvalidRequest::Count(count) => write!(f, "a run of {count} frames is not between 1 and 2^18"),
            InvalidRequest::Alignment(align) => write!(f, "no run can be aligned to {align} frames"),
        }
    }
}

impl core::error::Error for AllocError {}

/// An error of a free.
///
/// ```
/// # mod machine { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/machine.rs")); }
/// # machine::run(|frames, pin| {
/// use topomem_numa::Order;
/// use topomem_numa::frames::FrameRequest;
///
/// let frame = frames.alloc(pin, &FrameRequest::frame())?;
/// // SAFETY: the frame was just allocated, and is not used; the second free is refused.
/// unsafe {
///     frames.free(pin, frame, Order::FRAME)?;
///     assert!(frames.free(pin, frame, Order::FRAME).is_err());
/// }
/// # Ok(())
/// # }).unwrap();
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FreeError {
    /// A frame of the run is free already, in the bitmap or in this CPU's magazine, or is retired
    /// ([`crate::frames::Frames::retire`]).
    DoubleFree(PhysFrame),
    /// The frame belongs to no allocated run: its block is whole and free, or the frame lies inside
    /// a larger run and does not begin it.
    NotAllocated(PhysFrame),
    /// The frame begins or lies in a run of another order.
    WrongOrder {
        /// The frame passed.
        frame: PhysFrame,
        /// The order passed.
        given: Order,
        /// The order of the run.
        actual: Order,
    },
    /// The frame is no multiple of the order's size.
    Misaligned {
        /// The frame passed.
        frame: PhysFrame,
        /// The order passed.
        order: Order,
    },
    /// The run contains frames reserved by the memory map; they were never handed out.
    Reserved(PhysFrame),
    /// The frame is in no node's memory, or a run leaves its node's memory.
    OutOfRange(PhysFrame),
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

/// An error of building the allocator. No frames were handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum InitError<E> {
    /// The allocator was built before, or is being built by another CPU.
    AlreadyDone,
    /// There is no usable memory.
    NoMemory,
    /// Placing bookkeeping divides a node's memory into more separate stretches than planned.
    TooManyRegions {
        /// The maximum.
        limit: usize,
    },
    /// Reservations divide the memory into more pieces than planned.
    TooManyPieces {
        /// The maximum.
        limit: usize,
    },
    /// There is no memory for the allocator's bookkeeping.
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

impl<E: core::error::Error + 'static> core::error::Error for InitError<E> {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            InitError::Metadata(error) => Some(error),
            _ => None,
        }
    }
}

/// An error of enabling a CPU's magazine. The CPU still allocates, on the shared path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnlineError {
    /// [`crate::frames::Frames::init`] has not run.
    NotReady,
    /// The topology passed to [`crate::frames::Frames::init`] does not name this CPU.
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
