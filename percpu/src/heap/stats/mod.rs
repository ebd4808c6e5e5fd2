//! The heap's counters, and their cross-check.

pub(in crate::heap) mod counters;
pub(in crate::heap) mod slabinfo;

use crate::heap::{Corruption, Heap};
use crate::slab::{ShelfCounts, SizeClass, SlabShape};
use crate::try_lock::Patience;
use crate::{CpuId, PageSource, Platform};

/// One size class, over all nodes. Read counter by counter during concurrent uses, so exact only
/// without concurrent uses.
///
/// ```
/// # mod host { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/host/mod.rs")); }
/// # use host::Host;
/// # use topomem_percpu::{Heap, Platform};
/// # static HEAP: Heap<Host, Host> = Heap::new(Host, Host);
/// # let pin = Host.pin();
/// # HEAP.cpu_online(&pin)?;
/// use topomem_percpu::SizeClass;
///
/// let class = SizeClass::all().next().unwrap();
/// assert_eq!(HEAP.class_stats(class).slabs, 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ClassStats {
    /// Bytes of an object.
    pub object_size: usize,
    /// Objects held by callers.
    pub live: u64,
    /// Free objects in CPUs' and depots' magazines, or on their way to their slab.
    pub cached: u64,
    /// Free objects in slabs.
    pub free: u64,
    /// Slabs that hold pages.
    pub slabs: u64,
    /// Bytes of pages in those slabs.
    pub slab_bytes: u64,
}

impl ClassStats {
    /// Returns the fragmentation: the bytes outside live objects, in thousandths of the slabs'
    /// bytes; 0 without slabs.
    #[must_use]
    pub fn fragmentation_per_mille(&self) -> u64 {
        let live = self.live * self.object_size as u64;
        (self.slab_bytes.saturating_sub(live) * 1000).checked_div(self.slab_bytes).unwrap_or(0)
    }
}

/// Objects beyond the largest class, each with its own run of pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LargeStats {
    /// Runs held by callers.
    pub live: u64,
    /// Bytes of those runs.
    pub bytes: u64,
    /// Runs cached by CPUs for the next large objects.
    pub cached: u64,
    /// Bytes of those runs.
    pub cached_bytes: u64,
}

/// One CPU's use of its magazines since it came online.
///
/// ```
/// # mod host { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/host/mod.rs")); }
/// # use host::Host;
/// # use topomem_percpu::{Heap, Platform};
/// # static HEAP: Heap<Host, Host> = Heap::new(Host, Host);
/// # let pin = Host.pin();
/// # HEAP.cpu_online(&pin)?;
/// let stats = HEAP.cpu_stats(pin.cpu()).unwrap();
/// assert_eq!(stats.hits, 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CpuHeapStats {
    /// Allocations and frees served by the CPU's own magazines.
    pub hits: u64,
    /// Allocations and frees passed on to the depot or to a slab.
    pub misses: u64,
    /// Uses nested in another use of the CPU (interrupt handlers), served by the shared path.
    pub nested: u64,
    /// Frees of another node's objects, returned to their node.
    pub remote_frees: u64,
}

