//! Allocation on the shared path: node by node in the policy's order, until a run is found or no
//! free run can have been missed ([`crate::frames::region::transit`]).

use topomem_percpu::sync::atomic::{Ordering, fence};
use topomem_percpu::sync::hint::spin_loop;
use topomem_percpu::{CpuPin, Platform};

use super::Shape;
use crate::frames::Frames;
use crate::frames::magazine::Magazine;
use crate::frames::node::Node;
use crate::frames::region::transit::Watch;
use crate::frames::region::{BLOCK, Miss, Region};
use crate::frames::state::{Machine, Plan};
use crate::frames::types::{AllocError, Caller, FrameRequest, Obstacle, Zone};

/// The maximum number of repetitions of a search that may have missed frames.
const ROUNDS: u32 = 8;

/// The scope and the target of a search.
#[derive(Debug, Clone, Copy)]
struct Scope<'r> {
    plan: Plan,
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

impl<P: Platform> Frames<P> {
    /// Searches the allowed nodes by distance.
    ///
    /// Bound: mostly one search; if nothing is found, at most 9, each followed by a check of all
    /// magazines.
    pub(super) fn alloc_shared(
        &self,
        machine: &Machine,
        pin: &CpuPin,
        request: &FrameRequest,
        shape: Shape,
    ) -> Result<u64, AllocError> {
        let plan = machine.plan(pin.cpu(), request, &self.rack).map_err(AllocError::InvalidRequest)?;
        let scope = Scope { plan, request, shape };
        drop(self.enter_answering(machine, pin));
        if let Ok(number) = self.search(machine, pin, scope) {
            return Ok(number);
        }
        let blocked = |why| AllocError::WouldBlock { node: plan.start, order: request.order, why };
        for _ in 0..ROUNDS {
            let before = self.watch(machine, scope);
            let missed = match self.search(machine, pin, scope) {
                Ok(number) => return Ok(number),
                Err(missed) => missed,
            };
            let pooled = scope.nodes(machine).any(|node| !node.zeroed.is_empty());
            let searched = self.watch(machine, scope);
            let holder = self.ask_holders(machine, pin, scope);
            let after = self.watch(machine, scope);
            match holder {
                Holder::Others => return Err(blocked(Obstacle::Held)),
                Holder::Interrupted => return Err(blocked(Obstacle::Interrupted)),
                Holder::Own | Holder::Nobody => {}
            }
            let calm = after.is_calm_since(before) && after.took_nothing_since(searched);
            if holder == Holder::Nobody && missed == Miss::Nothing && !pooled && calm {
                return Err(AllocError::Exhausted {
                    node: plan.start,
                    zone: request.zone,
                    order: request.order,
                });
            }
            // It continues only after this context ends.
            if self.rack.get(pin.cpu()).is_some_and(Magazine::is_moving) {
                return Err(blocked(Obstacle::Interrupted));
            }
            // The search was tried often enough.
            if missed == Miss::InTransit {
                break;
            }
            spin_loop();
        }
        Err(blocked(Obstacle::InTransit))
    }

    /// Searches the allowed nodes once. Returns a run's first frame.
    fn search(&self, machine: &Machine, pin: &CpuPin, scope: Scope<'_>) -> Result<u64, Miss> {
        let Scope { plan, request, shape } = scope;
        let mut missed = Miss::Nothing;
        for node in scope.nodes(machine) {
            let mut taken = self.take_on(node, machine, request, shape);
            // Frames held by this CPU itself must not cause a farther node, or a failure.
            if taken.is_err() && self.give_up_cached(machine, pin) {
                taken = self.take_on(node, machine, request, shape);
            }
            // Nor must frames in the node's pool of zeroed frames.
            if taken.is_err() && self.spill_zeroed(machine, node) > 0 {
                taken = self.take_on(node, machine, request, shape);
            }
            match taken {
                Ok((number, region)) => {
                    self.account_shared(machine, region, -(shape.frames() as i64));
                    self.count(machine, pin, plan, region);
                    return Ok(number);
                }
                Err(Miss::InTransit) => missed = Miss::InTransit,
                Err(Miss::Nothing) => {}
            }
        }
        Err(missed)
    }

