//! Virtually contiguous ranges of kernel memory: mapped page by page, with guard pages, and
//! unmapped lazily.
//!
//! [`KernelRanges`] allocates addresses of the kernel's half, and maps them to frames from
//! anywhere, like Linux's vmalloc and FreeBSD's kmem. Large objects of the heap come from ranges if
//! no run of frames is long enough ([`RangesConfig::heap_from`]), and so may stacks of kernel
//! threads, tables and buffers.
//!
//! # Addresses
//!
//! Addresses are managed as in vmem (Bonwick and Adams, *Magazines and Vmem*, USENIX 2001):
//! boundary tags, for merging freed neighbours in constant time, and lists by powers of two, from
//! which a request takes the first stretch of sufficient length. A lock guards them. The lock is
//! held for a constant number of steps, and is tried a bounded number of times. A context in the
//! middle of an interrupted use on the same CPU does not try the lock, and gets
//! [`RangeError::Busy`].
//!
//! The addresses of each range begin with a page never mapped, and the last page of all addresses
//! is never used. The pages before and behind a range are therefore unmapped, and an access to them
//! faults. Ranges of 2 MiB or more begin at a multiple of 2 MiB, at the low end of a vacant
//! stretch. Shorter ranges lie at the high end. Long ranges are therefore mapped with pages of 2
//! MiB if such runs of frames are free, and mostly have room to grow.
//!
//! # Frees
//!
//! A free marks the range, and puts it on a list: one compare-and-swap each, in any context,
//! without a lock. Nothing is unmapped yet. Many ranges are unmapped together later, with a single
//! round of interrupts ([`KernelRanges::flush`]), by the service task if many pages wait, or if
//! frames or addresses run short. After every CPU's acknowledgement, the frames and the addresses
//! are free. Allocations and frees never wait for it. Until then a freed range is still mapped: a
//! use after the free faults after the flush, not before. Linux purges lazily for the same reason:
//! a single interrupt of all CPUs costs more than many unmappings.
//!
//! # From an address to its range
//!
//! The first frame of a range names the range's node in its word of the per-frame table, which no
//! mapping needs. An address is therefore looked up by a walk of the page table, without a lock and
//! without a table of ranges. The lookup accepts any address.
//!
//! # Examples
//!
//! A stack of a kernel thread, between guard pages:
//!
//! ```
//! use topomem::ranges::{RangeRequest, RangesConfig};
//! use topomem::sim::Sim;
//! use topomem::{CpuId, PageRange, PageSize, VirtAddr};
//!
//! let sim = Sim::builder().memory(64 << 20).build()?;
//! let service = sim.boot_service()?;
//! // Where nothing else of the kernel's is, in its half of the addresses.
//! let addresses = VirtAddr::new(Sim::WINDOW.as_u64() + (256 << 30))?;
//! let addresses = PageRange::new(addresses, 64, PageSize::Size1GiB)?;
//! sim.on(CpuId::BOOT, |pin| {
//!     let ranges = service.add_kernel_ranges(pin, &RangesConfig::of(addresses))?;
//!     let stack = ranges.allocate(pin, &RangeRequest::pages(4))?;
//!     let (bottom, top) = (stack.start().as_u64(), stack.start().as_u64() + stack.bytes());
//!     let first = VirtAddr::new(top - 8)?;
//!     sim.store(first, 1).expect("the stack is mapped");
//!     for guard in [bottom - 8, top] {
//!         assert!(sim.store(VirtAddr::new(guard)?, 1).is_err());
//!     }
//!     drop(stack); // Freed, and unmapped some time later.
//!     ranges.flush(pin);
//!     assert!(sim.store(first, 1).is_err());
//!     Ok::<(), Box<dyn std::error::Error>>(())
//! })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod allocate;
mod arena;
mod backing;
mod error;
mod flush;
mod freed;
mod handle;
mod node;
mod placing;
mod request;
mod resize;
mod validate;

use core::fmt;

use crossbeam_utils::CachePadded;
use topomem_percpu::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use topomem_percpu::{CpuPin, Order};
use topomem_shootdown::{PageRange, VirtAddr};

pub use error::{RangeError, RangesError};
pub use flush::Flushed;
pub use handle::KernelRange;
pub use request::{RangeRequest, RangesConfig};
pub use validate::{RangeCorruption, RangesStats};

use crate::Machine;
use crate::address_space::SpaceCore;
use crate::page_table::{Level, Pages, TableMemory};
use crate::service::MemoryService;
use crate::spin_lock::{SpinGuard, SpinLock};
use arena::{Arena, End};
use flush::Retiring;
use freed::FreedList;
use node::{Node, NodeNumber, Nodes, State};

