//! A range and its owner.

use core::fmt;
use core::mem;

use topomem_percpu::{CpuPin, Order};
use topomem_shootdown::VirtAddr;

use super::node::{Node, NodeNumber, State};
use super::{KernelRanges, RangeError, RangeRequest};
use crate::Machine;

/// A range of kernel addresses, mapped from its first byte to its last. A drop frees the range, in
/// any context. The range is unmapped later, together with others ([`KernelRanges::flush`]).
///
/// ```
/// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
/// # booted::run(|service, pin| {
/// # use topomem::{PageRange, PageSize, VirtAddr, sim::Sim};
/// # use topomem::ranges::{RangeRequest, RangesConfig};
/// # let addresses = VirtAddr::new(Sim::WINDOW.as_u64() + (256 << 30))?;
/// # let addresses = PageRange::new(addresses, 64, PageSize::Size1GiB)?;
/// # let ranges = service.add_kernel_ranges(pin, &RangesConfig::of(addresses))?;
/// let stack = ranges.allocate(pin, &RangeRequest::pages(4))?;
/// assert_eq!(stack.bytes(), 16384);
/// assert!(ranges.contains(stack.start()));
/// # Ok(())
/// # }).unwrap();
/// ```
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

    /// Returns the first address.
    #[must_use]
    pub fn start(&self) -> VirtAddr {
        self.start
    }

    /// Returns the number of 4 KiB pages.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.node().map_or(0, Node::pages)
    }

    /// Returns the number of bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.pages() * Order::FRAME.bytes()
    }

    /// Changes the length of the range like [`KernelRanges::resize_at`]. The range may start
    /// elsewhere afterwards.
    ///
    /// # Errors
    ///
    /// As for [`KernelRanges::resize_at`].
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

    /// Gives up the handle and returns the first address. The range is then freed only by a call of
    /// [`KernelRanges::free_at`] with the address. Not for ranges of [`KernelRanges::map_frames`],
    /// which are found only through their handles.
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