    /// Reads all counts that must stay unchanged during a search.
    fn watch(&self, machine: &Machine, scope: Scope<'_>) -> Watch {
        // Acquires the values seen by the search, read with any ordering: if the search saw the
        // effect of a claim, a hit or a move, this context sees the counts that came before.
        fence(Ordering::SeqCst);
        let mut watch = Watch::default();
        let (allowed, zone) = (scope.plan.allowed, scope.request.zone);
        for magazine in machine.magazines.iter().copied().flatten() {
            magazine.watch(&mut watch, allowed.contains(magazine.node).then_some(zone));
        }
        for node in machine.nodes().filter(|node| allowed.contains(node.id)) {
            node.zeroed.watch(&mut watch);
        }
        let regions = machine.directory.regions.iter();
        for region in regions.filter(|region| allowed.contains(region.node) && region.zone <= zone) {
            region.watch(&mut watch);
        }
        let own = match scope.request.caller {
            Caller::Single => 0,
            Caller::Bulk => 1,
        };
        watch.add(machine.bulks.load().without(own));
        watch
    }

    /// Asks CPUs to drain if they hold frames suitable for the request.
    fn ask_holders(&self, machine: &Machine, pin: &CpuPin, scope: Scope<'_>) -> Holder {
        let Scope { plan, request, shape } = scope;
        let allowed = |frame: u64| {
            frame < request.limit
                && machine
                    .region_of(frame)
                    .is_some_and(|region| plan.allowed.contains(region.node) && region.zone <= request.zone)
        };
        // Smaller runs are claimed from owned blocks as from all other blocks.
        let whole = |first: u64| {
            let at = machine.block_at(first).filter(|_| shape.frames() >= BLOCK && allowed(first));
            at.is_some_and(|(region, block)| region.line(block).is_full())
        };
        let mut holder = Holder::Nobody;
        for magazine in self.rack.iter() {
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
    fn take_on(
        &self,
        node: &Node,
        machine: &Machine,
        request: &FrameRequest,
        shape: Shape,
    ) -> Result<(u64, &'static Region), Miss> {
        let mut missed = Miss::Nothing;
        for zone in Zone::ALL.into_iter().rev().filter(|&zone| zone <= request.zone) {
            let state = &node.zones[zone.index()];
            if !machine.may_take(node.id, zone, request, shape.frames()) {
                continue;
            }
            for region in state.regions.descending() {
                match self.take_from(machine, region, request, shape) {
                    Ok(number) => return Ok((number, region)),
                    Err(Miss::InTransit) => missed = Miss::InTransit,
                    Err(Miss::Nothing) => {}
                }
            }
        }
        Err(missed)
    }

    /// Allocates a run from a region, without retired frames.
    pub(super) fn take_from(
        &self,
        machine: &Machine,
        region: &Region,
        request: &FrameRequest,
        shape: Shape,
    ) -> Result<u64, Miss> {
        loop {
            // Before the claim: the claimed run may be released.
            let withholding = region.retired.any_pending().then(|| region.withholding());
            let taken = shape.take(region, request.limit);
            // A claim may have moved blocks.
            self.sweep(machine, region);
            // A frame retired since this check was allocated first.
            let Some(withholding) = withholding else { return taken };
            // Each time there is at least one frame less to retire.
            if self.stays_taken(machine, region, taken, shape.frames()) {
                withholding.cancel();
                return taken;
            }
        }
    }

    pub(super) fn count(&self, machine: &Machine, pin: &CpuPin, plan: Plan, region: &Region) {
        if region.node == plan.start {
            machine.node(region.node).into_iter().for_each(|node| node.counters.count_local());
        } else {
            machine.node(region.node).into_iter().for_each(|node| node.counters.count_remote());
            machine.node(plan.start).into_iter().for_each(|node| node.counters.count_foreign());
        }
        // A nested context's count may get lost; it is a statistic.
        if let Some(magazine) = self.rack.get(pin.cpu()) {
            if region.node == magazine.node { magazine.local.add(1) } else { magazine.remote.add(1) }
        }
    }
}

impl Scope<'_> {
    /// Returns the allowed nodes, nearest first.
    fn nodes(self, machine: &Machine) -> impl Iterator<Item = &'static Node> {
        let nearest = machine.node(self.plan.origin).map_or(&[][..], Node::nearest);
        let allowed = nearest.iter().filter(move |&&id| self.plan.allowed.contains(id));
        allowed.filter_map(|&id| machine.node(id))
    }
}
