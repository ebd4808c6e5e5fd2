//! The requests to the frame allocator.

use topomem_percpu::{NodeId, Order, PhysAddr};

use super::frame_number::FrameNumber;
use super::policy::Policy;
use super::zone::Zone;

/// A request for one naturally aligned run of frames: order, placement and treatment.
///
/// ```
/// use topomem_numa::frames::{FrameRequest, NodeSet, Policy, Zone};
/// use topomem_numa::NodeId;
/// use topomem_percpu::{Order, PhysAddr};
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
    pub(in crate::frames) order: Order,
    /// True if the requesting CPU's magazine may serve it: placed locally, in any zone.
    pub(in crate::frames) plain: bool,
    pub(in crate::frames) zeroed: bool,
    pub(in crate::frames) emergency: bool,
    pub(in crate::frames) zone: Zone,
    /// Every frame's number is below this.
    pub(in crate::frames) limit: FrameNumber,
    /// The node for "local"; `None` for the requesting CPU's node.
    pub(in crate::frames) node: Option<NodeId>,
    pub(in crate::frames) policy: Policy,
    pub(in crate::frames) caller: Caller,
}

/// The call behind a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::frames) enum Caller {
    Single,
    /// [`Frames::alloc_bulk`](crate::frames::Frames::alloc_bulk), which frees everything if one allocation
    /// fails.
    Bulk,
}

impl FrameRequest {
    /// Creates a request for one frame, near the requesting CPU.
    ///
    /// ```
    /// use topomem_numa::Order;
    /// use topomem_numa::frames::FrameRequest;
    ///
    /// assert_eq!(FrameRequest::frame().get_order(), Order::FRAME);
    /// ```
    pub const fn frame() -> FrameRequest {
        FrameRequest::order(Order::FRAME)
    }

    /// Creates a request for a run of `order`, near the requesting CPU.
    ///
    /// # Examples
    ///
    /// ```
    /// # use topomem_numa::frames::FrameRequest;
    /// # use topomem_percpu::Order;
    /// assert_eq!(FrameRequest::order(Order::HUGE).get_order(), Order::HUGE);
    /// ```
    pub const fn order(order: Order) -> FrameRequest {
        FrameRequest {
            order,
            plain: true,
            zeroed: false,
            emergency: false,
            zone: Zone::Normal,
            limit: FrameNumber::MAX,
            node: None,
            policy: Policy::Local,
            caller: Caller::Single,
        }
    }

    /// Places the run near `node` instead of the requesting CPU; farther nodes still serve if it is
    /// exhausted (for `node` only, use [`Policy::Bind`]).
    ///
    /// ```
    /// use topomem_numa::NodeId;
    /// use topomem_numa::frames::FrameRequest;
    ///
    /// let near = FrameRequest::frame().node(NodeId::ZERO);
    /// assert_ne!(near, FrameRequest::frame());
    /// ```
    pub const fn node(mut self, node: NodeId) -> FrameRequest {
        self.node = Some(node);
        self.plain = false;
        self
    }

    /// Places the run by `policy`.
    ///
    /// # Examples
    ///
    /// ```
    /// # use topomem_numa::NodeId;
    /// # use topomem_numa::frames::{FrameRequest, NodeSet, Policy};
    /// let bound = FrameRequest::frame().policy(Policy::Bind(NodeSet::of(NodeId::ZERO)));
    /// # let _ = bound;
    /// ```
    pub const fn policy(mut self, policy: Policy) -> FrameRequest {
        self.policy = policy;
        self.plain = self.plain && matches!(policy, Policy::Local);
        self
    }

    /// Restricts the run to `zone` or a lower zone.
    ///
    /// ```
    /// use topomem_numa::frames::{FrameRequest, Zone};
    ///
    /// let for_32_bits = FrameRequest::frame().zone(Zone::Dma32);
    /// # let _ = for_32_bits;
    /// ```
    pub const fn zone(mut self, zone: Zone) -> FrameRequest {
        self.zone = zone;
        self.plain = self.plain && matches!(zone, Zone::Normal);
        self
    }

    /// Restricts the run to addresses below `limit`: for a device with few address bits. Combines
    /// with every order, zone and policy; nodes and zones are searched in the same order, without
    /// the memory above. Magazines do not serve such a request directly; their frames below the
    /// limit are requested as for any other request.
    ///
    /// Cost: a search of 512 bits per partial block if the limit is inside a stretch of memory;
    /// nothing if the limit is at a zone's end.
    ///
    /// ```
    /// # mod machine { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/machine.rs")); }
    /// # machine::run(|frames, pin| {
    /// use topomem_numa::frames::FrameRequest;
    /// use topomem_numa::PhysAddr;
    ///
    /// let limit = PhysAddr::new(20 << 20);
    /// let run = frames.alloc_owned(&FrameRequest::frame().below(limit))?;
    /// assert!(run.first().start_address() < limit);
    /// # let _ = pin;
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub const fn below(mut self, limit: PhysAddr) -> FrameRequest {
        self.limit = FrameNumber::containing(limit);
        self.plain = false;
        self
    }

    /// Fills the run with zeros. Cost: a write of the whole run; for one frame only two atomic
    /// read-modify-writes while its node has zeroed frames ahead
    /// ([`Frames::refill_zeroed`](crate::frames::Frames::refill_zeroed)).
    ///
    /// ```
    /// # mod machine { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/machine.rs")); }
    /// # machine::run(|frames, pin| {
    /// use topomem_numa::Platform;
    /// use topomem_numa::frames::FrameRequest;
    ///
    /// let page = frames.alloc_owned(&FrameRequest::frame().zeroed())?;
    /// let bytes = frames.platform().phys_to_virt(page.first().start_address()).cast::<[u8; 4096]>();
    /// // SAFETY: the frame is ours, and mapped.
    /// assert!(unsafe { bytes.as_ref() }.iter().all(|&byte| byte == 0));
    /// # let _ = pin;
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub const fn zeroed(mut self) -> FrameRequest {
        self.zeroed = true;
        self
    }

    /// Permits the reserve below the minimum watermark: for work that frees memory by using some.
    ///
    /// Magazines have none of the reserve, so such a request is not quick: ask without first, and with it if that
    /// fails.
    pub const fn emergency(mut self) -> FrameRequest {
        self.emergency = true;
        self.plain = false;
        self
    }

    /// Returns the requested order.
    #[must_use]
    pub const fn get_order(&self) -> Order {
        self.order
    }
}
