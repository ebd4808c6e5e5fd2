//! What a caller asks of the frame allocator.

use topomem_percpu::{NodeId, Order};
use x86_64::PhysAddr;

use super::{Policy, Zone};

/// A request for one naturally aligned run of frames: order, placement and treatment.
///
/// ```
/// use topomem_numa::frames::{FrameRequest, NodeSet, Policy, Zone};
/// use topomem_numa::NodeId;
/// use topomem_percpu::Order;
/// use x86_64::PhysAddr;
///
/// let table = FrameRequest::frame().zeroed();
/// let huge = FrameRequest::order(Order::HUGE).policy(Policy::Bind(NodeSet::of(NodeId::ZERO)));
/// let isa = FrameRequest::frame().zone(Zone::Dma).emergency();
/// let dma30 = FrameRequest::order(Order::HUGE).below(PhysAddr::new(1 << 30));
/// assert_eq!(huge.get_order(), Order::HUGE);
/// # let _ = (table, isa, dma30);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct FrameRequest {
    pub(super) order: Order,
    /// The requesting CPU's magazine may serve it: placed locally, in any zone.
    pub(super) plain: bool,
    pub(super) zeroed: bool,
    pub(super) emergency: bool,
    pub(super) zone: Zone,
    /// Every frame's number is below it.
    pub(super) limit: u64,
    /// Whose neighbourhood "local" means; the requesting CPU's where `None`.
    pub(super) node: Option<NodeId>,
    pub(super) policy: Policy,
    pub(super) caller: Caller,
}

/// What a request is a part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Caller {
    Single,
    /// [`Frames::alloc_bulk`](super::Frames::alloc_bulk), which gives all back if one fails.
    Bulk,
}

impl FrameRequest {
    /// One frame, near the requesting CPU.
    pub const fn frame() -> FrameRequest {
        FrameRequest::order(Order::FRAME)
    }

    /// A run of `order`, near the requesting CPU.
    pub const fn order(order: Order) -> FrameRequest {
        FrameRequest {
            order,
            plain: true,
            zeroed: false,
            emergency: false,
            zone: Zone::Normal,
            limit: u64::MAX,
            node: None,
            policy: Policy::Local,
            caller: Caller::Single,
        }
    }

    /// Near `node` instead of the requesting CPU; farther nodes still serve when it is exhausted
    /// (for `node` and no other, use [`Policy::Bind`]).
    pub const fn node(mut self, node: NodeId) -> FrameRequest {
        self.node = Some(node);
        self.plain = false;
        self
    }

    /// Placed by `policy`.
    pub const fn policy(mut self, policy: Policy) -> FrameRequest {
        self.policy = policy;
        self.plain = self.plain && matches!(policy, Policy::Local);
        self
    }

    /// From `zone` or a lower one.
    pub const fn zone(mut self, zone: Zone) -> FrameRequest {
        self.zone = zone;
        self.plain = self.plain && matches!(zone, Zone::Normal);
        self
    }

    /// Wholly below the address `limit`: for a device with few address bits. Combines with every
    /// order, zone and policy; nodes and zones are searched in the same order, less what lies
    /// above. Neither magazines serve it nor are they passed over: what they hold below the limit
    /// is asked for as for any other request.
    ///
    /// Costs a search of 512 bits per partial block where the limit is inside a stretch of memory;
    /// a limit at a zone's end costs nothing.
    pub const fn below(mut self, limit: PhysAddr) -> FrameRequest {
        self.limit = limit.as_u64() >> 12;
        self.plain = false;
        self
    }

    /// Filled with zeros. Costs a write of the whole run; for one frame nothing but two atomic
    /// read-modify-writes while its node has zeroed frames ahead
    /// ([`Frames::refill_zeroed`](super::Frames::refill_zeroed)).
    pub const fn zeroed(mut self) -> FrameRequest {
        self.zeroed = true;
        self
    }

    /// May dip into the reserve below the minimum watermark: for what frees memory by using some.
    pub const fn emergency(mut self) -> FrameRequest {
        self.emergency = true;
        self
    }

    /// The order asked for.
    #[must_use]
    pub const fn get_order(&self) -> Order {
        self.order
    }
}
