//! The ownership of addresses.
//!
//! Follows vmem (Bonwick and Adams, *Magazines and Vmem*, USENIX 2001). A node describes each
//! stretch of addresses, vacant or not, and links to its neighbours in order of addresses: vmem's
//! boundary tags. A freed stretch therefore merges with vacant neighbours in constant time. Vacant
//! stretches are listed by the power of two reached by their length. A request takes the first
//! stretch of the first list with only sufficient stretches (vmem's instant fit). If no such list
//! has a stretch, it looks at a bounded number of stretches of shorter lists.
//!
//! vmem finds a node by its address in a hash table. Here the first mapped frame of a range names
//! its node (see the module's documentation): a range is found without a lock.

use super::node::{NodeNumber, Nodes, State};

/// Number of lists of vacant stretches: for lengths of up to 2^45 pages, more than an address space
/// has.
const LISTS: usize = 46;

/// Number of possibly too short stretches of a list examined.
const LOOKS: usize = 32;

/// The end of a vacant stretch taken by a range. Long ranges and short ranges are thereby kept
/// apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Low,
    High,
}

/// The reason why no addresses were reserved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unreserved {
    /// Fewer than [`Arena::SPARES`] nodes are spare.
    NoNodes,
    /// No vacant stretch is long enough.
    NoAddresses,
}

/// The vacant stretches. Used under a lock.
#[derive(Debug)]
pub(super) struct Arena {
    /// The first stretch of each list.
    lists: [Option<NodeNumber>; LISTS],
    /// A bit for each list with a stretch.
    filled: u64,
    /// Nodes without addresses.
    spare: Option<NodeNumber>,
    spares: usize,
    /// Number of chunks of nodes.
    chunks: usize,
    /// The stretch with the lowest addresses.
    lowest: Option<NodeNumber>,
    /// Number of vacant pages.
    vacant: u64,
}

fn list_of(count: u64) -> usize {
    (count.max(1).ilog2() as usize).min(LISTS - 1)
}

impl Arena {
    /// Number of spare nodes a reservation may need.
    pub(super) const SPARES: usize = 2;

    pub(super) fn new() -> Arena {
        Arena { lists: [None; LISTS], filled: 0, spare: None, spares: 0, chunks: 0, lowest: None, vacant: 0 }
    }

    /// Returns the number of chunks of nodes, which is the number of the next chunk.
    pub(super) fn chunks(&self) -> usize {
        self.chunks
    }

    pub(super) fn vacant(&self) -> u64 {
        self.vacant
    }

    pub(super) fn lowest(&self) -> Option<NodeNumber> {
        self.lowest
    }

    pub(super) fn has_spares(&self) -> bool {
        self.spares >= Arena::SPARES
    }

    /// Adds the nodes of a further chunk.
    pub(super) fn add_nodes(&mut self, nodes: &Nodes, numbers: impl Iterator<Item = NodeNumber>) {
        self.chunks += 1;
        numbers.for_each(|number| self.make_spare(nodes, number));
    }

    /// Makes `count` pages from `first` on vacant: all addresses of the arena. Returns false if no
    /// node is spare.
    pub(super) fn add_addresses(&mut self, nodes: &Nodes, first: u64, count: u64) -> bool {
        let Some(number) = self.take_spare(nodes) else { return false };
        if let Some(node) = nodes.find(number) {
            node.place(first, count);
        }
        self.lowest = Some(number);
        self.insert(nodes, number);
        true
    }

    /// Reserves `count` pages, the second of which is a multiple of `align`. The node is held.
    pub(super) fn reserve(
        &mut self,
        nodes: &Nodes,
        count: u64,
        align: u64,
        end: End,
    ) -> Result<NodeNumber, Unreserved> {
        if !self.has_spares() {
            return Err(Unreserved::NoNodes);
        }
        let (number, start) = self.fitting(nodes, count, align, end).ok_or(Unreserved::NoAddresses)?;
        self.remove(nodes, number);
        let node = nodes.find(number).ok_or(Unreserved::NoAddresses)?;
        let (first, last) = (node.first(), node.first() + node.count());
        if start > first {
            let front = self.split_off(nodes, number, first, start - first);
            front.into_iter().for_each(|front| self.insert(nodes, front));
        }
        if start + count < last {
            let rest = self.split_behind(nodes, number, start + count, last - (start + count));
            rest.into_iter().for_each(|rest| self.insert(nodes, rest));
        }
        node.place(start, count);
        node.set_state(State::Held);
        node.set_mapped(0);
        node.set_pages(0);
        Ok(number)
    }

