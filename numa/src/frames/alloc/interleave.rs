//! Interleaving by number: the node of the item with a given number.

use topomem_percpu::{NodeId, Platform};

use crate::frames::Frames;
use crate::frames::node::Node;
use crate::frames::types::{NodeSet, Policy};

impl<P: Platform> Frames<P> {
    /// Returns the node of the item `number` of a sequence interleaved by `policy`: consecutive
    /// numbers have the nodes in turn, each in proportion to its weight. So if the pages of a range
    /// are numbered, they are spread exactly, in any order of their first use.
    ///
    /// Returns `None` if `policy` is not [`Policy::Interleave`] or [`Policy::WeightedInterleave`],
    /// or if none of its nodes has memory.
    ///
    /// Cost: two checks of each node of the policy.
    pub fn interleaved(&self, policy: &Policy, number: u64) -> Option<NodeId> {
        match policy {
            Policy::Interleave(set) => self.at_turn(set, number, |_| 1),
            Policy::WeightedInterleave(set) => self.at_turn(set, number, |node| node.weight),
            Policy::Local | Policy::Bind(_) | Policy::Preferred(_) => None,
        }
    }

    fn at_turn(&self, set: &NodeSet, number: u64, weight: impl Fn(&Node) -> u64) -> Option<NodeId> {
        let state = self.state()?;
        let has_memory = |node: &&Node| node.zones.iter().any(|zone| zone.managed > 0);
        let nodes = || state.members(set).filter(has_memory);
        let round: u64 = nodes().map(&weight).sum();
        let mut left = number.checked_rem(round)?;
        let chosen = nodes().find(|node| {
            let weight = weight(node);
            let is_chosen = left < weight;
            left = left.saturating_sub(weight);
            is_chosen
        });
        chosen.map(|node| node.id)
    }
}
