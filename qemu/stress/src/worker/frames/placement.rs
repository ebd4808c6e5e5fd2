//! Does memory come from where it should?
//!
//! Free counts change under the judge's eyes, so a single look proves nothing. What is judged is
//! a single frame asked for locally; a suspicion (a farther node served although a nearer one has
//! plenty free) is repeated, each time with a look before and after, and counts only if plenty
//! was free in every look. A nearer node whose memory runs out and comes back between two looks,
//! [`CONFIRMATIONS`] times in a row, is not credible: plenty is a quarter of the node, more than
//! any watermark.

use topomem::frames::FrameRequest;
use topomem::{NodeId, Order};

use crate::Text;
use crate::shared::transfer::HeldFrames;
use crate::worker::Worker;
use crate::{Failure, Rig};

const CONFIRMATIONS: u32 = 4;
const UNREACHABLE: u8 = 255;

impl<R: Rig> Worker<'_, R> {
    /// `held` was asked for locally.
    pub(super) fn check_local(&mut self, held: HeldFrames) {
        let mut suspect = held;
        for _ in 0..CONFIRMATIONS {
            let Some((nearer, _)) = self.nearer_with_plenty(suspect) else { return };
            let request = FrameRequest::frame();
            let Ok(frame) = self.run.rig.service().frames().alloc(&self.pin, &request) else { return };
            let Some(again) = self.take_in(frame, Order::FRAME) else { return };
            let after = self.nearer_with_plenty(again);
            self.free_unchecked(again);
            match after {
                Some((node, _)) if node == nearer => suspect = again,
                _ => return,
            }
        }
        if let Some((nearer, free)) = self.nearer_with_plenty(suspect) {
            let truth = &self.run.truth;
            let home = truth.node_of_cpu(self.cpu);
            let got = truth.node_of_frame(suspect.frame).unwrap_or(home);
            self.run.fail(Failure::WrongNode {
                cpu: self.cpu,
                frame: suspect.frame,
                got: (got, truth.distance(home, got)),
                nearer: (nearer, truth.distance(home, nearer)),
                free,
            });
        }
    }

    /// The nearest node that is nearer than where `held` is and has plenty free, and how much.
    fn nearer_with_plenty(&self, held: HeldFrames) -> Option<(NodeId, u64)> {
        let truth = &self.run.truth;
        let home = truth.node_of_cpu(self.cpu);
        let got = truth.distance(home, truth.node_of_frame(held.frame)?);
        let nearer = truth.nodes().filter(|&node| truth.distance(home, node) < got);
        let plenty = nearer.filter_map(|node| Some((node, self.plenty(node)?)));
        plenty.min_by_key(|&(node, _)| truth.distance(home, node))
    }

    /// How many frames `node` has free, if that is plenty.
    pub(in crate::worker) fn plenty(&self, node: NodeId) -> Option<u64> {
        let free = self.run.rig.service().frames().stats(node)?.free();
        let enough = self.run.truth.frame_count(node) / 4 + 64;
        if free > enough { Some(free) } else { None }
    }

    /// `held` was asked for on `node` and no other.
    pub(super) fn check_bound(&self, held: HeldFrames, node: NodeId) {
        let truth = &self.run.truth;
        let home = truth.node_of_cpu(self.cpu);
        let Some(got) = truth.node_of_frame(held.frame) else { return };
        if got != node {
            self.run.fail(Failure::WrongNode {
                cpu: self.cpu,
                frame: held.frame,
                got: (got, truth.distance(home, got)),
                nearer: (node, truth.distance(home, node)),
                free: 0,
            });
        }
    }

    /// A single frame, from anywhere, was refused.
    pub(super) fn check_exhausted(&self) {
        let truth = &self.run.truth;
        let home = truth.node_of_cpu(self.cpu);
        let reachable = truth.nodes().filter(|&node| truth.distance(home, node) != UNREACHABLE);
        // Plenty everywhere at once does not go and come back while one frame is asked for.
        let mut with_memory = reachable.filter(|&node| truth.frame_count(node) > 0).peekable();
        if with_memory.peek().is_some() && with_memory.all(|node| self.plenty(node).is_some()) {
            self.refused("allocating one frame while every node has plenty", Text::display(&"exhausted"));
        }
    }
}