    /// Takes back a node without an owner, and merges it with vacant neighbours.
    pub(super) fn release(&mut self, nodes: &Nodes, number: NodeNumber) {
        let Some(node) = nodes.find(number) else { return };
        let vacant =
            |number: &NodeNumber| nodes.find(*number).is_some_and(|node| node.state() == State::Vacant);
        if let Some(before) = node.before.get().filter(vacant)
            && let Some(other) = nodes.find(before)
        {
            self.remove(nodes, before);
            node.place(other.first(), other.count() + node.count());
            self.unlink(nodes, before);
        }
        if let Some(after) = node.after.get().filter(vacant)
            && let Some(other) = nodes.find(after)
        {
            self.remove(nodes, after);
            node.place(node.first(), node.count() + other.count());
            self.unlink(nodes, after);
        }
        self.insert(nodes, number);
    }

    /// Extends the node by the `more` following pages, if they are vacant.
    pub(super) fn extend(&mut self, nodes: &Nodes, number: NodeNumber, more: u64) -> bool {
        let Some(node) = nodes.find(number) else { return false };
        let Some(after) = node.after.get() else { return false };
        let Some(other) = nodes.find(after) else { return false };
        if other.state() != State::Vacant || other.count() < more {
            return false;
        }
        self.remove(nodes, after);
        if other.count() == more {
            self.unlink(nodes, after);
        } else {
            other.place(other.first() + more, other.count() - more);
            self.insert(nodes, after);
        }
        node.place(node.first(), node.count() + more);
        true
    }

    /// Makes the pages of a held node behind the first `kept` a held node of their own. Returns
    /// `None` if no node is spare. Nothing has changed then.
    pub(super) fn split(&mut self, nodes: &Nodes, number: NodeNumber, kept: u64) -> Option<NodeNumber> {
        let node = nodes.find(number)?;
        let (first, count) = (node.first(), node.count());
        let rest = self.split_behind(nodes, number, first + kept, count - kept)?;
        node.place(first, kept);
        nodes.find(rest)?.set_state(State::Held);
        Some(rest)
    }

    /// Returns a vacant stretch with room for `count` pages, the second of which is a multiple of
    /// `align`, and the first of these pages.
    fn fitting(&self, nodes: &Nodes, count: u64, align: u64, end: End) -> Option<(NodeNumber, u64)> {
        let fits = |number: NodeNumber| {
            let node = nodes.find(number)?;
            let (first, last) = (node.first(), node.first() + node.count());
            let start = match end {
                End::Low => (first + 1).next_multiple_of(align) - 1,
                End::High => ((last + 1).checked_sub(count)? / align * align).checked_sub(1)?,
            };
            (start >= first && start + count <= last).then_some((number, start))
        };
        let surely = (count + align - 1).next_power_of_two().ilog2() as usize;
        let longer = self.filled & u64::MAX.checked_shl(surely as u32).unwrap_or(0);
        if longer != 0
            && let Some(found) = self.lists[longer.trailing_zeros() as usize].and_then(fits)
        {
            return Some(found);
        }
        (list_of(count)..surely.min(LISTS)).find_map(|list| {
            let mut next = self.lists[list];
            (0..LOOKS).find_map(|_| {
                let number = next?;
                next = nodes.find(number).and_then(|node| node.list_after.get());
                fits(number)
            })
        })
    }

    /// Makes a node for `count` pages from `first` on, right before the pages of `number`.
    fn split_off(&mut self, nodes: &Nodes, number: NodeNumber, first: u64, count: u64) -> Option<NodeNumber> {
        let node = nodes.find(number)?;
        let front = self.take_spare(nodes)?;
        let made = nodes.find(front)?;
        made.place(first, count);
        let before = node.before.get();
        made.before.set(before);
        made.after.set(Some(number));
        node.before.set(Some(front));
        match before.and_then(|before| nodes.find(before)) {
            Some(before) => before.after.set(Some(front)),
            None => self.lowest = Some(front),
        }
        Some(front)
    }

