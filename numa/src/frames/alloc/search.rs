//! Allocation on the shared path: node by node in the policy's order, until a run is found or no
//! free run can have been missed ([`crate::frames::region::transit`]).

use topomem_percpu::sync::atomic::{Ordering, fence};
use topomem_percpu::sync::hint::spin_loop;
use topomem_percpu::{CpuPin, Platform};

use crate::frames::magazine::Magazine;
use crate::frames::node::Node;
use crate::frames::ready::Ready;
use crate::frames::region::shape::Shape;
use crate::frames::region::transit::Watch;
use crate::frames::region::{Region, SearchError};
use crate::frames::state::AllocatorState;
use crate::frames::state::plan::Plan;
use crate::frames::types::{AllocError, BLOCK, Caller, FrameNumber, FrameRequest, Obstacle, Zone};

/// The maximum number of repetitions of a search that may have missed frames.
const ROUNDS: u32 = 8;

/// The scope and the target of a search.
#[derive(Debug, Clone, Copy)]
struct Scope<'r> {
    plan: Plan<'r>,
    request: &'r FrameRequest,
    shape: Shape,
}

/// The holder of suitable frames that was asked to drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holder {
    Nobody,
    /// This CPU, whose magazine a handler has used since it was flushed.
    Own,
    /// The context interrupted by this one.
    Interrupted,
    Others,
}

