//! Sets of nodes.

use core::fmt;

use topomem_percpu::{MAX_NODES, NodeId};

/// The number of words of a set.
pub(in crate::frames) const WORDS: usize = MAX_NODES.div_ceil(64);

/// Returns the word of a node, and its bit there.
pub(in crate::frames) const fn place(node: NodeId) -> (usize, u64) {
    (node.index() / 64, 1 << (node.index() % 64))
}

/// A set of nodes: a bit for each of [`MAX_NODES`].
///
/// # Examples
///
/// ```
/// # use topomem_numa::NodeId;
/// # use topomem_numa::frames::NodeSet;
/// let second = NodeId::new(1).unwrap();
/// let set = NodeSet::of(NodeId::ZERO).with(second);
/// assert_eq!(set.len(), 2);
/// assert_eq!(set.intersection(&NodeSet::of(second)), NodeSet::of(second));
/// assert!(set.iter().eq([NodeId::ZERO, second]));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct NodeSet([u64; WORDS]);

impl NodeSet {
    /// The set without members.
    pub const EMPTY: NodeSet = NodeSet([0; WORDS]);
    /// Every possible node.
    pub const ALL: NodeSet = NodeSet([u64::MAX; WORDS]);

    /// Returns the set of `node` alone.
    ///
    /// # Examples
    ///
    /// ```
    /// # use topomem_numa::NodeId;
    /// # use topomem_numa::frames::NodeSet;
    /// assert!(NodeSet::of(NodeId::ZERO).contains(NodeId::ZERO));
    /// ```
    #[must_use]
    pub const fn of(node: NodeId) -> NodeSet {
        NodeSet::EMPTY.with(node)
    }

    /// Returns the set with `node` added.
    #[must_use]
    pub const fn with(mut self, node: NodeId) -> NodeSet {
        let (word, bit) = place(node);
        self.0[word] |= bit;
        self
    }

    /// Adds `node`. Returns true if `node` was not a member.
    ///
    /// # Examples
    ///
    /// ```
    /// # use topomem_numa::NodeId;
    /// # use topomem_numa::frames::NodeSet;
    /// let mut set = NodeSet::EMPTY;
    /// assert!(set.insert(NodeId::ZERO) && !set.insert(NodeId::ZERO));
    /// ```
    pub const fn insert(&mut self, node: NodeId) -> bool {
        let (word, bit) = place(node);
        let fresh = self.0[word] & bit == 0;
        self.0[word] |= bit;
        fresh
    }

    /// Returns true if `node` is a member.
    #[must_use]
    pub const fn contains(&self, node: NodeId) -> bool {
        let (word, bit) = place(node);
        self.0[word] & bit != 0
    }

    /// Returns true if the set has no members.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|&word| word == 0)
    }

    /// Returns the number of members.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Returns the set as bits, 64 in a word: bit *n* % 64 of word *n* / 64 for the node numbered *n*.
    ///
    /// # Examples
    ///
    /// ```
    /// # use topomem_numa::frames::NodeSet;
    /// let set = NodeSet::from_words(&[0b101]).unwrap();
    /// assert_eq!(set.words()[0], 0b101);
    /// assert!(set.words()[1..].iter().all(|&word| word == 0));
    /// ```
    #[must_use]
    pub const fn words(&self) -> &[u64] {
        &self.0
    }

    /// Returns the set of the nodes whose bits are set, as [`NodeSet::words`] says; nodes of missing words are no
    /// members. Returns `None` if a bit is of no possible node.
    ///
    /// # Examples
    ///
    /// ```
    /// # use topomem_numa::NodeId;
    /// # use topomem_numa::frames::NodeSet;
    /// let set = NodeSet::from_words(&[0b10, 0, 0]).unwrap();
    /// assert_eq!(set, NodeSet::of(NodeId::new(1).unwrap()));
    /// assert_eq!(NodeSet::from_words(&[u64::MAX; 100]), None);
    /// ```
    #[must_use]
    pub fn from_words(words: &[u64]) -> Option<NodeSet> {
        let mut set = NodeSet::EMPTY;
        for (index, &bits) in words.iter().enumerate() {
            match set.0.get_mut(index) {
                Some(word) => *word = bits,
                None if bits == 0 => {}
                None => return None,
            }
        }
        Some(set)
    }

    /// Returns the members of both sets.
    #[must_use]
    pub fn intersection(mut self, other: &NodeSet) -> NodeSet {
        self.0.iter_mut().zip(other.0).for_each(|(word, others)| *word &= others);
        self
    }

    /// Returns an iterator over the members, in order of number.
    pub fn iter(&self) -> impl Iterator<Item = NodeId> + Clone {
        let (mut index, mut word) = (0, self.0[0]);
        core::iter::from_fn(move || {
            while word == 0 {
                index += 1;
                word = *self.0.get(index)?;
            }
            let node = NodeId::new(index * 64 + word.trailing_zeros() as usize);
            word &= word - 1;
            node
        })
    }
}

impl Default for NodeSet {
    fn default() -> NodeSet {
        NodeSet::EMPTY
    }
}

impl FromIterator<NodeId> for NodeSet {
    fn from_iter<I: IntoIterator<Item = NodeId>>(nodes: I) -> NodeSet {
        let mut set = NodeSet::EMPTY;
        for node in nodes {
            set.insert(node);
        }
        set
    }
}

impl fmt::Debug for NodeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// The nodes that may serve a request.
#[derive(Debug, Clone, Copy)]
pub(in crate::frames) enum Allowed<'r> {
    All,
    Of(&'r NodeSet),
}

impl Allowed<'_> {
    /// Returns true if `node` is one of them.
    #[inline]
    pub(in crate::frames) fn contains(self, node: NodeId) -> bool {
        match self {
            Allowed::All => true,
            Allowed::Of(set) => set.contains(node),
        }
    }
}

#[cfg(all(test, not(any(loom, miri))))]
mod tests {
    use std::vec::Vec;

    use super::*;

    #[test]
    fn members_of_each_word() {
        let indexes = [0, 1, 63, 64, 65, 127, 512, 1023];
        let mut set: NodeSet = indexes.iter().rev().filter_map(|&index| NodeId::new(index)).collect();
        assert!(set.iter().map(NodeId::index).eq(indexes));
        assert_eq!((set.len(), set.is_empty()), (indexes.len(), false));
        for node in (0..MAX_NODES).filter_map(NodeId::new) {
            assert_eq!(set.contains(node), indexes.contains(&node.index()));
            assert_eq!(set.insert(node), !indexes.contains(&node.index()));
        }
        assert_eq!(set, NodeSet::ALL);
        assert_eq!(set.iter().count(), MAX_NODES);
        let high = NodeSet::of(NodeId::new(700).unwrap());
        assert_eq!(set.intersection(&high), high);
        assert!(NodeSet::EMPTY.intersection(&high).is_empty());
    }

    #[test]
    fn words_are_read_back() {
        let words: Vec<u64> = (0..WORDS as u64).map(|word| 1 << word).collect();
        let set = NodeSet::from_words(&words).unwrap();
        assert_eq!(set.words(), words);
        assert!(set.iter().map(NodeId::index).eq((0..WORDS).map(|word| word * 65)));
        let longer: Vec<u64> = words.iter().copied().chain([0, 0]).collect();
        assert_eq!(NodeSet::from_words(&longer), Some(set));
        assert_eq!(NodeSet::from_words(&[longer, std::vec![1]].concat()), None);
    }
}