/// Number of tries of a lock held by another CPU: far longer than any holder takes.
const TURNS: usize = 4096;

/// Ranges of kernel addresses, mapped to frames from anywhere.
///
/// Made by [`MemoryService::add_kernel_ranges`]. All methods may be called in any context, on any
/// CPU; see the [module](self).
pub struct KernelRanges<P: Machine> {
    service: &'static MemoryService<P>,
    /// The kernel's space.
    core: &'static SpaceCore<P>,
    /// All addresses.
    bounds: Pages,
    /// The size, in pages, from which the heap's objects are ranges by default.
    heap_from: u64,
    /// Number of pages waiting to be unmapped before the service task is told.
    lazy_pages: u64,
    nodes: Nodes,
    arena: SpinLock<Arena>,
    freed: FreedList,
    retiring: SpinLock<Retiring>,
    /// The CPUs changing mappings of ranges, or holding a lock, at this moment.
    busy: &'static [CachePadded<AtomicBool>],
    live: AtomicU64,
    live_pages: AtomicU64,
}

/// Proof of an exclusive use of the ranges on this CPU.
struct Inside<'a> {
    busy: &'a AtomicBool,
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        // Release pairs with the Acquire in `enter`, if two CPUs share a word.
        self.busy.store(false, Ordering::Release);
    }
}

