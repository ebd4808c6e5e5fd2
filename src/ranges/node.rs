//! Nodes: each describes a stretch of addresses, with its position, its length and its owner.

use core::num::NonZeroU32;
use core::ptr::NonNull;

use topomem_percpu::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};

/// Number of nodes of a chunk.
pub(super) const CHUNK: usize = 256;

/// Greatest number of chunks.
pub(super) const CHUNKS: usize = 1024;

/// The number of a node, from 1 on. In links, 0 means none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NodeNumber(NonZeroU32);

impl NodeNumber {
    /// Returns the number named by a link, if any.
    pub(super) fn of_link(link: u32) -> Option<NodeNumber> {
        NonZeroU32::new(link).map(NodeNumber)
    }

    /// Returns the number of a node by its index among all nodes.
    fn of_index(index: usize) -> Option<NodeNumber> {
        u32::try_from(index + 1).ok().and_then(NodeNumber::of_link)
    }

    /// Returns the link naming `number`, or no node.
    pub(super) fn link(number: Option<NodeNumber>) -> u32 {
        number.map_or(0, |number| number.0.get())
    }

    fn index(self) -> usize {
        self.0.get() as usize - 1
    }
}

/// The owner of a node's addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum State {
    /// None: the node describes no addresses.
    Spare,
    /// The arena.
    Vacant,
    /// A context making a range, or changing the range.
    Held,
    /// A range.
    Live,
    /// A freed range, until every CPU has dropped its pages.
    Freed,
}

impl State {
    const ALL: [State; 5] = [State::Spare, State::Vacant, State::Held, State::Live, State::Freed];
}

/// A stretch of addresses.
///
/// The arena's lock governs its position and length, and the links in order of addresses. A list's
/// links belong to the list's owner. The node's owner sets the number of mapped pages. All fields
/// are atomics, since lookups by address read nodes with any owner: only the owner's reads are
/// reliable.
#[derive(Debug)]
#[repr(align(64))]
pub(super) struct Node {
    first: AtomicU64,
    count: AtomicU64,
    mapped: AtomicU64,
    pages: AtomicU64,
    /// The stretches before and behind.
    pub before: Link,
    pub after: Link,
    /// Neighbours in a list of vacant stretches.
    pub list_before: Link,
    pub list_after: Link,
    /// The next node in a list of spare or freed nodes.
    pub next: Link,
    state: AtomicU32,
}

/// A node's name in another node, or none.
#[derive(Debug)]
pub(super) struct Link(AtomicU32);

// Relaxed in all of this file, unless stated otherwise: a node passes from owner to owner through
// the arena's lock, the list of freed ranges, or the range's users' own means.
impl Link {
    pub(super) fn new() -> Link {
        Link(AtomicU32::new(0))
    }

    pub(super) fn get(&self) -> Option<NodeNumber> {
        NodeNumber::of_link(self.0.load(Ordering::Relaxed))
    }

    pub(super) fn set(&self, number: Option<NodeNumber>) {
        self.0.store(NodeNumber::link(number), Ordering::Relaxed);
    }
}

impl Node {
    pub(super) fn new() -> Node {
        Node {
            first: AtomicU64::new(0),
            count: AtomicU64::new(0),
            mapped: AtomicU64::new(0),
            pages: AtomicU64::new(0),
            before: Link::new(),
            after: Link::new(),
            list_before: Link::new(),
            list_after: Link::new(),
            next: Link::new(),
            state: AtomicU32::new(State::Spare as u32),
        }
    }

    /// Returns the number of the first page; in a range, the guard's.
    pub(super) fn first(&self) -> u64 {
        self.first.load(Ordering::Relaxed)
    }

    /// Returns the number of a range's first page behind its guard.
    pub(super) fn start(&self) -> u64 {
        self.first() + 1
    }

    /// Returns the number of pages of addresses, including the guard.
    pub(super) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    pub(super) fn place(&self, first: u64, count: u64) {
        self.first.store(first, Ordering::Relaxed);
        self.count.store(count, Ordering::Relaxed);
    }

    /// Returns the number of mapped pages, from the page behind the guard on.
    pub(super) fn mapped(&self) -> u64 {
        self.mapped.load(Ordering::Relaxed)
    }

    pub(super) fn set_mapped(&self, pages: u64) {
        self.mapped.store(pages, Ordering::Relaxed);
    }

    /// Returns the number of mapped pages requested by the owner.
    pub(super) fn pages(&self) -> u64 {
        self.pages.load(Ordering::Relaxed)
    }

    pub(super) fn set_pages(&self, pages: u64) {
        self.pages.store(pages, Ordering::Relaxed);
    }

    pub(super) fn state(&self) -> State {
        // No other number is stored.
        State::ALL.get(self.state.load(Ordering::Relaxed) as usize).copied().unwrap_or(State::Spare)
    }

    /// Sets the owner of the addresses.
    pub(super) fn set_state(&self, state: State) {
        self.state.store(state as u32, Ordering::Relaxed);
    }

    /// Changes the owner of the addresses from `from` to `to`, and returns false if the owner was
    /// another. Of several concurrent contexts, only one succeeds.
    pub(super) fn change_state(&self, from: State, to: State) -> bool {
        let (from, to) = (from as u32, to as u32);
        self.state.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

/// All nodes, in chunks never freed.
pub(super) struct Nodes {
    /// Null, or [`CHUNK`] nodes.
    chunks: &'static [AtomicPtr<Node>],
}

impl Nodes {
    pub(super) fn new(chunks: &'static [AtomicPtr<Node>]) -> Nodes {
        Nodes { chunks }
    }

    /// Returns the node with this number, if any.
    pub(super) fn find(&self, number: NodeNumber) -> Option<&Node> {
        let (chunk, index) = (number.index() / CHUNK, number.index() % CHUNK);
        // Acquire pairs with the Release in `add_chunk`: a reader of the chunk's address sees its
        // nodes.
        let nodes = NonNull::new(self.chunks.get(chunk)?.load(Ordering::Acquire))?;
        // SAFETY: a chunk has [`CHUNK`] nodes, and stays for good.
        Some(unsafe { nodes.add(index).as_ref() })
    }

    /// Returns the greatest number of chunks.
    pub(super) fn capacity(&self) -> usize {
        self.chunks.len()
    }

    /// Adds `nodes` as the chunk numbered `chunk`, and returns their numbers.
    ///
    /// # Safety
    ///
    /// `nodes` are [`CHUNK`] nodes, shared for good, and the chunk does not exist yet.
    pub(super) unsafe fn add_chunk(
        &self,
        chunk: usize,
        nodes: NonNull<Node>,
    ) -> impl Iterator<Item = NodeNumber> {
        if let Some(place) = self.chunks.get(chunk) {
            // Release pairs with the Acquire in `find`.
            place.store(nodes.as_ptr(), Ordering::Release);
        }
        (chunk * CHUNK..(chunk + 1) * CHUNK).filter_map(NodeNumber::of_index)
    }
}
