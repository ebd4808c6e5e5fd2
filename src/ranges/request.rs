//! What ranges are asked for.

use topomem_numa::frames::FrameRequest;
use topomem_percpu::{NodeId, Order};
use topomem_shootdown::PageRange;

use crate::page_table::Protection;

/// Where ranges lie, and which objects of the heap are some.
///
/// ```
/// use topomem::ranges::RangesConfig;
/// use topomem::sim::Sim;
/// use topomem::{PageRange, PageSize};
///
/// let addresses = PageRange::new(Sim::WINDOW, 64, PageSize::Size1GiB)?;
/// let config = RangesConfig::of(addresses).heap_from(4 << 20);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct RangesConfig {
    pub(super) addresses: PageRange,
    pub(super) heap_from: u64,
}

impl RangesConfig {
    /// From how many bytes on the heap's objects are ranges, if [`RangesConfig::heap_from`] does not say: 32 MiB.
    pub const HEAP_FROM: u64 = 32 << 20;

    /// Ranges at `addresses`: whole pages of 2 MiB of the kernel's window, which nothing else maps. A few times as
    /// much as the machine has memory is enough.
    #[must_use]
    pub const fn of(addresses: PageRange) -> RangesConfig {
        RangesConfig { addresses, heap_from: RangesConfig::HEAP_FROM }
    }

    /// Objects of the heap of `bytes` bytes or more are ranges. Shorter ones are ranges only if there is no run of
    /// consecutive frames for them.
    #[must_use]
    pub const fn heap_from(self, bytes: u64) -> RangesConfig {
        RangesConfig { heap_from: bytes, ..self }
    }
}

/// What a range shall be.
#[derive(Debug, Clone, Copy)]
pub struct RangeRequest {
    pub(super) pages: u64,
    node: Option<NodeId>,
    pub(super) zeroed: bool,
    pub(super) protection: Protection,
}

impl RangeRequest {
    /// `pages` pages of 4 KiB, near the requesting CPU, to be read and written.
    #[must_use]
    pub const fn pages(pages: u64) -> RangeRequest {
        RangeRequest { pages, node: None, zeroed: false, protection: Protection::KERNEL_DATA }
    }

    /// At least `bytes` bytes.
    #[must_use]
    pub const fn bytes(bytes: u64) -> RangeRequest {
        RangeRequest::pages(bytes.div_ceil(Order::FRAME.bytes()))
    }

    /// Of frames near `node`; farther nodes serve if it has none left.
    #[must_use]
    pub const fn node(self, node: NodeId) -> RangeRequest {
        RangeRequest { node: Some(node), ..self }
    }

    /// Of frames that are zero.
    #[must_use]
    pub const fn zeroed(self) -> RangeRequest {
        RangeRequest { zeroed: true, ..self }
    }

    /// Mapped with `protection`, which must be one for the kernel.
    #[must_use]
    pub const fn protection(self, protection: Protection) -> RangeRequest {
        RangeRequest { protection, ..self }
    }

    /// The alignment that its start has at least.
    #[must_use]
    pub const fn align(&self) -> Order {
        if self.pages < Order::HUGE.frames() { Order::FRAME } else { Order::HUGE }
    }

    /// The request for one run of frames of `order`.
    pub(super) fn frames(&self, order: Order) -> FrameRequest {
        let request = FrameRequest::order(order);
        let request = self.node.map_or(request, |node| request.node(node));
        if self.zeroed { request.zeroed() } else { request }
    }
}
