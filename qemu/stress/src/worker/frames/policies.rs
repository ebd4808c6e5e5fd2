//! Do policies place frames where they say?
//!
//! Judged before the operations begin, while there is memory on every node: then a policy has no reason
//! to go elsewhere. Every node that is asked for must have plenty free before and after.

use topomem::frames::{FrameRequest, NodeSet, Policy};
use topomem::{NodeId, Order};

use crate::worker::{HELD, Worker};
use crate::{Failure, Rig};

/// Frames that are asked of each node, at most and at least.
const FROM_EACH: (usize, usize) = (40, 8);

impl<R: Rig> Worker<'_, R> {
    /// Asks for frames by each policy that spreads them or prefers a node, and counts where they lie.
    pub(super) fn check_policies(&mut self) {
        let all: NodeSet =
            self.run.truth.nodes().filter(|&node| self.run.truth.frame_count(node) > 0).collect();
        let equal = |_: &Worker<'_, R>, _| 1;
        self.check_shares("interleaved", Policy::Interleave(all), all, equal);
        self.check_shares("weighted", Policy::WeightedInterleave(all), all, |worker, node| {
            worker.run.truth.weight(node)
        });
        for node in all.iter() {
            let of = NodeSet::of(node);
            self.check_shares("preferred", Policy::Preferred(node), of, equal);
        }
    }

    /// Frames by `policy` must be on `nodes`, each with a share in proportion to `weight`.
    fn check_shares(
        &mut self,
        name: &'static str,
        policy: Policy,
        nodes: NodeSet,
        weight: impl Fn(&Worker<'_, R>, NodeId) -> u64,
    ) {
        let budget = usize::try_from(self.budget.saturating_sub(self.holding)).unwrap_or(HELD);
        let room = HELD.saturating_sub(self.frames.len()).min(budget);
        let from_each = (room / nodes.len().max(1)).min(FROM_EACH.0);
        let asked = from_each * nodes.len();
        if from_each < FROM_EACH.1 || !self.all_have_plenty(nodes) {
            return;
        }
        let first = self.frames.len();
        let request = FrameRequest::frame().policy(policy);
        for _ in 0..asked {
            let Ok(frame) = self.run.rig.service().frames().alloc(&self.pin, &request) else { break };
            let Some(held) = self.take_in(frame, Order::FRAME) else { return };
            self.keep(held);
        }
        let got = &self.frames[first..];
        if got.len() == asked && self.all_have_plenty(nodes) {
            let whole: u64 = nodes.iter().map(|node| weight(self, node)).sum();
            for node in nodes.iter() {
                let there = got.iter().filter(|held| self.run.truth.node_of_frame(held.frame) == Some(node));
                let (there, asked) = (there.count() as u64, asked as u64);
                let expected = asked * weight(self, node) / whole.max(1);
                // Weights are rounded, and a turn may be cut short.
                if there.abs_diff(expected) > asked / 16 + 1 {
                    let (cpu, expected) = (self.cpu, (expected, asked));
                    self.run.fail(Failure::WrongShare { cpu, policy: name, node, got: there, expected });
                }
            }
        }
        self.give_up_frames();
    }

    fn all_have_plenty(&self, nodes: NodeSet) -> bool {
        nodes.iter().all(|node| self.plenty(node).is_some())
    }
}