impl<P: Platform> Ready<'_, P> {
    /// Searches the allowed nodes by distance.
    ///
    /// Bound: mostly one search; if nothing is found, at most 9, each followed by a check of all
    /// magazines.
    pub(super) fn alloc_from_nodes(
        self,
        pin: &CpuPin,
        request: &FrameRequest,
        shape: Shape,
    ) -> Result<FrameNumber, AllocError> {
        let plan = self
            .state
            .plan(pin.cpu(), request, &self.frames.magazines)
            .map_err(AllocError::InvalidRequest)?;
        let scope = Scope { plan, request, shape };
        drop(self.enter_magazine(pin));
        if let Ok(number) = self.search_nodes(pin, scope) {
            return Ok(number);
        }
        let blocked = |why| AllocError::WouldBlock { node: plan.start, order: request.order, why };
        for _ in 0..ROUNDS {
            let before = self.watch(scope);
            let missed = match self.search_nodes(pin, scope) {
                Ok(number) => return Ok(number),
                Err(missed) => missed,
            };
            let pooled = scope.nodes(self.state).any(|node| !node.zeroed.is_empty());
            let searched = self.watch(scope);
            let holder = self.ask_holders(pin, scope);
            let after = self.watch(scope);
            match holder {
                Holder::Others => return Err(blocked(Obstacle::Held)),
                Holder::Interrupted => return Err(blocked(Obstacle::Interrupted)),
                Holder::Own | Holder::Nobody => {}
            }
            let calm = after.is_calm_since(before) && after.took_nothing_since(searched);
            if holder == Holder::Nobody && missed == SearchError::Nothing && !pooled && calm {
                return Err(AllocError::Exhausted {
                    node: plan.start,
                    zone: request.zone,
                    order: request.order,
                });
            }
            // The interrupted context continues only after this context ends.
            if self.frames.magazines.get(pin.cpu()).is_some_and(Magazine::is_moving) {
                return Err(blocked(Obstacle::Interrupted));
            }
            // A region's search has been repeated as often as it may be.
            if missed == SearchError::InTransit {
                break;
            }
            spin_loop();
        }
        Err(blocked(Obstacle::InTransit))
    }

    /// Searches the allowed nodes once. Returns a run's first frame.
    fn search_nodes(self, pin: &CpuPin, scope: Scope<'_>) -> Result<FrameNumber, SearchError> {
        let Scope { plan, request, shape } = scope;
        let mut missed = SearchError::Nothing;
        for node in scope.nodes(self.state) {
            let mut taken = self.alloc_from_node(node, request, shape);
            // Frames held by this CPU itself must not cause a farther node, or a failure.
            if taken.is_err() && self.drain_own_magazine(pin) {
                taken = self.alloc_from_node(node, request, shape);
            }
            // Nor must frames in the node's pool of zeroed frames.
            if taken.is_err() && self.spill_zeroed(node) > 0 {
                taken = self.alloc_from_node(node, request, shape);
            }
            match taken {
                Ok((number, region)) => {
                    self.state.account_shared(region, -(shape.frames() as i64));
                    self.count(pin, plan, region);
                    return Ok(number);
                }
                Err(SearchError::InTransit) => missed = SearchError::InTransit,
                Err(SearchError::Nothing) => {}
            }
        }
        Err(missed)
    }

    /// Reads all counts that must stay unchanged during a search.
    fn watch(self, scope: Scope<'_>) -> Watch {
        // Acquires the values seen by the search, read with any ordering: if the search saw the
        // effect of a claim, a hit or a move, this context sees the counts that came before.
        fence(Ordering::SeqCst);
        let mut watch = Watch::default();
        let (allowed, zone) = (scope.plan.allowed, scope.request.zone);
        for magazine in self.state.magazines.iter().copied().flatten() {
            magazine.watch(&mut watch, allowed.contains(magazine.node).then_some(zone));
        }
        for node in self.state.nodes().filter(|node| allowed.contains(node.id)) {
            node.zeroed.watch(&mut watch);
        }
        let regions = self.state.directory.regions.iter();
        for region in regions.filter(|region| allowed.contains(region.node) && region.zone <= zone) {
            region.watch(&mut watch);
        }
        let own = match scope.request.caller {
            Caller::Single => 0,
            Caller::Bulk => 1,
        };
        watch.add(self.state.bulks.load().without(own));
        watch
    }

    /// Asks CPUs to drain if they hold frames suitable for the request.
    fn ask_holders(self, pin: &CpuPin, scope: Scope<'_>) -> Holder {
        let Scope { plan, request, shape } = scope;
        let allowed = |frame: FrameNumber| {
            frame < request.limit
                && self
                    .state
                    .region_of(frame)
                    .is_some_and(|region| plan.allowed.contains(region.node) && region.zone <= request.zone)
        };
        // Smaller runs are claimed from owned blocks as from all other blocks.
        let whole = |first: FrameNumber| {
            let at = self.state.block_at(first).filter(|_| shape.frames() >= BLOCK && allowed(first));
            at.is_some_and(|(region, block)| region.line(block).is_full())
        };
        let mut holder = Holder::Nobody;
        for magazine in self.frames.magazines.iter() {
            let holds = magazine.words().any(|word| allowed(word.first()))
                || magazine.blocks().any(allowed)
                || magazine.block().is_some_and(whole);
            if !holds {
                continue;
            }
            if magazine.cpu != pin.cpu() {
                magazine.request_drain();
                holder = Holder::Others;
            } else if holder != Holder::Others {
                holder = if magazine.is_busy() { Holder::Interrupted } else { Holder::Own };
            }
            if holder == Holder::Interrupted {
                magazine.request_drain();
            }
        }
        holder
    }

    /// Allocates a run on one node, from the highest allowed zone with such a run.
    fn alloc_from_node(
        self,
        node: &Node,
        request: &FrameRequest,
        shape: Shape,
    ) -> Result<(FrameNumber, &'static Region), SearchError> {
        let mut missed = SearchError::Nothing;
        for zone in Zone::ALL.into_iter().rev().filter(|&zone| zone <= request.zone) {
            let node_zone = &node.zones[zone.index()];
            if !self.state.may_take(node.id, zone, request, shape.frames()) {
                continue;
            }
            for region in node_zone.regions.descending() {
                match self.alloc_from_region(region, request, shape) {
                    Ok(number) => return Ok((number, region)),
                    Err(SearchError::InTransit) => missed = SearchError::InTransit,
                    Err(SearchError::Nothing) => {}
                }
            }
        }
        Err(missed)
    }

    /// Allocates a run from a region, without retired frames.
    pub(in crate::frames) fn alloc_from_region(
        self,
        region: &Region,
        request: &FrameRequest,
        shape: Shape,
    ) -> Result<FrameNumber, SearchError> {
        loop {
            // Before the claim: the claimed run may be released.
            let withholding = region.retired.any_pending().then(|| region.withholding());
            let taken = shape.alloc_from(region, request.limit);
            // A claim may have moved blocks.
            self.state.sweep(region);
            // A frame retired since this check was allocated first.
            let Some(withholding) = withholding else { return taken };
            // Each time there is at least one frame less to retire.
            if !self.withhold_retired(region, taken, shape.frames()) {
                withholding.cancel();
                return taken;
            }
        }
    }

    /// Counts an allocated run of `region`: served by the preferred node, or by another node.
    pub(super) fn count(self, pin: &CpuPin, plan: Plan<'_>, region: &Region) {
        if region.node == plan.start {
            self.state.node(region.node).into_iter().for_each(|node| node.counters.count_local());
        } else {
            self.state.node(region.node).into_iter().for_each(|node| node.counters.count_remote());
            self.state.node(plan.start).into_iter().for_each(|node| node.counters.count_foreign());
        }
        if let Some(magazine) = self.frames.magazines.get(pin.cpu()) {
            magazine.count_shared(region.node);
        }
    }
}

impl Scope<'_> {
    /// Returns the allowed nodes, nearest first.
    fn nodes(self, state: &AllocatorState) -> impl Iterator<Item = &'static Node> {
        let nearest = state.node(self.plan.origin).map_or(&[][..], Node::nearest);
        let allowed = nearest.iter().filter(move |&&id| self.plan.allowed.contains(id));
        allowed.filter_map(|&id| state.node(id))
    }
}
