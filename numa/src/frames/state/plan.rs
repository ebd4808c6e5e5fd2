//! The plan of a request: the node to begin at, and the nodes allowed.

use topomem_percpu::{CpuId, NodeId};

use super::AllocatorState;
use crate::frames::magazine::Magazine;
use crate::frames::magazine::table::MagazineTable;
use crate::frames::node::Node;
use crate::frames::node::turns::Turns;
use crate::frames::types::{FrameRequest, InvalidRequest, NodeSet, Policy, Zone};

/// Where a request may be served: nearest to `origin` first, within `allowed`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    /// The preferred node.
    pub(crate) start: NodeId,
    /// The node for distances.
    pub(crate) origin: NodeId,
    pub(crate) allowed: NodeSet,
}

impl AllocatorState {
    /// Returns the plan of a request of `cpu`. An interleaved request takes a turn of the CPU's magazine in
    /// `magazines`.
    pub(crate) fn plan(
        &self,
        cpu: CpuId,
        request: &FrameRequest,
        magazines: &MagazineTable,
    ) -> Result<Plan, InvalidRequest> {
        let turns = || magazines.get(cpu).map_or(&self.turns, Magazine::turns);
        let near = request.node.unwrap_or(self.cpu_nodes.of(cpu).home);
        let known = |node: NodeId| self.node(node).ok_or(InvalidRequest::UnknownNode(node));
        let members = |set: NodeSet| {
            let members: NodeSet = set.iter().filter(|node| self.node(*node).is_some()).collect();
            if members.is_empty() { Err(InvalidRequest::NoNode) } else { Ok(members) }
        };
        let nearest = known(near)?.nearest();
        let plan = |start, allowed| Plan { start, origin: start, allowed };
        Ok(match request.policy {
            Policy::Local => plan(near, NodeSet::ALL),
            Policy::Preferred(node) => {
                known(node)?;
                plan(node, NodeSet::ALL)
            }
            Policy::Bind(set) => {
                let set = members(set)?;
                let first = nearest.iter().copied().find(|&node| set.contains(node));
                // Not the first node's distances: the first node may not reach every node within reach of the
                // requester.
                Plan { start: first.ok_or(InvalidRequest::NoNode)?, origin: near, allowed: set }
            }
            Policy::Interleave(set) => plan(self.turn(turns(), request, members(set)?, |_| 1), NodeSet::ALL),
            Policy::WeightedInterleave(set) => {
                plan(self.turn(turns(), request, members(set)?, |node| node.weight), NodeSet::ALL)
            }
        })
    }

    /// Returns the next node in turn among the nodes of `set` with memory for the request, by weight,
    /// or the first of `set` if none has memory.
    fn turn(
        &self,
        turns: &Turns,
        request: &FrameRequest,
        set: NodeSet,
        weight: impl Fn(&Node) -> u64 + Clone,
    ) -> NodeId {
        let nodes = set.iter().filter_map(|id| self.node(id));
        let serving = nodes.filter(|node| self.may_ever_serve(node, request));
        let next = turns.next(serving.map(|node| (node.id, weight(node))));
        next.or_else(|| set.iter().next()).unwrap_or(NodeId::ZERO)
    }

    /// Returns true if the node has memory, free or not, in the request's zones and below its
    /// limit.
    fn may_ever_serve(&self, node: &Node, request: &FrameRequest) -> bool {
        let zones = node.zones.iter().zip(Zone::ALL).filter(|&(_, zone)| zone <= request.zone);
        let mut zones = zones.map(|(state, _)| state).filter(|state| state.managed > 0);
        zones.any(|state| {
            let mut regions = state.regions.descending();
            request.limit == u64::MAX || regions.any(|region| region.span.start < request.limit)
        })
    }
}
