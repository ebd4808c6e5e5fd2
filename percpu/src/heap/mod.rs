//! The heap: slabs per size class and node, with magazines per CPU in front.
//!
//! # The path of an object
//!
//! An allocation pops the CPU's loaded [magazine](crate::magazine): no lock, no atomic
//! read-modify-write. The previous magazine takes the place of an empty one. Only these steps are
//! inlined, for sizes up to 4 KiB; all further paths are behind a call. If both magazines are empty,
//! the CPU takes a full magazine from the node's [depot](crate::depot), else fills a magazine from
//! the node's [shelf](crate::slab), else makes a slab of pages from the source. A free takes the same
//! path back, if the object's slab belongs to the CPU's node. An object of another node's slab returns
//! at once, by a compare-and-swap on the slab. A slab without live objects returns the slab's pages;
//! each shelf keeps a magazine's worth of empty slabs.
//!
//! # Homes
//!
//! A slab belongs to the node requested for its pages, even if the source only had pages of another
//! node. A CPU thus always finds the slabs allocated for the CPU, and frees into these slabs are local.
//!
//! Objects freed by other nodes' CPUs are collected by CPUs of the home node that allocate, by the
//! freeing CPU if several slabs wait, by [`Heap::run_pending_work`], and by [`Heap::reclaim`].
//!
//! # Contexts
//!
//! Everything works in every context, with nothing masked: thread, interrupt handler, NMI handler
//! nested in either, a CPU not online yet. A use nested in another use on the CPU finds the
//! CPU's cell busy, and takes the *shared path*: a try of the shelf's lock, and without the lock
//! a free to the slab's remote stack, or an allocation from the shelf's inbox or a new slab. No context
//! waits for an interrupted context, and none waits for another CPU without bound. The heap
//! holds no lock while it calls [`PageSource`] or [`Platform::relax`].

mod alloc;
mod cpu;
mod dealloc;
mod error;
pub(crate) mod handles;
#[cfg(feature = "hardening")]
mod hardening;
mod large;
mod many;
pub(crate) mod node;
mod place;
mod realloc;
mod stats;

pub use error::{AllocError, Corruption, InvalidFree, ReallocError};
#[cfg(feature = "leak-tracking")]
pub use hardening::LiveObjects;
#[cfg(feature = "hardening")]
pub use hardening::{Caller, Finding, Hardening, Measure, Origin, QUARANTINE_BYTES, Report, Site};
pub use many::Partial;
pub use stats::slabinfo::{HeapStats, NodeClassStats, Slabinfo};
pub use stats::{ClassStats, CpuHeapStats, LargeStats};

use core::alloc::Layout;
use core::fmt;
use core::ptr::{self, NonNull};

use crate::try_lock::Patience;
use crate::{CpuId, CpuLocal, CpuPin, PageSource, Platform, Unavailable};
use cpu::area::CpuArea;
use cpu::cache::CpuCache;
use large::runs::Runs;
use node::table::NodeTable;

/// A slab heap over the pages of `S`, for the CPUs of `P`.
///
/// `const`-constructible, so it fits in a `static`, as `#[global_allocator]` too. The heap serves
/// from the first call on; [`Heap::cpu_online`] gives each CPU its magazines. Objects up to
/// [`MAX_CLASS_SIZE`](crate::MAX_CLASS_SIZE) come from slabs; larger objects are runs of pages.
///
/// Dropping the heap returns all its pages except those of slabs with live objects.
pub struct Heap<P: Platform, S: PageSource> {
    platform: P,
    source: S,
    /// Each slot is the first field of a [`CpuArea`].
    caches: CpuLocal<CpuCache>,
    /// Created at the first use of the node's memory.
    nodes: NodeTable,
    runs: Runs,
    large: large::Counters,
    #[cfg(feature = "hardening")]
    hardening: Hardening,
    #[cfg(feature = "leak-tracking")]
    inspection: hardening::Inspection,
}

impl<P: Platform, S: PageSource> Heap<P, S> {
    /// Creates an empty heap. It takes its first pages at the first allocation.
    ///
    /// # Examples
    ///
    /// ```
    /// # use topomem_percpu::Heap;
    /// # mod host { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/host/mod.rs")); }
    /// # use host::Host;
    /// static HEAP: Heap<Host, Host> = Heap::new(Host, Host);
    /// ```
    #[cfg(not(loom))]
    #[must_use]
    pub const fn new(platform: P, source: S) -> Heap<P, S> {
        Heap {
            platform,
            source,
            caches: CpuLocal::new(),
            nodes: NodeTable::new(),
            runs: Runs::new(),
            large: large::Counters::new(),
            #[cfg(feature = "hardening")]
            hardening: Hardening::NONE,
            #[cfg(feature = "leak-tracking")]
            inspection: hardening::Inspection::new(),
        }
    }

    /// Creates an empty heap (loom's atomics have no `const` constructor).
    #[cfg(loom)]
    #[must_use]
    pub fn new(platform: P, source: S) -> Heap<P, S> {
        Heap {
            platform,
            source,
            caches: CpuLocal::new(),
            nodes: NodeTable::new(),
            runs: Runs::new(),
            large: large::Counters::new(),
            #[cfg(feature = "hardening")]
            hardening: Hardening::NONE,
            #[cfg(feature = "leak-tracking")]
            inspection: hardening::Inspection::new(),
        }
    }

    /// Returns the page source.
    pub const fn source(&self) -> &S {
        &self.source
    }

    /// Does the heap have measures that surround objects, or look at them?
    const fn is_hardened(&self) -> bool {
        #[cfg(feature = "hardening")]
        return self.hardening.is_some();
        #[cfg(not(feature = "hardening"))]
        false
    }

    /// How long the context may spin: not at all if it is nested in another use on its CPU.
    fn patience(&self, pin: &CpuPin) -> Patience {
        match self.caches.with(pin, |_| ()) {
            Err(Unavailable::Busy) => Patience::None,
            Ok(()) | Err(Unavailable::NotInstalled) => Patience::Bounded,
        }
    }

    fn area(&self, cpu: CpuId) -> Option<&CpuArea> {
        // SAFETY: `cpu_online` gave the address of a whole area, which lives until the heap is dropped.
        self.caches.slot(cpu).map(|area| unsafe { area.cast().as_ref() })
    }

    /// Returns the areas of the CPUs that were ever online, each with its CPU.
    fn areas(&self) -> impl Iterator<Item = (CpuId, &CpuArea)> {
        // SAFETY: as above.
        self.caches.iter().map(|(cpu, area)| (cpu, unsafe { area.cast().as_ref() }))
    }

    fn count_nested(&self, pin: &CpuPin) {
        if let Some(area) = self.area(pin.cpu()) {
            area.cache.shared().count_nested();
        }
    }
}

/// Returns an aligned address for an allocation without bytes.
fn dangling(layout: Layout) -> NonNull<u8> {
    // An alignment is never zero, so neither fallback is taken.
    NonNull::new(ptr::without_provenance_mut(layout.align())).unwrap_or(NonNull::dangling())
}

impl<P: Platform, S: PageSource> fmt::Debug for Heap<P, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Heap").finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
mod tests;

#[cfg(all(test, loom))]
mod models;
