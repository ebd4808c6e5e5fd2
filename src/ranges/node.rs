//! What is known of each stretch of addresses: its place, its length, and whose it is.

use core::num::NonZeroU32;
use core::ptr::NonNull;

use topomem_percpu::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};

/// How many nodes a chunk has.
pub(super) const CHUNK: usize = 256;

/// How many chunks there are at most.
pub(super) const CHUNKS: usize = 1024;

/// The number of a node, from 1 on: in links, 0 means none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NodeNumber(NonZeroU32);

impl NodeNumber {
    /// The number that a link names, if it names one.
    pub fn of_link(link: u32) -> Option<NodeNumber> {
        NonZeroU32::new(link).map(NodeNumber)
    }

    /// The number of a node by its place among all nodes.
    fn of_index(index: usize) -> Option<NodeNumber> {
        u32::try_from(index + 1).ok().and_then(NodeNumber::of_link)
    }

    /// The link that names `number`, or no node.
    pub fn link(number: Option<NodeNumber>) -> u32 {
        number.map_or(0, |number| number.0.get())
    }

    fn index(self) -> usize {
        self.0.get() as usize - 1
    }
}

/// Whose the addresses of a node are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum State {
    /// Nobody's: the node describes no addresses.
    Spare,
    /// The arena's.
    Vacant,
    /// Those of a context that makes a range of them, or changes the range.
    Held,
    /// A range's.
    Live,
    /// Those of a range that was freed, until every CPU has forgotten its pages.
    Freed,
}

impl State {
    const ALL: [State; 5] = [State::Spare, State::Vacant, State::Held, State::Live, State::Freed];
}

/// A stretch of addresses.
///
/// Its place and length, and the links in order of addresses, change under the arena's lock; a list's links belong
/// to that list's owner; how much is mapped is said by the node's owner. All are atomics because contexts that look
/// for a range by its address read nodes that may be anybody's: they are told the truth if the node is theirs.
#[derive(Debug)]
#[repr(align(64))]
pub(super) struct Node {
    first: AtomicU64,
    count: AtomicU64,
    mapped: AtomicU64,
    pages: AtomicU64,
    /// The stretches before and behind it.
    pub before: Link,
    pub after: Link,
    /// Neighbours in a list of vacant stretches.
    pub list_before: Link,
    pub list_after: Link,
    /// The next node in a list of spare or freed ones.
    pub next: Link,
    state: AtomicU32,
}

/// A node's name in another node, or none.
#[derive(Debug)]
pub(super) struct Link(AtomicU32);

// Relaxed in all of this file, if nothing else is said: a node goes from one owner to the next through the arena's
// lock, the list of freed ranges, or whatever the range's users hand it on by.
impl Link {
    pub fn new() -> Link {
        Link(AtomicU32::new(0))
    }

    pub fn get(&self) -> Option<NodeNumber> {
        NodeNumber::of_link(self.0.load(Ordering::Relaxed))
    }

    pub fn set(&self, number: Option<NodeNumber>) {
        self.0.store(NodeNumber::link(number), Ordering::Relaxed);
    }
}

impl Node {
    pub fn new() -> Node {
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

    /// The number of its first page: of a range, the guard before it.
    pub fn first(&self) -> u64 {
        self.first.load(Ordering::Relaxed)
    }

    /// The number of the first page that a range has behind its guard.
    pub fn start(&self) -> u64 {
        self.first() + 1
    }

    /// How many pages of addresses it has, the guard among them.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    pub fn place(&self, first: u64, count: u64) {
        self.first.store(first, Ordering::Relaxed);
        self.count.store(count, Ordering::Relaxed);
    }

    /// How many of its pages are mapped, from the one behind the guard on.
    pub fn mapped(&self) -> u64 {
        self.mapped.load(Ordering::Relaxed)
    }

    pub fn set_mapped(&self, pages: u64) {
        self.mapped.store(pages, Ordering::Relaxed);
    }

    /// How many of its mapped pages its owner asked for.
    pub fn pages(&self) -> u64 {
        self.pages.load(Ordering::Relaxed)
    }

    pub fn set_pages(&self, pages: u64) {
        self.pages.store(pages, Ordering::Relaxed);
    }

    pub fn state(&self) -> State {
        // No other number is stored.
        State::ALL.get(self.state.load(Ordering::Relaxed) as usize).copied().unwrap_or(State::Spare)
    }

    /// Says whose the addresses are from here on.
    pub fn set_state(&self, state: State) {
        self.state.store(state as u32, Ordering::Relaxed);
    }

    /// Says whose the addresses are from here on if they were those of `from`; false if not. Of several contexts
    /// that try, one is told that they were.
    pub fn change_state(&self, from: State, to: State) -> bool {
        let (from, to) = (from as u32, to as u32);
        self.state.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

/// All nodes, in chunks that are never freed.
pub(super) struct Nodes {
    /// Null, or [`CHUNK`] nodes.
    chunks: &'static [AtomicPtr<Node>],
}

impl Nodes {
    pub fn new(chunks: &'static [AtomicPtr<Node>]) -> Nodes {
        Nodes { chunks }
    }

    /// The node of that number, if there is one.
    pub fn find(&self, number: NodeNumber) -> Option<&Node> {
        let (chunk, index) = (number.index() / CHUNK, number.index() % CHUNK);
        // Acquire pairs with the Release in `add_chunk`: who sees the chunk sees its nodes.
        let nodes = NonNull::new(self.chunks.get(chunk)?.load(Ordering::Acquire))?;
        // SAFETY: a chunk has so many nodes, and stays for good.
        Some(unsafe { nodes.add(index).as_ref() })
    }

    /// How many chunks there can be.
    pub fn capacity(&self) -> usize {
        self.chunks.len()
    }

    /// Makes nodes number `chunk` of the chunks, and returns their numbers.
    ///
    /// # Safety
    ///
    /// `nodes` are [`CHUNK`] nodes, shared for good, and there is no such chunk yet.
    pub unsafe fn add_chunk(&self, chunk: usize, nodes: NonNull<Node>) -> impl Iterator<Item = NodeNumber> {
        if let Some(place) = self.chunks.get(chunk) {
            // Release pairs with the Acquire in `find`.
            place.store(nodes.as_ptr(), Ordering::Release);
        }
        (chunk * CHUNK..(chunk + 1) * CHUNK).filter_map(NodeNumber::of_index)
    }
}
