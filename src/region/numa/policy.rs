//! The nodes of the frames of a space's pages.

use core::cell::Cell;
use core::ops::ControlFlow;

use topomem_numa::frames::{FrameRequest, Frames, NodeSet, Policy};
use topomem_percpu::sync::atomic::{AtomicU64, Ordering, fence};
use topomem_percpu::sync::hint;
use topomem_percpu::{CpuPin, NodeId, Platform};
use topomem_shootdown::VirtAddr;

use super::super::attributes::Region;
use super::super::record::{AssignError, Record};
use crate::Machine;
use crate::address_space::{AddressSpace, SpaceCore};
use crate::page_table::{Pages, RecordNumber};

/// A space's policy, read by its faults: a version, and as many words as there are nodes' bits.
#[derive(Debug)]
pub(crate) struct SpacePolicy {
    /// The version, above [`KIND_BITS`], and the kind.
    state: AtomicU64,
    /// The words of the set of nodes, or the number of the preferred node. Only what the kind of policy has is read.
    nodes: [AtomicU64; WORDS],
}

/// The number of words of a set of nodes.
const WORDS: usize = NodeSet::EMPTY.words().len();
const KIND_BITS: u32 = 8;
const KIND: u64 = (1 << KIND_BITS) - 1;
const NONE: u64 = 0;
const LOCAL: u64 = 1;
const BIND: u64 = 2;
const PREFERRED: u64 = 3;
const INTERLEAVE: u64 = 4;
const WEIGHTED_INTERLEAVE: u64 = 5;
/// In place of the kind: the words are being written.
const BUSY: u64 = KIND;

/// Returns the kind of a policy and the words to store with it.
fn encode(policy: Option<&Policy>) -> (u64, &[u64], u64) {
    match policy {
        None => (NONE, &[], 0),
        Some(Policy::Local) => (LOCAL, &[], 0),
        Some(Policy::Bind(nodes)) => (BIND, nodes.words(), 0),
        Some(Policy::Preferred(node)) => (PREFERRED, &[], node.index() as u64),
        Some(Policy::Interleave(nodes)) => (INTERLEAVE, nodes.words(), 0),
        Some(Policy::WeightedInterleave(nodes)) => (WEIGHTED_INTERLEAVE, nodes.words(), 0),
    }
}

impl SpacePolicy {
    pub(crate) fn none() -> SpacePolicy {
        SpacePolicy { state: AtomicU64::new(NONE), nodes: core::array::from_fn(|_| AtomicU64::new(0)) }
    }

    /// Returns whether the space has a policy.
    #[inline]
    pub(crate) fn is_some(&self) -> bool {
        // Relaxed: a fault beside a change uses the old policy or the new.
        self.state.load(Ordering::Relaxed) & KIND != NONE
    }

    /// Reads the policy of a kind. Another context may be changing the words.
    fn read(&self, kind: u64) -> Option<Policy> {
        let set = || {
            let mut words = [0; WORDS];
            for (word, nodes) in words.iter_mut().zip(&self.nodes) {
                *word = nodes.load(Ordering::Relaxed);
            }
            NodeSet::from_words(&words).unwrap_or_default()
        };
        let node = || NodeId::new(self.nodes[0].load(Ordering::Relaxed) as usize).unwrap_or(NodeId::ZERO);
        Some(match kind {
            LOCAL => Policy::Local,
            BIND => Policy::Bind(set()),
            PREFERRED => Policy::Preferred(node()),
            INTERLEAVE => Policy::Interleave(set()),
            WEIGHTED_INTERLEAVE => Policy::WeightedInterleave(set()),
            _ => return None,
        })
    }

    pub(crate) fn get(&self) -> Option<Policy> {
        loop {
            // Acquire pairs with the last Release in `set`: a reader of the state sees the nodes.
            let state = self.state.load(Ordering::Acquire);
            let policy = self.read(state & KIND);
            // Pairs with the Release fence in `set`: a reader of a later writer's nodes finds the
            // writer's state.
            fence(Ordering::Acquire);
            if state & KIND != BUSY && self.state.load(Ordering::Relaxed) == state {
                return policy;
            }
            hint::spin_loop();
        }
    }