impl<P: Platform, S: PageSource> Heap<P, S> {
    /// Returns one class's counters, over all nodes. Takes each node's lock of the class for a
    /// moment, and leaves out a shelf if its lock stays taken.
    ///
    /// # Examples
    ///
    /// ```
    /// # use topomem_percpu::{Heap, SizeClass};
    /// # mod host { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/host/mod.rs")); }
    /// # use host::Host;
    /// # use std::alloc::Layout;
    /// let heap = Heap::new(Host, Host);
    /// let _boxed = heap.try_box(1_u64)?;
    /// let stats = heap.class_stats(SizeClass::of(Layout::new::<u64>()).unwrap());
    /// assert_eq!((stats.object_size, stats.live), (8, 1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn class_stats(&self, class: SizeClass) -> ClassStats {
        let pin = self.platform.pin();
        let shape = SlabShape::ALL[class.index()];
        let mut counts = ShelfCounts::default();
        let mut live = 0u64;
        for node in self.existing_nodes() {
            let of_node = node.class(class);
            if let Some(shelf) = of_node.shelf.lock(&self.platform, &pin, Patience::Bounded) {
                counts.slabs += shelf.counts().slabs;
                counts.free += shelf.counts().free;
                self.release(&pin, class, shelf.unlock());
            }
            live = live.wrapping_add(of_node.ops.live());
        }
        for (_, area) in self.areas() {
            live = live.wrapping_add(area.cache.shared().live(class));
        }
        // A free counted before its allocation leaves the sum below zero.
        let live = if live > u64::MAX / 2 { 0 } else { live };
        let used = (counts.slabs * shape.capacity - counts.free) as u64;
        ClassStats {
            object_size: class.size(),
            live,
            cached: used.saturating_sub(live),
            free: counts.free as u64,
            slabs: counts.slabs as u64,
            slab_bytes: counts.slabs as u64 * shape.order.bytes(),
        }
    }

    /// Returns the large objects' counters, exact only without concurrent uses. Reads the counters
    /// of each length of each CPU.
    ///
    /// # Examples
    ///
    /// ```
    /// # use topomem_percpu::Heap;
    /// # mod host { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/host/mod.rs")); }
    /// # use host::Host;
    /// let heap = Heap::new(Host, Host);
    /// let _table = heap.try_box_zeroed::<[u8; 100_000]>()?;
    /// assert_eq!(heap.large_stats().live, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn large_stats(&self) -> LargeStats {
        let (mut live, mut bytes) = self.large.read();
        let (mut cached, mut cached_bytes) = (0, 0);
        for (_, area) in self.areas() {
            for (length, of_cpu, runs) in area.cache.shared().runs.counts() {
                live = live.wrapping_add(of_cpu);
                bytes = bytes.wrapping_add(of_cpu.wrapping_mul(length.bytes()));
                cached += u64::from(runs);
                cached_bytes += u64::from(runs) * length.bytes();
            }
        }
        // A free counted before its allocation leaves a sum below zero.
        let least_zero = |sum: u64| if sum > u64::MAX / 2 { 0 } else { sum };
        LargeStats { live: least_zero(live), bytes: least_zero(bytes), cached, cached_bytes }
    }

    /// Returns the bytes of the record of runs. It grows with the addresses used by the heap, by a
    /// page for each 8 MiB at most, and never shrinks.
    #[must_use]
    pub fn record_bytes(&self) -> u64 {
        self.runs.bytes()
    }

    /// Returns one CPU's counters, or `None` before it came online.
    ///
    /// # Examples
    ///
    /// ```
    /// # use topomem_percpu::{CpuId, Heap, Platform};
    /// # mod host { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/host/mod.rs")); }
    /// # use host::Host;
    /// let heap = Heap::new(Host, Host);
    /// assert_eq!(heap.cpu_stats(CpuId::BOOT), None);
    /// let pin = Host.pin();
    /// heap.cpu_online(&pin)?;
    /// assert!(heap.cpu_stats(pin.cpu()).is_some());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn cpu_stats(&self, cpu: CpuId) -> Option<CpuHeapStats> {
        Some(self.area(cpu)?.cache.shared().stats())
    }

    /// Cross-checks every shelf's lists, its slabs' headers and free lists, and its counters, each
    /// shelf under its lock. Also checks the lists of runs cached by the calling CPU, unless the
    /// call is nested in another use on that CPU. Concurrent uses of the heap are allowed. Walks
    /// every free object.
    ///
    /// # Errors
    ///
    /// Returns the first [`Corruption`] found, and [`Corruption::Busy`] if the lock of a shelf
    /// stays taken.
    ///
    /// # Examples
    ///
    /// ```
    /// # use topomem_percpu::Heap;
    /// # mod host { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/host/mod.rs")); }
    /// # use host::Host;
    /// let heap = Heap::new(Host, Host);
    /// let _boxed = heap.try_box(1_u64)?;
    /// assert_eq!(heap.validate(), Ok(()));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn validate(&self) -> Result<(), Corruption> {
        let pin = self.platform.pin();
        self.caches.with(&pin, |cache| cache.runs.validate(&self.runs, pin.cpu())).unwrap_or(Ok(()))?;
        for heap in self.existing_nodes() {
            for class in SizeClass::all() {
                let node = heap.node;
                let Some(shelf) = heap.class(class).shelf.lock(&self.platform, &pin, Patience::Bounded)
                else {
                    return Err(Corruption::Busy { node, class });
                };
                let outcome = shelf.validate(node, class);
                self.release(&pin, class, shelf.unlock());
                outcome?;
            }
        }
        Ok(())
    }
}
