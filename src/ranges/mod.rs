//! Virtually contiguous ranges of kernel memory: mapped page by page, with guard pages, and unmapped lazily.
//!
//! [`KernelRanges`] gives out addresses of the kernel's half, and maps them to frames from anywhere: as Linux's
//! vmalloc and FreeBSD's kmem do. Large objects of the heap come from there if no run of frames is long enough
//! ([`RangesConfig::heap_from`]), and so may stacks of kernel threads, tables and buffers.
//!
//! # Addresses
//!
//! The addresses are those of vmem (Bonwick and Adams, *Magazines and Vmem*, USENIX 2001): boundary tags, so
//! that freed neighbours merge in constant time, and lists by powers of two, of which a request takes the first
//! stretch that is surely long enough. One lock guards them. It is held for a constant number of steps, is tried a
//! bounded number of times, and not at all by a context that interrupted a use on the same CPU: such a use is
//! told [`RangeError::Busy`].
//!
//! The addresses of each range begin with a page that is never mapped, and the last page of all addresses is none's. So
//! the page before a range and the page behind it are not mapped, and an access there faults. Ranges of 2 MiB
//! or more begin at a multiple of 2 MiB, at the low end of a vacant stretch, and shorter ones lie at the high end.
//! So long ranges are mapped by pages of 2 MiB where there are such runs of frames, and mostly have room to grow.
//!
//! # Frees
//!
//! A free marks the range, and puts it on a list: one compare-and-swap each, in any context, without a lock. Nothing
//! is unmapped then. Later many ranges are unmapped at once, with one round of interrupts
//! ([`KernelRanges::flush`]), by the service task if many pages wait, or if frames or addresses run short. When every
//! CPU has acknowledged that, the frames and the addresses are free. Nobody waits for it in an allocation or a free.
//! Until then a freed range is still mapped: a use after the free faults after the flush, not before. Linux
//! purges lazily for the same reason: one interrupt of all CPUs costs more than many unmappings.
//!
//! # From an address to its range
//!
//! The first frame of a range names the range's node in its word of the per-frame table, which no mapping needs. So
//! an address is looked up by a walk of the page table, without a lock and without a table of ranges: any address may
//! be asked for.
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

/// How often a lock is tried that another CPU holds: far longer than any holder takes.
const TURNS: usize = 4096;

/// Ranges of kernel addresses, mapped to frames from anywhere.
///
/// Made by [`MemoryService::add_kernel_ranges`]. All its methods may be called in any context, on any CPU; see the
/// [module](self).
pub struct KernelRanges<P: Machine> {
    service: &'static MemoryService<P>,
    /// The kernel's space.
    core: &'static SpaceCore<P>,
    /// All addresses.
    bounds: Pages,
    /// From how many pages on the heap's objects are ranges, if nothing else is wanted.
    heap_from: u64,
    /// How many pages may wait to be unmapped before the service task is told.
    lazy_pages: u64,
    nodes: Nodes,
    arena: SpinLock<Arena>,
    freed: FreedList,
    retiring: SpinLock<Retiring>,
    /// Which CPUs change mappings of ranges, or hold a lock, just now.
    busy: &'static [CachePadded<AtomicBool>],
    live: AtomicU64,
    live_pages: AtomicU64,
}

/// Proof that the CPU was not in a use of the ranges, and is in one now.
struct Inside<'a> {
    busy: &'a AtomicBool,
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        // Release pairs with the Acquire in `enter`, where two CPUs share a word.
        self.busy.store(false, Ordering::Release);
    }
}