    fn set(&self, policy: Option<&Policy>) {
        let (kind, words, node) = encode(policy);
        let mut state = self.state.load(Ordering::Relaxed);
        loop {
            // Acquire pairs with the last Release in `set`: this writer owns the nodes' words.
            let claim = |state| {
                self.state.compare_exchange(state, state | BUSY, Ordering::Acquire, Ordering::Relaxed)
            };
            if state & KIND != BUSY && claim(state).is_ok() {
                break;
            }
            hint::spin_loop();
            state = self.state.load(Ordering::Relaxed);
        }
        fence(Ordering::Release);
        if words.is_empty() {
            self.nodes[0].store(node, Ordering::Relaxed);
        }
        self.nodes.iter().zip(words).for_each(|(nodes, &word)| nodes.store(word, Ordering::Relaxed));
        let version = (state >> KIND_BITS).wrapping_add(1) << KIND_BITS;
        self.state.store(version | kind, Ordering::Release);
    }

    /// Copies the policy to another space.
    pub(crate) fn copy_to(&self, copy: &SpacePolicy) {
        copy.set(self.get().as_ref());
    }
}

/// Whose policy places a page: that of the record of the page's region, or the space's.
///
/// Policies are large, and are compared at each look at the page. Numbers of records are used again: a page may come to
/// be placed as its region had it at an earlier look of the same fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::region) struct Placer(Option<RecordNumber>);

impl Placer {
    /// The space's policy.
    pub(in crate::region) const SPACE: Placer = Placer(None);

    /// Returns the region's policy, which [`SpaceCore::placer_of`] noted in `policy`; `None` for the space's.
    pub(in crate::region) fn policy(self, policy: &mut Cell<Policy>) -> Option<&Policy> {
        self.0.map(|_| &*policy.get_mut())
    }
}

/// Returns whether `policy` permits the frame of the page number `page` (in units of its size) on
/// `node`.
pub(super) fn conforms<P: Platform>(frames: &Frames<P>, policy: &Policy, page: u64, node: NodeId) -> bool {
    match policy {
        Policy::Local => true,
        Policy::Bind(nodes) => nodes.contains(node),
        Policy::Preferred(preferred) => node == *preferred,
        Policy::Interleave(_) | Policy::WeightedInterleave(_) => {
            frames.interleaved(policy, page).is_none_or(|chosen| chosen == node)
        }
    }
}

/// Returns `request` for the page number `page` (in units of its size), placed by `policy`.
pub(in crate::region) fn placed<P: Platform>(
    frames: &Frames<P>,
    request: FrameRequest,
    policy: &Policy,
    page: u64,
) -> FrameRequest {
    // By number, not in turn: a range is spread exactly, in whichever order its pages are used.
    request.policy(frames.interleaved(policy, page).map_or(*policy, Policy::Preferred))
}

impl<P: Machine> SpaceCore<P> {
    /// Returns `request` for the page number `page` (in units of its size), placed by its region's
    /// policy, or otherwise the space's.
    #[inline]
    pub(in crate::region) fn placed(
        &self,
        request: FrameRequest,
        page: u64,
        of_region: Option<&Policy>,
    ) -> FrameRequest {
        if of_region.is_none() && !self.policy.is_some() {
            return request;
        }
        self.placed_by_policy(request, page, of_region)
    }

    #[cold]
    #[inline(never)]
    fn placed_by_policy(&self, request: FrameRequest, page: u64, of_region: Option<&Policy>) -> FrameRequest {
        let of_space = if of_region.is_none() { self.policy.get() } else { None };
        let policy = of_region.or(of_space.as_ref());
        policy.map_or(request, |policy| placed(self.service.frames(), request, policy, page))
    }

    /// Returns the policy of `region`, of a page whose entry the caller has claimed.
    fn policy_of(&self, region: Region) -> Option<Policy> {
        region.record().and_then(|number| self.records.with(number, |record| record.policy))
    }

    /// Returns whose policy places a page of `region`, whose entry the caller has claimed, and notes the policy in
    /// `policy` if it is the region's.
    #[inline]
    pub(in crate::region) fn placer_of(&self, region: Region, policy: &Cell<Policy>) -> Placer {
        match region.record() {
            None => Placer::SPACE,
            Some(number) => self.placer_in(number, policy),
        }
    }

    #[cold]
    #[inline(never)]
    fn placer_in(&self, number: RecordNumber, noted: &Cell<Policy>) -> Placer {
        Placer(self.records.with(number, |record| {
            noted.set(*record.policy.as_ref()?);
            Some(number)
        }))
    }
}

