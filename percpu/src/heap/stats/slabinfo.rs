//! The heap's memory by class and node, as numbers and as a table.
//!
//! Everything is summed on demand, from counters that the heap keeps anyway.

use core::fmt;

use crate::heap::cpu::area::CpuArea;
use crate::heap::node::NodeHeap;
use crate::heap::{ClassStats, Heap};
use crate::slab::{SizeClass, SlabShape};
use crate::try_lock::Patience;
use crate::{NodeId, PageSource, Platform};

/// One size class on one node. Read counter by counter during concurrent uses, so exact only
/// without concurrent uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NodeClassStats {
    /// Slabs that hold pages.
    pub slabs: u64,
    /// Free objects in slabs.
    pub free: u64,
    /// Free objects in the magazines that the node's CPUs share.
    pub shared: u64,
    /// All further objects of the slabs: live objects, and free objects in CPUs' own magazines.
    pub out: u64,
}

/// The bytes of a whole heap. Read counter by counter during concurrent uses, so exact only without
/// concurrent uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HeapStats {
    /// Bytes of live objects, each as large as its class or its run of pages.
    pub live_bytes: u64,
    /// Bytes of slabs.
    pub slab_bytes: u64,
    /// Bytes of runs of large objects, including runs cached by CPUs.
    pub large_bytes: u64,
    /// Bytes of the heap's own structures: magazines, lists and the record of runs. As for large objects, these are the
    /// lengths that were asked for: a source that gives only powers of two gives more.
    pub metadata_bytes: u64,
}

impl HeapStats {
    /// Returns the bytes taken from the page source.
    ///
    /// ```
    /// # mod host { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/host/mod.rs")); }
    /// # use host::Host;
    /// # use topomem_percpu::{Heap, Platform};
    /// # static HEAP: Heap<Host, Host> = Heap::new(Host, Host);
    /// # let pin = Host.pin();
    /// # HEAP.cpu_online(&pin)?;
    /// assert!(HEAP.stats().held_bytes() > 0); // the CPU's cell
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub const fn held_bytes(&self) -> u64 {
        self.slab_bytes + self.large_bytes + self.metadata_bytes
    }

    /// Returns the fragmentation: the held bytes outside live objects, in thousandths of the held
    /// bytes; 0 if the heap holds nothing. Bytes of an object beyond its layout count as live.
    ///
    /// # Examples
    ///
    /// ```
    /// # use topomem_percpu::HeapStats;
    /// let stats = HeapStats { live_bytes: 3000, slab_bytes: 4000, ..HeapStats::default() };
    /// assert_eq!(stats.held_bytes(), 4000);
    /// assert_eq!(stats.fragmentation_per_mille(), 250);
    /// ```
    #[must_use]
    pub fn fragmentation_per_mille(&self) -> u64 {
        let held = self.held_bytes();
        (held.saturating_sub(self.live_bytes) * 1000).checked_div(held).unwrap_or(0)
    }
}

