//! Freed ranges still mapped.

use topomem_percpu::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::node::{Node, NodeNumber, State};

/// A list of freed ranges. Any context adds ranges without a lock.
///
/// A Treiber stack, only ever emptied as a whole: no context mistakes a node removed and added
/// again for the former node.
pub(super) struct FreedList {
    newest: AtomicU32,
    /// Number of mapped pages of listed ranges: a hint of when to unmap them.
    pages: AtomicU64,
}

impl FreedList {
    pub(super) fn new() -> FreedList {
        FreedList { newest: AtomicU32::new(0), pages: AtomicU64::new(0) }
    }

    /// Frees the range of `node`, numbered `number`. Returns false, and changes nothing, if the
    /// node is not in state `from`. Of several contexts freeing the same range, only one succeeds.
    pub(super) fn free(&self, node: &Node, number: NodeNumber, from: State) -> bool {
        if !node.change_state(from, State::Freed) {
            return false;
        }
        // Relaxed: a hint.
        self.pages.fetch_add(node.mapped(), Ordering::Relaxed);
        let new = NodeNumber::link(Some(number));
        let mut newest = self.newest.load(Ordering::Relaxed);
        loop {
            node.next.set(NodeNumber::of_link(newest));
            // Release pairs with the Acquire in `take`: the taker of the list sees the links, and
            // everything done by the ranges' users.
            match self.newest.compare_exchange_weak(newest, new, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(now) => newest = now,
            }
        }
    }

    /// Takes all ranges out: the newest, linked to the rest.
    pub(super) fn take(&self) -> Option<NodeNumber> {
        NodeNumber::of_link(self.newest.swap(0, Ordering::Acquire))
    }

    /// Returns the number of pages waiting to be unmapped.
    pub(super) fn pages(&self) -> u64 {
        self.pages.load(Ordering::Relaxed)
    }

    /// Counts unmapped pages of listed ranges.
    pub(super) fn count_unmapped(&self, pages: u64) {
        self.pages.fetch_sub(pages, Ordering::Relaxed);
    }

    /// Returns whether no range is listed.
    pub(super) fn is_empty(&self) -> bool {
        self.newest.load(Ordering::Relaxed) == 0
    }
}

#[cfg(all(test, loom))]
mod models {
    use loom::sync::Arc;
    use loom::thread;

    use super::*;

    fn number(index: u32) -> NodeNumber {
        NodeNumber::of_link(index + 1).unwrap()
    }

    fn taken(list: &FreedList, nodes: &[Node; 3]) -> std::vec::Vec<u32> {
        let mut found = std::vec::Vec::new();
        let mut next = list.take();
        while let Some(number) = next {
            let index = NodeNumber::link(Some(number)) - 1;
            found.push(index);
            next = nodes[index as usize].next.get();
        }
        found
    }

    /// Two CPUs free a range each, and a common range, while one of them takes the list: each range
    /// is taken once, and one of the two frees of the common range succeeds.
    #[test]
    fn each_freed_range_is_taken_once() {
        loom::model(|| {
            let shared = Arc::new((FreedList::new(), [(); 3].map(|()| Node::new())));
            shared.1.iter().for_each(|node| {
                node.set_mapped(5);
                node.set_state(State::Live);
            });
            let other = shared.clone();
            let other = thread::spawn(move || {
                let (list, nodes) = &*other;
                let both = list.free(&nodes[2], number(2), State::Live);
                assert!(list.free(&nodes[1], number(1), State::Live));
                both
            });
            let (list, nodes) = &*shared;
            assert!(list.free(&nodes[0], number(0), State::Live));
            let mut found = taken(list, nodes);
            let both = list.free(&nodes[2], number(2), State::Live);
            assert_ne!(both, other.join().unwrap());
            found.extend(taken(list, nodes));
            found.sort_unstable();
            assert_eq!(found, [0, 1, 2]);
            assert_eq!(list.pages(), 15);
        });
    }
}
