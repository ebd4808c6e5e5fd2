//! The nodes of the frames of a space's pages.

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

/// A space's policy, read by its faults: two words and a version.
#[derive(Debug)]
pub(crate) struct SpacePolicy {
    /// The version, above [`KIND_BITS`], and the kind.
    state: AtomicU64,
    nodes: AtomicU64,
}

const KIND_BITS: u32 = 8;
const KIND: u64 = (1 << KIND_BITS) - 1;
const NONE: u64 = 0;
const LOCAL: u64 = 1;
const BIND: u64 = 2;
const PREFERRED: u64 = 3;
const INTERLEAVE: u64 = 4;
const WEIGHTED_INTERLEAVE: u64 = 5;
/// In place of the kind: both words are being written.
const BUSY: u64 = KIND;

fn encode(policy: Option<Policy>) -> (u64, u64) {
    match policy {
        None => (NONE, 0),
        Some(Policy::Local) => (LOCAL, 0),
        Some(Policy::Bind(nodes)) => (BIND, nodes.bits()),
        Some(Policy::Preferred(node)) => (PREFERRED, node.index() as u64),
        Some(Policy::Interleave(nodes)) => (INTERLEAVE, nodes.bits()),
        Some(Policy::WeightedInterleave(nodes)) => (WEIGHTED_INTERLEAVE, nodes.bits()),
    }
}

fn decode(kind: u64, nodes: u64) -> Option<Policy> {
    let set = NodeSet::from_bits(nodes);
    Some(match kind {
        LOCAL => Policy::Local,
        BIND => Policy::Bind(set),
        PREFERRED => Policy::Preferred(NodeId::new(nodes as usize).unwrap_or(NodeId::ZERO)),
        INTERLEAVE => Policy::Interleave(set),
        WEIGHTED_INTERLEAVE => Policy::WeightedInterleave(set),
        _ => return None,
    })
}

impl SpacePolicy {
    pub(crate) fn none() -> SpacePolicy {
        SpacePolicy { state: AtomicU64::new(NONE), nodes: AtomicU64::new(0) }
    }

    /// Returns whether the space has a policy.
    #[inline]
    pub(crate) fn is_some(&self) -> bool {
        // Relaxed: a fault beside a change uses the old policy or the new.
        self.state.load(Ordering::Relaxed) & KIND != NONE
    }

    pub(crate) fn get(&self) -> Option<Policy> {
        loop {
            // Acquire pairs with the last Release in `set`: a reader of the state sees the nodes.
            let state = self.state.load(Ordering::Acquire);
            let nodes = self.nodes.load(Ordering::Relaxed);
            // Pairs with the Release fence in `set`: a reader of a later writer's nodes finds the
            // writer's state.
            fence(Ordering::Acquire);
            if state & KIND != BUSY && self.state.load(Ordering::Relaxed) == state {
                return decode(state & KIND, nodes);
            }
            hint::spin_loop();
        }
    }

    fn set(&self, policy: Option<Policy>) {
        let (kind, nodes) = encode(policy);
        let mut state = self.state.load(Ordering::Relaxed);
        loop {
            // Acquire pairs with the last Release in `set`: this writer owns the nodes' word.
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
        self.nodes.store(nodes, Ordering::Relaxed);
        let version = (state >> KIND_BITS).wrapping_add(1) << KIND_BITS;
        self.state.store(version | kind, Ordering::Release);
    }

    /// Copies the policy to another space.
    pub(crate) fn copy_to(&self, copy: &SpacePolicy) {
        copy.set(self.get());
    }
}

/// Returns whether `policy` permits the frame of the page number `page` (in units of its size) on
/// `node`.
pub(super) fn conforms<P: Platform>(frames: &Frames<P>, policy: Policy, page: u64, node: NodeId) -> bool {
    match policy {
        Policy::Local => true,
        Policy::Bind(nodes) => nodes.contains(node),
        Policy::Preferred(preferred) => node == preferred,
        Policy::Interleave(_) | Policy::WeightedInterleave(_) => {
            frames.interleaved(policy, page).is_none_or(|chosen| chosen == node)
        }
    }
}

/// Returns `request` for the page number `page` (in units of its size), placed by `policy`.
pub(in crate::region) fn placed<P: Platform>(
    frames: &Frames<P>,
    request: FrameRequest,
    policy: Policy,
    page: u64,
) -> FrameRequest {
    // By number, not in turn: a range is spread exactly, in whichever order its pages are used.
    request.policy(frames.interleaved(policy, page).map_or(policy, Policy::Preferred))
}

impl<P: Machine> SpaceCore<P> {
    /// Returns `request` for the page number `page` (in units of its size), placed by its region's
    /// policy, or otherwise the space's.
    #[inline]
    pub(in crate::region) fn placed(
        &self,
        request: FrameRequest,
        page: u64,
        of_region: Option<Policy>,
    ) -> FrameRequest {
        if of_region.is_none() && !self.policy.is_some() {
            return request;
        }
        self.placed_by_policy(request, page, of_region)
    }

    #[cold]
    #[inline(never)]
    fn placed_by_policy(&self, request: FrameRequest, page: u64, of_region: Option<Policy>) -> FrameRequest {
        let policy = of_region.or_else(|| self.policy.get());
        policy.map_or(request, |policy| placed(self.service.frames(), request, policy, page))
    }

    /// Returns the policy of `region`, of a page whose entry the caller has claimed.
    #[inline]
    pub(in crate::region) fn policy_of(&self, region: Region) -> Option<Policy> {
        region.record().and_then(|number| self.policy_in(number))
    }

    #[cold]
    #[inline(never)]
    fn policy_in(&self, number: RecordNumber) -> Option<Policy> {
        self.records.with(number, |record| record.policy)
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
        self.core().policy.set(policy);
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
        let nodes = NodeSet::from_bits(0b1010);
        let node = NodeId::new(3).unwrap_or(NodeId::ZERO);
        let all = [
            Policy::Local,
            Policy::Bind(nodes),
            Policy::Preferred(node),
            Policy::Interleave(nodes),
            Policy::WeightedInterleave(nodes),
        ];
        let cell = SpacePolicy::none();
        assert_eq!((cell.get(), cell.is_some()), (None, false));
        for policy in all {
            cell.set(Some(policy));
            assert_eq!((cell.get(), cell.is_some()), (Some(policy), true));
        }
        cell.set(None);
        assert_eq!((cell.get(), cell.is_some()), (None, false));
    }
}
