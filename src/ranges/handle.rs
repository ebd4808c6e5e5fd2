//! A range and its owner.

use core::fmt;
use core::mem;

use topomem_percpu::{CpuPin, Order};
use topomem_shootdown::VirtAddr;

use super::node::{Node, NodeNumber, State};
use super::{KernelRanges, RangeError, RangeRequest};
use crate::Machine;

/// A range of kernel addresses, mapped from its first byte to its last. A drop frees it, in any context: it is
/// unmapped later, with others ([`KernelRanges::flush`]).
#[must_use = "a dropped range is freed"]
pub struct KernelRange<P: Machine> {
    ranges: &'static KernelRanges<P>,
    number: NodeNumber,
    start: VirtAddr,
}

impl<P: Machine> KernelRange<P> {
    pub(super) fn new(
        ranges: &'static KernelRanges<P>,
        number: NodeNumber,
        start: VirtAddr,
    ) -> KernelRange<P> {
        KernelRange { ranges, number, start }
    }

    fn node(&self) -> Option<&'static Node> {
        self.ranges.nodes.find(self.number)
    }

    /// The first address.
    #[must_use]
    pub fn start(&self) -> VirtAddr {
        self.start
    }

    /// How many pages of 4 KiB it has.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.node().map_or(0, Node::pages)
    }

    /// How many bytes it has.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.pages() * Order::FRAME.bytes()
    }

    /// Gives the range another length, as [`KernelRanges::resize_at`] does: it may start elsewhere afterwards.
    ///
    /// # Errors
    ///
    /// [`RangeError`]; the range is as it was.
    ///
    /// # Safety
    ///
    /// As for [`KernelRanges::resize_at`].
    pub unsafe fn resize(&mut self, pin: &CpuPin, request: &RangeRequest) -> Result<(), RangeError> {
        let not_one = RangeError::NotARange { address: self.start };
        let node = self.node().ok_or(not_one)?;
        self.number = self.ranges.resize_node(pin, self.number, node, request, not_one)?;
        self.start = self.node().map_or(self.start, |node| VirtAddr::new_truncate(node.start() << 12));
        Ok(())
    }

    /// The first address, of a range that nobody frees until somebody calls [`KernelRanges::free_at`] with it. Not for
    /// ranges of [`KernelRanges::map_frames`], which are found by their handles alone.
    #[must_use = "without the address the range is never freed"]
    pub fn into_start(self) -> VirtAddr {
        let start = self.start;
        mem::forget(self);
        start
    }
}

impl<P: Machine> Drop for KernelRange<P> {
    fn drop(&mut self) {
        if let Some(node) = self.node() {
            let freed = self.ranges.free_node(self.number, node, State::Live);
            debug_assert!(freed, "the handle is the range's only owner");
        }
    }
}

impl<P: Machine> fmt::Debug for KernelRange<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KernelRange").field("start", &self.start).field("pages", &self.pages()).finish()
    }
}