impl<P: Machine> KernelRanges<P> {
    /// Begins a use on the pinned CPU. Returns `None` if this context has interrupted another use.
    fn enter(&self, pin: &CpuPin) -> Option<Inside<'_>> {
        // A CPU not named by firmware shares the boot CPU's word, so the mark is a
        // read-modify-write.
        let busy = self.busy.get(pin.cpu().index()).unwrap_or(&self.busy[0]);
        // Made only if it was not set: its drop clears the mark.
        (!busy.swap(true, Ordering::Acquire)).then(|| Inside { busy })
    }

    /// Locks the addresses, unless another CPU holds the lock for long. No context of this CPU
    /// does: see `inside`.
    fn arena(&self, _inside: &Inside<'_>) -> Result<SpinGuard<'_, Arena>, RangeError> {
        for _ in 0..TURNS {
            if let Some(guard) = self.arena.try_lock() {
                return Ok(guard);
            }
            self.service.platform().relax();
        }
        Err(RangeError::Busy)
    }

    /// Returns the node of the range starting at `address`, if any.
    fn find(&self, pin: &CpuPin, address: VirtAddr) -> Option<(NodeNumber, &Node)> {
        let page = address.as_u64() >> 12;
        if !address.as_u64().is_multiple_of(4096) || !self.bounds.contain(page) {
            return None;
        }
        let frames = self.service.frames();
        let walk = self.service.walks().enter(pin);
        let (leaf, level) = self.core.table.walk(frames, &walk, page)?;
        let frame = leaf.frame + (page & (level.pages() - 1));
        // Relaxed: the owner of the range learned of it after the word was written. For anybody
        // else any word is as good, since the node is checked against the address.
        let number = NodeNumber::of_link(frames.info(frame)?.aux.load(Ordering::Relaxed))?;
        let node = self.nodes.find(number)?;
        (node.start() == page && node.state() == State::Live).then_some((number, node))
    }

    /// Returns the number of pages of the range starting at `address`, or `None` if no range starts
    /// there. Accepts any address. Cost: a walk of the page table.
    #[must_use]
    pub fn pages_at(&self, pin: &CpuPin, address: VirtAddr) -> Option<u64> {
        self.find(pin, address).map(|(_, node)| node.pages())
    }

    /// Returns whether an object of the heap of `pages` pages is to be a range, even if a run of
    /// frames is free.
    pub(crate) fn is_for(&self, pages: u64) -> bool {
        pages >= self.heap_from.min(Order::GIANT.frames() + 1)
    }

    /// Returns whether `address` lies among the addresses of ranges.
    #[must_use]
    pub fn contains(&self, address: VirtAddr) -> bool {
        self.bounds.contain(address.as_u64() >> 12)
    }

    /// Frees the range starting at `address`, whose handle was given up by
    /// [`KernelRange::into_start`]. The range is unmapped later ([`KernelRanges::flush`]).
    ///
    /// Cost: a walk of the page table and two compare-and-swaps.
    ///
    /// # Errors
    ///
    /// Returns [`RangeError::NotARange`] if no range starts at `address`: an address inside a
    /// range, or of a range already freed. Nothing has changed then.
    ///
    /// # Safety
    ///
    /// The caller owns the range, which is not used any more.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// # use topomem::{PageRange, PageSize, VirtAddr, sim::Sim};
    /// # use topomem::ranges::{RangeRequest, RangesConfig};
    /// # let addresses = VirtAddr::new(Sim::WINDOW.as_u64() + (256 << 30))?;
    /// # let addresses = PageRange::new(addresses, 64, PageSize::Size1GiB)?;
    /// # let ranges = service.add_kernel_ranges(pin, &RangesConfig::of(addresses))?;
    /// let start = ranges.allocate(pin, &RangeRequest::pages(4))?.into_start();
    /// assert_eq!(ranges.pages_at(pin, start), Some(4));
    /// // SAFETY: the range is not used.
    /// unsafe { ranges.free_at(pin, start)? };
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub unsafe fn free_at(&self, pin: &CpuPin, address: VirtAddr) -> Result<(), RangeError> {
        let not_one = RangeError::NotARange { address };
        let (number, node) = self.find(pin, address).ok_or(not_one)?;
        self.free_node(number, node, State::Live).then_some(()).ok_or(not_one)
    }

    /// Frees the range of `node` in state `state`. Returns false if the node is in another state.
    fn free_node(&self, number: NodeNumber, node: &Node, state: State) -> bool {
        let pages = node.pages();
        if !self.freed.free(node, number, state) {
            return false;
        }
        if state == State::Live {
            // Relaxed: counts, read for statistics.
            self.live.fetch_sub(1, Ordering::Relaxed);
            self.live_pages.fetch_sub(pages, Ordering::Relaxed);
        }
        if self.freed.pages() >= self.lazy_pages {
            self.service.note_work_anywhere();
        }
        true
    }

    /// Names the node in the first frame of the range mapped from `node`'s start on.
    fn name_first_frame(&self, pin: &CpuPin, number: NodeNumber, node: &Node) {
        let frames = self.service.frames();
        let walk = self.service.walks().enter(pin);
        let Some((leaf, level)) = self.core.table.walk(frames, &walk, node.start()) else { return };
        let frame = leaf.frame + (node.start() & (level.pages() - 1));
        // Relaxed: users of the range get its address from the context calling this function.
        frames.aux(frame).store(NodeNumber::link(Some(number)), Ordering::Relaxed);
    }

    /// Returns the addresses of the `count` pages from the page numbered `first` on.
    fn range(first: u64, count: u64) -> Option<PageRange> {
        PageRange::new(VirtAddr::new_truncate(first << 12), count, topomem_shootdown::PageSize::Size4KiB).ok()
    }

    /// Returns the number of pages of addresses taken by a range of `pages` pages, the alignment of
    /// its start, and the end of a stretch to take the addresses from.
    fn shape(pages: u64) -> (u64, u64, End) {
        let huge = Level::HUGE.pages();
        if pages < huge {
            (1 + pages, 1, End::High)
        } else {
            (1 + pages.next_multiple_of(huge), huge, End::Low)
        }
    }
}

impl<P: Machine> fmt::Debug for KernelRanges<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KernelRanges")
            .field("first", &VirtAddr::new_truncate(self.bounds.first << 12))
            .field("last", &VirtAddr::new_truncate(self.bounds.last << 12))
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, feature = "sim", not(any(loom, miri))))]
mod tests {
    use topomem_percpu::CpuId;
    use topomem_shootdown::PageSize;

    use super::*;
    use crate::sim::Sim;

    #[test]
    fn a_context_inside_another_is_refused_each_time() {
        let sim = Sim::builder().cpus(1).memory(64 << 20).build().unwrap();
        let service = sim.boot_service().unwrap();
        let addresses = PageRange::new(Sim::WINDOW, 4, PageSize::Size1GiB).unwrap();
        sim.on(CpuId::BOOT, |pin| {
            let ranges = service.add_kernel_ranges(pin, &RangesConfig::of(addresses)).unwrap();
            drop(ranges.allocate(pin, &RangeRequest::pages(3)).unwrap());
            let outer = ranges.enter(pin).unwrap();
            for _ in 0..2 {
                assert!(ranges.enter(pin).is_none());
                assert_eq!(ranges.flush(pin), Flushed { frames: 0, waiting: true });
            }
            drop(outer);
            assert!(ranges.flush(pin).frames >= 3);
        });
    }
}
