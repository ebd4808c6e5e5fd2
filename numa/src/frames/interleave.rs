//! Interleaving by number: whose is the item with a given number?

use topomem_percpu::{NodeId, Platform};

use super::node::Node;
use super::{Frames, NodeSet, Policy};

impl<P: Platform> Frames<P> {
    /// Returns the node of the item `number` of a sequence that is interleaved by `policy`: consecutive
    /// numbers have the nodes in turn, each as often as its weight says. So the pages of a range are spread
    /// exactly if their numbers are given, whichever is used first.
    ///
    /// `None` if `policy` is not [`Policy::Interleave`] or [`Policy::WeightedInterleave`], or none of its
    /// nodes has memory.
    ///
    /// Cost: two looks at each node of the policy.
    pub fn interleaved(&self, policy: Policy, number: u64) -> Option<NodeId> {
        match policy {
            Policy::Interleave(set) => self.at_turn(set, number, |_| 1),
            Policy::WeightedInterleave(set) => self.at_turn(set, number, |node| node.weight),
            Policy::Local | Policy::Bind(_) | Policy::Preferred(_) => None,
        }
    }

    fn at_turn(&self, set: NodeSet, number: u64, weight: impl Fn(&Node) -> u64) -> Option<NodeId> {
        let machine = self.machine()?;
        let has_memory = |node: &&Node| node.zones.iter().any(|zone| zone.managed > 0);
        let nodes = || set.iter().filter_map(|id| machine.node(id)).filter(has_memory);
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
