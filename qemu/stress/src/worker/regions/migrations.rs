//! Pages that move to other nodes while CPUs use them. That changes nothing of what programs see, so it needs no
//! lock of the pages' states.

use topomem::region::PageMove;
use topomem::{NodeId, VirtAddr};

use super::word;
use crate::Rig;
use crate::shared::region_pages::{GROUP, REGION_PAGES};
use crate::worker::Worker;

/// How many pages move at once.
const MOST: usize = 4;

impl<R: Rig> Worker<'_, R> {
    /// Moves a few pages to a node.
    pub(super) fn migrate_pages(&mut self, space: usize) {
        let first = self.random.index(REGION_PAGES);
        let count = (1 + self.random.index(MOST)).min(GROUP - first % GROUP);
        let start = self.region_pages(space).page(first).address;
        self.migrate(space, start, count);
        self.count_changes(1);
    }

    /// Moves the `count` pages from `start` on to a node, as far as they can be moved.
    pub(super) fn migrate(&mut self, space: usize, start: VirtAddr, count: usize) {
        let node = self.other_node(space, start);
        let mut moves = [PageMove::new(start, node); MOST];
        for (number, page) in moves.iter_mut().enumerate() {
            *page = PageMove::new(word(start, number as u64 * 4096), node);
        }
        self.region_space(space).move_pages(&self.pin, &mut moves[..count.min(MOST)]);
    }

    /// A node on which the page at `start` is not, if there is another.
    fn other_node(&mut self, space: usize, start: VirtAddr) -> NodeId {
        let present = self.region_space(space).node_of_page(&self.pin, start);
        let others = || self.run.truth.nodes().filter(|&node| present != Ok(node));
        let count = others().count();
        let index = if count == 0 { 0 } else { self.random.index(count) };
        others().nth(index).unwrap_or(NodeId::ZERO)
    }
}