impl<P: Platform, S: PageSource> Heap<P, S> {
    /// Returns one node's counts of one class, or `None` if the heap has not used the node, or its
    /// lock of the class stays taken. Takes that lock for a moment.
    ///
    /// # Examples
    ///
    /// ```
    /// # use topomem_percpu::{Heap, NodeId, SizeClass};
    /// # mod host { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/host/mod.rs")); }
    /// # use host::Host;
    /// # use std::alloc::Layout;
    /// let heap = Heap::new(Host, Host);
    /// let class = SizeClass::of(Layout::new::<u64>()).unwrap();
    /// assert_eq!(heap.node_class_stats(NodeId::ZERO, class), None);
    /// let _boxed = heap.try_box(1_u64)?;
    /// assert_eq!(heap.node_class_stats(NodeId::ZERO, class).unwrap().slabs, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn node_class_stats(&self, node: NodeId, class: SizeClass) -> Option<NodeClassStats> {
        let pin = self.platform.pin();
        let of_node = self.existing(node)?.class(class);
        let shelf = of_node.shelf.lock(&self.platform, &pin, Patience::Bounded)?;
        let counts = shelf.counts();
        self.release(&pin, class, shelf.unlock());
        let (slabs, free) = (counts.slabs as u64, counts.free as u64);
        let objects = slabs * SlabShape::ALL[class.index()].capacity as u64;
        let shared = (of_node.depot.magazines() * class.rounds()) as u64;
        Some(NodeClassStats { slabs, free, shared, out: objects.saturating_sub(free + shared) })
    }

    /// Returns the bytes of the heap. Cost: as for [`Heap::class_stats`] of every class.
    ///
    /// # Examples
    ///
    /// ```
    /// # use topomem_percpu::Heap;
    /// # mod host { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/host/mod.rs")); }
    /// # use host::Host;
    /// let heap = Heap::new(Host, Host);
    /// assert_eq!(heap.stats().slab_bytes, 0);
    /// let _boxed = heap.try_box(1_u64)?;
    /// assert_eq!(heap.stats().live_bytes, 8);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn stats(&self) -> HeapStats {
        let large = self.large_stats();
        let areas = self.areas().count() as u64;
        let nodes = self.existing_nodes().count() as u64;
        let mut stats = HeapStats {
            live_bytes: large.bytes,
            slab_bytes: 0,
            large_bytes: large.bytes + large.cached_bytes,
            metadata_bytes: areas * CpuArea::ORDER.bytes()
                + self.page_bytes()
                + nodes * NodeHeap::LENGTH.bytes()
                + self.record_bytes(),
        };
        for class in SizeClass::all().map(|class| self.class_stats(class)) {
            stats.live_bytes += class.live * class.object_size as u64;
            stats.slab_bytes += class.slab_bytes;
        }
        stats
    }

    /// Returns a table of the heap's classes, for display: a line for each class with slabs, a line
    /// below it for each node with slabs, and the bytes in all. Its columns are like those of
    /// Linux's `/proc/slabinfo`. The counts are read during the display, without any allocation.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::alloc::Layout;
    /// # use topomem_percpu::Heap;
    /// # mod host { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/host/mod.rs")); }
    /// # use host::Host;
    /// let heap = Heap::new(Host, Host);
    /// let boxed = heap.try_box([0_u64; 8])?;
    /// let table = heap.slabinfo().to_string();
    /// assert!(table.contains("size-64") && !table.contains("size-128"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub const fn slabinfo(&self) -> Slabinfo<'_, P, S> {
        Slabinfo { heap: self }
    }
}

/// A table of a heap's classes: see [`Heap::slabinfo`].
pub struct Slabinfo<'h, P: Platform, S: PageSource> {
    heap: &'h Heap<P, S>,
}

impl<P: Platform, S: PageSource> Slabinfo<'_, P, S> {
    fn write_class(&self, f: &mut fmt::Formatter<'_>, class: SizeClass, stats: &ClassStats) -> fmt::Result {
        let shape = SlabShape::ALL[class.index()];
        writeln!(
            f,
            "size-{:<12} {:>10} {:>10} {:>9} {:>9} {:>13} {:>10} {:>10} {:>9} {:>8}.{}%",
            stats.object_size,
            stats.live,
            stats.live + stats.cached + stats.free,
            stats.object_size,
            shape.capacity,
            shape.order.frames(),
            stats.cached,
            stats.free,
            stats.slabs,
            stats.fragmentation_per_mille() / 10,
            stats.fragmentation_per_mille() % 10,
        )?;
        for node in self.heap.existing_nodes().map(|of_node| of_node.node) {
            if let Some(of_node) = self.heap.node_class_stats(node, class)
                && of_node.slabs > 0
            {
                let NodeClassStats { slabs, free, shared, out } = of_node;
                let objects = out + shared + free;
                writeln!(
                    f,
                    "  {node}: {slabs} slabs, {objects} objects: {out} out, {shared} shared, {free} free"
                )?;
            }
        }
        Ok(())
    }
}

impl<P: Platform, S: PageSource> fmt::Display for Slabinfo<'_, P, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<17} {:>10} {:>10} {:>9} {:>9} {:>13} {:>10} {:>10} {:>9} {:>11}",
            "# name",
            "live",
            "objects",
            "objsize",
            "objperslab",
            "pagesperslab",
            "cached",
            "free",
            "slabs",
            "unused"
        )?;
        for class in SizeClass::all() {
            let stats = self.heap.class_stats(class);
            if stats.slabs > 0 {
                self.write_class(f, class, &stats)?;
            }
        }
        let (stats, large) = (self.heap.stats(), self.heap.large_stats());
        writeln!(f, "large: {} live in {} bytes, {} cached", large.live, large.bytes, large.cached)?;
        let unused = stats.fragmentation_per_mille();
        let (held, live, own) = (stats.held_bytes(), stats.live_bytes, stats.metadata_bytes);
        writeln!(
            f,
            "held: {held} bytes, {own} of them the heap's own; live: {live}; unused: {}.{}%",
            unused / 10,
            unused % 10
        )
    }
}

impl<P: Platform, S: PageSource> fmt::Debug for Slabinfo<'_, P, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slabinfo").finish_non_exhaustive()
    }
}
