//! The turns of interleaving.

use topomem_percpu::NodeId;
use topomem_percpu::sync::atomic::{AtomicU16, Ordering};

use crate::frames::types::NodeSet;

/// Counters of a CPU; sets of nodes are distributed over the counters.
const COUNTERS: usize = 32;
/// 2^64 divided by the golden ratio: the multiples are spread evenly, in the high bits.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// A CPU's turns, on a separate line. Nested contexts of the CPU may take the same turn.
#[derive(Debug)]
#[repr(align(64))]
pub(in crate::frames) struct Turns([AtomicU16; COUNTERS]);

impl Turns {
    #[cfg(not(loom))]
    pub(in crate::frames) const fn new() -> Turns {
        Turns([const { AtomicU16::new(0) }; COUNTERS])
    }

    /// loom's atomics have no `const` constructor.
    #[cfg(loom)]
    pub(in crate::frames) fn new() -> Turns {
        Turns(core::array::from_fn(|_| AtomicU16::new(0)))
    }

    /// Takes a turn among `nodes`, passed with their weights: each node has as many turns in a round as
    /// the node's weight.
    ///
    /// Sets used alternately do not disturb each other: each set has a separate counter, except for a
    /// chance of 1 in 32. Each round begins at another node: alternating users of a set get every node,
    /// and no user always the same node.
    pub(in crate::frames) fn next(
        &self,
        nodes: impl Iterator<Item = (NodeId, u64)> + Clone,
    ) -> Option<NodeId> {
        let round: u64 = nodes.clone().map(|(_, weight)| weight).sum();
        let set: NodeSet = nodes.clone().map(|(node, _)| node).collect();
        let turn = &self.0[(set.spread(round) >> 59) as usize % COUNTERS];
        // Relaxed: the CPU's own counter.
        let now = u64::from(turn.load(Ordering::Relaxed));
        let whole_rounds = (1 << 16) - (1 << 16) % round.clamp(1, 1 << 16);
        turn.store(((now + 1) % whole_rounds) as u16, Ordering::Relaxed);
        let begin = (now / round.max(1)).wrapping_mul(GOLDEN) >> 32;
        let mut left = (now + begin) % round.max(1);
        let mut chosen = nodes.skip_while(|&(_, weight)| {
            let passed = left >= weight;
            left = left.saturating_sub(if passed { weight } else { 0 });
            passed
        });
        chosen.next().map(|(node, _)| node)
    }
}

impl NodeSet {
    /// Returns a number with high bits that differ from set to set, and from round to round.
    fn spread(&self, round: u64) -> u64 {
        let words = self.words().iter().filter(|&&word| word != 0);
        words.fold(round.wrapping_mul(GOLDEN), |spread, &word| (word ^ spread).wrapping_mul(GOLDEN))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::vec::Vec;

    use super::*;

    fn take(turns: &Turns, weights: &[u64], shares: &mut [u64]) {
        let nodes = weights.iter().enumerate();
        let chosen = turns.next(nodes.filter_map(|(index, &weight)| Some((NodeId::new(index)?, weight))));
        chosen.into_iter().for_each(|node| shares[node.index()] += 1);
    }

    #[test]
    fn every_round_has_each_weight_once() {
        let turns = Turns::new();
        for _ in 0..if cfg!(miri) { 20 } else { 10_000 } {
            let mut shares = [0; 3];
            (0..7).for_each(|_| take(&turns, &[4, 1, 2], &mut shares));
            assert_eq!(shares, [4, 1, 2]);
        }
    }

    #[test]
    fn users_that_alternate_get_every_node() {
        for users in if cfg!(miri) { 2..3 } else { 1..9 } {
            let turns = Turns::new();
            let mut shares: Vec<[u64; 2]> = std::vec![[0; 2]; users];
            for _ in 0..200 {
                shares.iter_mut().for_each(|shares| take(&turns, &[1, 1], shares));
            }
            assert!(shares.iter().all(|shares| shares.iter().all(|&share| share > 60)), "{shares:?}");
        }
    }

    #[test]
    fn nobody_has_a_turn_among_none() {
        let turns = Turns::new();
        assert_eq!(turns.next(core::iter::empty()), None);
        assert_eq!(turns.next([(NodeId::ZERO, 0)].into_iter()), None);
    }
}