impl<P: Machine> AddressSpace<P> {
    /// Sets the nodes of frames allocated from now on, for faults in the space's regions without a
    /// policy of their own. `None`, as in a new space, allocates near the faulting CPU
    /// ([`Policy::Local`]).
    ///
    /// [`Policy::Interleave`] and [`Policy::WeightedInterleave`] use the number of the page:
    /// consecutive pages of a region are spread exactly. A node without a free frame is replaced by
    /// the nearest node with one, except by [`Policy::Bind`]. Pages mapped already stay in place
    /// ([`AddressSpace::move_range`] moves them). A fork has the policy of its origin.
    ///
    /// Without a policy, the additional cost of a fault is a load.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// use topomem::{NodeId, Policy};
    ///
    /// let space = service.create_space(pin)?;
    /// space.set_policy(Some(Policy::Preferred(NodeId::ZERO)));
    /// assert_eq!(space.policy(), Some(Policy::Preferred(NodeId::ZERO)));
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub fn set_policy(&self, policy: Option<Policy>) {
        self.core().policy.set(policy.as_ref());
    }

    /// Sets the nodes of frames allocated from now on, for faults in the regions in the `length`
    /// bytes from `start` on, rounded up to pages, whatever the space's policy. `None` uses the
    /// space's policy. Regions with different policies are different regions. Pages mapped already
    /// stay in place ([`AddressSpace::move_range`] moves them).
    ///
    /// Cost: an entry for each page in existing tables, and an entry for each larger part without a
    /// table.
    ///
    /// # Errors
    ///
    /// - [`AssignError::Misaligned`] or [`AssignError::OutsideSpace`] if the range is invalid.
    /// - [`AssignError::NoRegion`] if a page belongs to no region. All regions have changed.
    /// - [`AssignError::OutOfFrames`] or [`AssignError::TooManyRecords`] if no memory or number is
    ///   left.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// use topomem::{NodeId, Policy};
    /// use topomem::region::MapRequest;
    ///
    /// let space = service.create_space(pin)?;
    /// let start = space.mmap(pin, &MapRequest::anonymous(8192))?;
    /// let policy = Some(Policy::Preferred(NodeId::ZERO));
    /// space.set_region_policy(pin, start, 8192, policy)?;
    /// assert_eq!(space.region_policy(pin, start), Ok(policy));
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub fn set_region_policy(
        &self,
        pin: &CpuPin,
        start: VirtAddr,
        length: u64,
        policy: Option<Policy>,
    ) -> Result<(), AssignError> {
        self.assign(pin, start, length, |record| Record { policy, ..record })
    }

    /// Returns the policy of the region around the byte at `address`.
    ///
    /// # Errors
    ///
    /// Returns [`AssignError::NoRegion`] if the page belongs to no region.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// use topomem::region::MapRequest;
    ///
    /// let space = service.create_space(pin)?;
    /// let start = space.mmap(pin, &MapRequest::anonymous(8192))?;
    /// assert_eq!(space.region_policy(pin, start), Ok(None)); // as the space has it
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub fn region_policy(&self, pin: &CpuPin, address: VirtAddr) -> Result<Option<Policy>, AssignError> {
        let core = self.core();
        let page = address.as_u64() >> 12;
        let mut policy = Err(AssignError::NoRegion);
        if self.may_map(Pages { first: page, last: page }) {
            core.table.visit(core.service.tables(pin), Pages { first: page, last: page }, |_, found| {
                if let Some(id) = found.region() {
                    policy = Ok(core.policy_of(Region::of(id)));
                }
                ControlFlow::Break(())
            });
        }
        policy
    }

    /// Returns the policy last set by [`AddressSpace::set_policy`].
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// assert_eq!(service.create_space(pin)?.policy(), None);
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    #[must_use]
    pub fn policy(&self) -> Option<Policy> {
        self.core().policy.get()
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    #[test]
    fn policies_are_read_back() {
        let (node, last) = (NodeId::new(3).unwrap(), NodeId::new(topomem_percpu::MAX_NODES - 1).unwrap());
        let nodes = NodeSet::of(node).with(last);
        let all = [
            Policy::Local,
            Policy::Bind(nodes),
            Policy::Preferred(last),
            Policy::Interleave(nodes),
            Policy::WeightedInterleave(nodes),
        ];
        let cell = SpacePolicy::none();
        assert_eq!((cell.get(), cell.is_some()), (None, false));
        for policy in all {
            cell.set(Some(&policy));
            assert_eq!((cell.get(), cell.is_some()), (Some(policy), true));
        }
        cell.set(None);
        assert_eq!((cell.get(), cell.is_some()), (None, false));
    }
}
