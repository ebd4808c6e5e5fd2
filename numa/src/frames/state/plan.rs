//! The plan of a request: the node to begin at, and the nodes allowed.

use topomem_percpu::{CpuId, NodeId};

use super::AllocatorState;
use crate::frames::magazine::Magazine;
use crate::frames::magazine::table::MagazineTable;
use crate::frames::node::Node;
use crate::frames::node::turns::Turns;
use crate::frames::types::{Allowed, FrameNumber, FrameRequest, InvalidRequest, NodeSet, Policy, Zone};

/// Where a request may be served: nearest to `origin` first, within `allowed`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan<'r> {
    /// The preferred node.
    pub(crate) start: NodeId,
    /// The node for distances.
    pub(crate) origin: NodeId,
    pub(in crate::frames) allowed: Allowed<'r>,
}

impl AllocatorState {
    /// Returns the plan of a request of `cpu`. An interleaved request takes a turn of the CPU's magazine in
    /// `magazines`.
    pub(crate) fn plan<'r>(
        &self,
        cpu: CpuId,
        request: &'r FrameRequest,
        magazines: &MagazineTable,
    ) -> Result<Plan<'r>, InvalidRequest> {
        let turns = || magazines.get(cpu).map_or(&self.turns, Magazine::turns);
        let near = request.node.unwrap_or(self.cpu_nodes.of(cpu).home);
        let known = |node: NodeId| self.node(node).ok_or(InvalidRequest::UnknownNode(node));
        let any = Allowed::All;
        let nearest = known(near)?.nearest();
        let plan = |start, allowed| Plan { start, origin: start, allowed };
        Ok(match &request.policy {
            Policy::Local => plan(near, any),
            Policy::Preferred(node) => {
                known(*node)?;
                plan(*node, any)
            }
            Policy::Bind(set) => {
                let first = nearest.iter().copied().find(|&node| set.contains(node));
                let start = first.ok_or(InvalidRequest::NoNode)?;
                // Not the first node's distances: the first node may not reach every node within reach of the
                // requester.
                Plan { start, origin: near, allowed: Allowed::Of(set) }
            }
            Policy::Interleave(set) => plan(self.turn(turns(), request, set, |_| 1)?, any),
            Policy::WeightedInterleave(set) => {
                plan(self.turn(turns(), request, set, |node| node.weight)?, any)
            }
        })
    }

    /// Returns the existing nodes of `set`.
    pub(in crate::frames) fn members(&self, set: &NodeSet) -> impl Iterator<Item = &'static Node> + Clone {
        // Nodes are numbered densely, and members come in order: behind the first missing node, all are missing.
        set.iter().map_while(|id| self.node(id))
    }

    /// Returns the next node in turn among the nodes of `set` with memory for the request, by weight,
    /// or the first of `set` if none has memory.
    fn turn(
        &self,
        turns: &Turns,
        request: &FrameRequest,
        set: &NodeSet,
        weight: impl Fn(&Node) -> u64 + Clone,
    ) -> Result<NodeId, InvalidRequest> {
        let serving = self.members(set).filter(|node| self.may_ever_serve(node, request));
        let next = turns.next(serving.map(|node| (node.id, weight(node))));
        let first = || self.members(set).next().map(|node| node.id);
        next.or_else(first).ok_or(InvalidRequest::NoNode)
    }

    /// Returns true if the node has memory, free or not, in the request's zones and below its
    /// limit.
    fn may_ever_serve(&self, node: &Node, request: &FrameRequest) -> bool {
        let zones = node.zones.iter().zip(Zone::ALL).filter(|&(_, zone)| zone <= request.zone);
        let mut zones = zones.map(|(state, _)| state).filter(|state| state.managed > 0);
        zones.any(|state| {
            let mut regions = state.regions.descending();
            request.limit == FrameNumber::MAX || regions.any(|region| region.span.start < request.limit)
        })
    }
}
