//! Requests for ranges.

use topomem_numa::frames::FrameRequest;
use topomem_percpu::{NodeId, Order};
use topomem_shootdown::PageRange;

use crate::page_table::Protection;

/// The addresses of ranges, and the heap's objects to be made ranges.
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
    /// The default size, in bytes, from which the heap's objects are ranges: 32 MiB.
    pub const HEAP_FROM: u64 = 32 << 20;

    /// Returns a configuration for ranges at `addresses`: whole pages of 2 MiB of the kernel's
    /// window, without another mapping. A few times the machine's memory is enough.
    ///
    /// ```
    /// use topomem::{PageRange, PageSize, RangesConfig, VirtAddr};
    ///
    /// let addresses = PageRange::new(VirtAddr::new(0xffff_e000_0000_0000)?, 16, PageSize::Size1GiB)?;
    /// let config = RangesConfig::of(addresses);
    /// # let _ = config;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub const fn of(addresses: PageRange) -> RangesConfig {
        RangesConfig { addresses, heap_from: RangesConfig::HEAP_FROM }
    }

    /// Makes objects of the heap of `bytes` bytes or more ranges. Smaller objects are ranges only
    /// if no run of consecutive frames is free.
    #[must_use]
    pub const fn heap_from(self, bytes: u64) -> RangesConfig {
        RangesConfig { heap_from: bytes, ..self }
    }
}

/// The properties of a requested range.
///
/// ```
/// use topomem::ranges::RangeRequest;
/// use topomem::Order;
///
/// assert_eq!(RangeRequest::pages(4).align(), Order::FRAME);
/// assert_eq!(RangeRequest::bytes(2 << 20).zeroed().align(), Order::HUGE);
/// ```
#[derive(Debug, Clone, Copy)]
pub struct RangeRequest {
    pub(super) pages: u64,
    node: Option<NodeId>,
    pub(super) zeroed: bool,
    pub(super) protection: Protection,
}

impl RangeRequest {
    /// Requests `pages` pages of 4 KiB, near the requesting CPU, readable and writable.
    ///
    /// ```
    /// use topomem::{Order, RangeRequest};
    ///
    /// assert_eq!(RangeRequest::pages(4).align(), Order::FRAME);
    /// ```
    #[must_use]
    pub const fn pages(pages: u64) -> RangeRequest {
        RangeRequest { pages, node: None, zeroed: false, protection: Protection::KERNEL_DATA }
    }

    /// Requests at least `bytes` bytes.
    ///
    /// ```
    /// use topomem::{Order, RangeRequest};
    ///
    /// assert_eq!(RangeRequest::bytes(2 << 20).align(), Order::HUGE); // so that large pages fit
    /// ```
    #[must_use]
    pub const fn bytes(bytes: u64) -> RangeRequest {
        RangeRequest::pages(bytes.div_ceil(Order::FRAME.bytes()))
    }

    /// Requests frames near `node`. Farther nodes serve if the node has no frame left.
    #[must_use]
    pub const fn node(self, node: NodeId) -> RangeRequest {
        RangeRequest { node: Some(node), ..self }
    }

    /// Requests zeroed frames.
    ///
    /// ```
    /// use topomem::RangeRequest;
    ///
    /// let table = RangeRequest::bytes(1 << 20).zeroed();
    /// # let _ = table;
    /// ```
    #[must_use]
    pub const fn zeroed(self) -> RangeRequest {
        RangeRequest { zeroed: true, ..self }
    }

    /// Requests the protection `protection`, which must be for the kernel.
    #[must_use]
    pub const fn protection(self, protection: Protection) -> RangeRequest {
        RangeRequest { protection, ..self }
    }

    /// Returns the least alignment of the range's start.
    ///
    /// ```
    /// use topomem::{Order, RangeRequest};
    ///
    /// assert_eq!(RangeRequest::pages(511).align(), Order::FRAME);
    /// assert_eq!(RangeRequest::pages(512).align(), Order::HUGE);
    /// ```
    #[must_use]
    pub const fn align(&self) -> Order {
        if self.pages < Order::HUGE.frames() { Order::FRAME } else { Order::HUGE }
    }

    /// Returns the request for a run of frames of `order`.
    pub(super) fn frames(&self, order: Order) -> FrameRequest {
        let request = FrameRequest::order(order);
        let request = self.node.map_or(request, |node| request.node(node));
        if self.zeroed { request.zeroed() } else { request }
    }
}