impl<P: Machine> KernelRanges<P> {
    /// Begins a use of the pinned CPU's; `None` if this context has interrupted one.
    fn enter(&self, pin: &CpuPin) -> Option<Inside<'_>> {
        // A CPU that firmware did not name shares the boot CPU's word, so the mark is a read-modify-write.
        let busy = self.busy.get(pin.cpu().index()).unwrap_or(&self.busy[0]);
        (!busy.swap(true, Ordering::Acquire)).then_some(Inside { busy })
    }

    /// The addresses' lock, if no other CPU holds it for long. No context of this CPU does: see `inside`.
    fn arena(&self, _inside: &Inside<'_>) -> Result<SpinGuard<'_, Arena>, RangeError> {
        for _ in 0..TURNS {
            if let Some(guard) = self.arena.try_lock() {
                return Ok(guard);
            }
            self.service.platform().relax();
        }
        Err(RangeError::Busy)
    }

    /// The node of the range that starts at `address`, if there is one.
    fn find(&self, pin: &CpuPin, address: VirtAddr) -> Option<(NodeNumber, &Node)> {
        let page = address.as_u64() >> 12;
        if !address.as_u64().is_multiple_of(4096) || !self.bounds.contain(page) {
            return None;
        }
        let frames = self.service.frames();
        let walk = self.service.walks().enter(pin);
        let (leaf, level) = self.core.table.walk(frames, &walk, page)?;
        let frame = leaf.frame + (page & (level.pages() - 1));
        // Relaxed: whoever owns the range learned of it after the word was written; for anybody else any word is
        // as good, since the node must say that it is this range's.
        let number = NodeNumber::of_link(frames.info(frame)?.aux.load(Ordering::Relaxed))?;
        let node = self.nodes.find(number)?;
        (node.start() == page && node.state() == State::Live).then_some((number, node))
    }

    /// How many pages the range that starts at `address` has; `None` if no range starts there. Any address may be
    /// asked for. Costs a walk of the page table.
    #[must_use]
    pub fn pages_at(&self, pin: &CpuPin, address: VirtAddr) -> Option<u64> {
        self.find(pin, address).map(|(_, node)| node.pages())
    }

    /// Shall an object of the heap of `pages` pages be a range, even if there is a run of frames for it?
    pub(crate) fn is_for(&self, pages: u64) -> bool {
        pages >= self.heap_from.min(Order::GIANT.frames() + 1)
    }

    /// Does `address` lie among the addresses of ranges?
    #[must_use]
    pub fn contains(&self, address: VirtAddr) -> bool {
        self.bounds.contain(address.as_u64() >> 12)
    }

    /// Frees the range that starts at `address`, of which [`KernelRange::into_start`] gave up the handle. It is
    /// unmapped later ([`KernelRanges::flush`]).
    ///
    /// Costs a walk of the page table and two compare-and-swaps.
    ///
    /// # Errors
    ///
    /// [`RangeError::NotARange`] if no range starts there: an address inside of a range, or of one that was freed
    /// before. Nothing has changed.
    ///
    /// # Safety
    ///
    /// The range is the caller's, and not used any more.
    pub unsafe fn free_at(&self, pin: &CpuPin, address: VirtAddr) -> Result<(), RangeError> {
        let not_one = RangeError::NotARange { address };
        let (number, node) = self.find(pin, address).ok_or(not_one)?;
        self.free_node(number, node, State::Live).then_some(()).ok_or(not_one)
    }

    /// Frees the range of `node`, which is in `state`; false if it is not.
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

    /// Notes which node has the range that is mapped from `node`'s start on.
    fn name_first_frame(&self, pin: &CpuPin, number: NodeNumber, node: &Node) {
        let frames = self.service.frames();
        let walk = self.service.walks().enter(pin);
        let Some((leaf, level)) = self.core.table.walk(frames, &walk, node.start()) else { return };
        let frame = leaf.frame + (node.start() & (level.pages() - 1));
        // Relaxed: whoever asks for the range got its address from the context that calls this.
        frames.aux(frame).store(NodeNumber::link(Some(number)), Ordering::Relaxed);
    }

    /// The addresses of the `count` pages from the one numbered `first` on.
    fn range(first: u64, count: u64) -> Option<PageRange> {
        PageRange::new(VirtAddr::new_truncate(first << 12), count, topomem_shootdown::PageSize::Size4KiB).ok()
    }

    /// How many pages of addresses a range of `pages` pages takes, of what its start is a multiple, and where the
    /// addresses are taken from.
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
