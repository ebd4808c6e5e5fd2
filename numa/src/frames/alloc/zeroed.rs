//! Zeroed frames: from the node's pool, filled in the background, or cleared on demand.

use topomem_percpu::{CpuPin, Order, PhysFrame, Platform};

use crate::frames::Frames;
use crate::frames::node::Node;
use crate::frames::node::zeroed_pool::PoolCursor;
use crate::frames::ready::Ready;
use crate::frames::region::Region;
use crate::frames::region::marks::AllocKind;
use crate::frames::state::plan::Plan;
use crate::frames::types::{AllocError, FrameNumber, FrameRequest, Policy, Zeroing, Zone};

impl<P: Platform> Frames<P> {
    /// Serves a plain request for one zeroed frame: from the pool of the CPU's node, or from the
    /// magazine.
    ///
    /// Bound: a compare-and-swap while the pool's last used slot has more frames. Counts in the
    /// CPU's own lines.
    #[inline(never)]
    pub(super) fn alloc_zeroed_frame(&self, pin: &CpuPin) -> Result<PhysFrame, AllocError> {
        let ready = self.ready().ok_or(AllocError::NotReady)?;
        let (cpu, pooled) = (pin.cpu(), ready.state.zeroing != Zeroing::OnFree);
        let request = FrameRequest::frame();
        // An interrupted use of the magazine may be moving the magazine's words.
        let magazine = self.magazines.get(cpu).filter(|magazine| pooled && !magazine.is_busy());
        let own = magazine.filter(|magazine| magazine.node == ready.state.cpu_nodes.of(cpu).home);
        let Some((magazine, node)) = own.and_then(|own| Some((own, ready.state.node(own.node)?))) else {
            return self.alloc_zeroed(pin, &request);
        };
        let pool = &node.zeroed;
        if let Some((number, _)) =
            ready.next_zeroed(node, || pool.pop(magazine.zeroed_place()), |number| magazine.holds(number))
        {
            magazine.count_zeroed_hit();
            ready.state.record_alloc(number, AllocKind::Aligned(Order::FRAME));
            return Ok(number.frame());
        }
        magazine.count_zeroed_miss();
        let taken = match magazine.with_current(|entry, magazine| magazine.take_from(entry)) {
            Some(taken) => taken,
            None => self.alloc(pin, &request)?,
        };
        self.zero(taken, Order::FRAME.bytes());
        Ok(taken)
    }

    /// Serves a request for zeroed frames.
    ///
    /// A single frame comes from the pool of the serving node, if the pool has any and every frame of
    /// the node is in an allowed zone. All further frames are cleared here.
    pub(super) fn alloc_zeroed(&self, pin: &CpuPin, request: &FrameRequest) -> Result<PhysFrame, AllocError> {
        let ready = self.ready().ok_or(AllocError::NotReady)?;
        let mut request = FrameRequest { zeroed: false, ..*request };
        if ready.state.zeroing == Zeroing::OnFree {
            return self.alloc(pin, &request);
        }
        if request.order == Order::FRAME {
            let plan =
                ready.state.plan(pin.cpu(), &request, &self.magazines).map_err(AllocError::InvalidRequest)?;
            if let Some(number) = ready.pop_zeroed(pin, plan, &request) {
                return Ok(number.frame());
            }
            // The node in turn stays the same.
            let start = plan.start;
            if let Policy::Interleave(_) | Policy::WeightedInterleave(_) = request.policy {
                request.policy = Policy::Preferred(start);
            }
        }
        let taken = self.alloc(pin, &request)?;
        self.zero(taken, request.order.bytes());
        Ok(taken)
    }
}

impl<P: Platform> Ready<'_, P> {
    /// Takes frames from the pool of `node` by `pop` until one is found that is neither pending
    /// retirement nor freed twice, as shown by the CPU's magazine.
    #[inline]
    fn next_zeroed(
        self,
        node: &Node,
        pop: impl Fn() -> Option<FrameNumber>,
        is_cached: impl Fn(FrameNumber) -> bool,
    ) -> Option<(FrameNumber, &'static Region)> {
        loop {
            let number = pop()?;
            // Freed although already free: the magazine has the frame, and the pool does not hand the frame out.
            if is_cached(number) {
                node.zeroed.count_doubles(1);
                continue;
            }
            let region = self.state.region_of(number)?;
            // No zone counts the pool's frames, and no zone loses the frame.
            let retires = region.retired.any_pending()
                && region.retired.complete_held(number.word(), number.mask_in_word()) != 0;
            if !retires {
                return Some((number, region));
            }
        }
    }

    /// Takes a zeroed frame of the nearest allowed node with memory from its pool.
    fn pop_zeroed(self, pin: &CpuPin, plan: Plan<'_>, request: &FrameRequest) -> Option<FrameNumber> {
        if request.limit != FrameNumber::MAX {
            return None;
        }
        let nearest = self.state.node(plan.origin)?.nearest().iter();
        let mut allowed =
            nearest.filter(|&&id| plan.allowed.contains(id)).filter_map(|&id| self.state.node(id));
        let has = |node: &Node, zone: Zone| node.zones[zone.index()].managed > 0;
        let node = allowed.find(|node| Zone::ALL.iter().any(|&zone| has(node, zone)))?;
        if Zone::ALL.iter().any(|&zone| zone > request.zone && has(node, zone)) {
            return None;
        }
        let place = PoolCursor::new(pin.cpu().index());
        let is_cached = |number| {
            self.frames
                .magazines
                .get(pin.cpu())
                .is_some_and(|magazine| magazine.holds_of(number, 1).is_some())
        };
        let Some((number, region)) = self.next_zeroed(node, || node.zeroed.pop(&place), is_cached) else {
            node.zeroed.count_miss();
            return None;
        };
        self.count(pin, plan, region);
        self.state.record_alloc(number, AllocKind::Aligned(Order::FRAME));
        Some(number)
    }
}