    /// Makes a node for `count` pages from `first` on, right behind the pages of `number`.
    fn split_behind(
        &mut self,
        nodes: &Nodes,
        number: NodeNumber,
        first: u64,
        count: u64,
    ) -> Option<NodeNumber> {
        let node = nodes.find(number)?;
        let rest = self.take_spare(nodes)?;
        let made = nodes.find(rest)?;
        made.place(first, count);
        made.set_mapped(0);
        made.set_pages(0);
        let after = node.after.get();
        made.before.set(Some(number));
        made.after.set(after);
        node.after.set(Some(rest));
        if let Some(after) = after.and_then(|after| nodes.find(after)) {
            after.before.set(Some(rest));
        }
        Some(rest)
    }

    /// Takes a node out of the order of addresses, and makes it spare.
    fn unlink(&mut self, nodes: &Nodes, number: NodeNumber) {
        let Some(node) = nodes.find(number) else { return };
        let (before, after) = (node.before.get(), node.after.get());
        match before.and_then(|before| nodes.find(before)) {
            Some(before) => before.after.set(after),
            None => self.lowest = after,
        }
        if let Some(after) = after.and_then(|after| nodes.find(after)) {
            after.before.set(before);
        }
        self.make_spare(nodes, number);
    }

    fn make_spare(&mut self, nodes: &Nodes, number: NodeNumber) {
        let Some(node) = nodes.find(number) else { return };
        node.set_state(State::Spare);
        node.next.set(self.spare);
        self.spare = Some(number);
        self.spares += 1;
    }

    fn take_spare(&mut self, nodes: &Nodes) -> Option<NodeNumber> {
        let number = self.spare?;
        self.spare = nodes.find(number)?.next.get();
        self.spares -= 1;
        Some(number)
    }

    /// Lists a node as vacant.
    fn insert(&mut self, nodes: &Nodes, number: NodeNumber) {
        let Some(node) = nodes.find(number) else { return };
        let list = list_of(node.count());
        let first = self.lists[list];
        node.set_state(State::Vacant);
        node.list_before.set(None);
        node.list_after.set(first);
        if let Some(first) = first.and_then(|first| nodes.find(first)) {
            first.list_before.set(Some(number));
        }
        self.lists[list] = Some(number);
        self.filled |= 1 << list;
        self.vacant += node.count();
    }

    /// Takes a vacant node out of its list.
    fn remove(&mut self, nodes: &Nodes, number: NodeNumber) {
        let Some(node) = nodes.find(number) else { return };
        let list = list_of(node.count());
        let (before, after) = (node.list_before.get(), node.list_after.get());
        if let Some(after) = after.and_then(|after| nodes.find(after)) {
            after.list_before.set(before);
        }
        match before.and_then(|before| nodes.find(before)) {
            Some(before) => before.list_after.set(after),
            None => self.lists[list] = after,
        }
        if self.lists[list].is_none() {
            self.filled &= !(1 << list);
        }
        self.vacant -= node.count();
    }

    /// Checks the lists, the order of addresses and the counts against each other: every page of
    /// the `count` from `first` on must be in exactly one node, no two neighbours may be vacant,
    /// and every vacant node must be in its list.
    pub(super) fn is_consistent(&self, nodes: &Nodes, first: u64, count: u64) -> bool {
        let (mut next, mut before, mut at) = (self.lowest, None, first);
        let (mut vacant, mut vacant_nodes, mut was_vacant) = (0, 0, false);
        while let Some(number) = next {
            let Some(node) = nodes.find(number) else { return false };
            let is_vacant = node.state() == State::Vacant;
            let placed = node.first() == at && node.count() > 0 && node.before.get() == before;
            if !placed || node.state() == State::Spare || (is_vacant && was_vacant) {
                return false;
            }
            if is_vacant {
                vacant += node.count();
                vacant_nodes += 1;
            }
            at += node.count();
            was_vacant = is_vacant;
            (before, next) = (next, node.after.get());
        }
        let mut listed = 0;
        for list in 0..LISTS {
            if self.lists[list].is_some() != (self.filled >> list & 1 != 0) {
                return false;
            }
            let mut next = self.lists[list];
            while let Some(number) = next {
                listed += 1;
                let Some(node) = nodes.find(number) else { return false };
                if node.state() != State::Vacant || list_of(node.count()) != list || listed > vacant_nodes {
                    return false;
                }
                next = node.list_after.get();
            }
        }
        at == first + count && vacant == self.vacant && listed == vacant_nodes
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests;
