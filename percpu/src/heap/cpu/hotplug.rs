//! CPUs coming online and going offline, memory returned under memory pressure, and the heap's end.

use crate::heap::cpu::area::CpuArea;
use crate::heap::cpu::cache::CpuCache;
use crate::heap::node::NodeHeap;
use crate::heap::node::shared::FAR_ORDER;
use crate::heap::{AllocError, Heap};
use crate::try_lock::Patience;
use crate::{CpuPage, CpuPin, NodeId, Order, PageSource, Platform, Slot, Unavailable};

/// The addresses of 512 CPUs' magazines.
type Page = CpuPage<Slot<CpuCache>>;

/// The run that holds a [`Page`].
const PAGE_ORDER: Order = Order::FRAME;

const _: () = assert!(size_of::<Page>() as u64 <= PAGE_ORDER.bytes());

impl<P: Platform, S: PageSource> Heap<P, S> {
    /// Gives the pinned CPU its magazines, in memory of the CPU's node. From here on the CPU uses the magazines. A
    /// CPU back online gets the old magazines again. Nested in another use of the heap on this
    /// CPU, the call changes nothing.
    ///
    /// # Errors
    ///
    /// Returns [`AllocError`] without memory for the magazines. The CPU continues without
    /// magazines, which is slower but correct.
    ///
    /// # Examples
    ///
    /// ```
    /// # use topomem_percpu::{Heap, Platform};
    /// # mod host { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/host/mod.rs")); }
    /// # use host::Host;
    /// let heap = Heap::new(Host, Host);
    /// heap.cpu_online(&Host.pin())?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn cpu_online(&self, pin: &CpuPin) -> Result<(), AllocError> {
        match self.caches.with(pin, |cache| cache.set_online()) {
            Ok(()) | Err(Unavailable::Busy) => return Ok(()),
            Err(Unavailable::NotInstalled) => {}
        }
        let node = self.source.node_of_cpu(pin.cpu());
        self.place_page(pin, node)?;
        let run = self.pages(pin, node, CpuArea::ORDER)?;
        // SAFETY: the run is of that order, ours, and goes back when the heap is dropped.
        unsafe { CpuArea::new_in(run, node) };
        // SAFETY: the area begins with the slot, and the address is that of all of the area.
        if !unsafe { self.caches.install_at(pin.cpu(), run.cast()) } {
            // An interrupt handler of the CPU was faster. SAFETY: the area was never published.
            unsafe { self.source.free(pin, run, CpuArea::ORDER) };
        }
        Ok(())
    }

    /// Makes room for the address of the pinned CPU's area: CPUs from the 65th on share pages.
    fn place_page(&self, pin: &CpuPin, node: NodeId) -> Result<(), AllocError> {
        if !self.caches.has_room(pin.cpu()) {
            let page = self.pages(pin, node, PAGE_ORDER)?;
            let place = page.cast::<Page>();
            // SAFETY: the run is ours, large and aligned enough.
            unsafe { place.write(Page::new()) };
            // SAFETY: the page goes back when the heap is dropped, as the run that it was: the address is the run's.
            if !unsafe { self.caches.extend_at(pin.cpu(), place) } {
                // Another CPU was faster. SAFETY: the page was never published.
                unsafe { self.source.free(pin, page, PAGE_ORDER) };
            }
        }
        Ok(())
    }

    /// Returns the bytes of the pages with addresses of areas and of far nodes' heaps.
    pub(in crate::heap) fn page_bytes(&self) -> u64 {
        self.caches.page_count() as u64 * PAGE_ORDER.bytes() + self.far_node_bytes()
    }

    /// Returns the contents of the pinned CPU's magazines to the heap. Until [`Heap::cpu_online`]
    /// the CPU uses the shared path.
    ///
    /// # Errors
    ///
    /// Returns [`Unavailable::NotInstalled`] if the CPU never was online, and [`Unavailable::Busy`]
    /// if the call is nested in another use of the heap on the CPU. Nothing was done.
    ///
    /// # Examples
    ///
    /// ```
    /// # use topomem_percpu::{Heap, Platform};
    /// # mod host { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/host/mod.rs")); }
    /// # use host::Host;
    /// let heap = Heap::new(Host, Host);
    /// let pin = Host.pin();
    /// heap.cpu_online(&pin)?;
    /// heap.cpu_offline(&pin).unwrap();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn cpu_offline(&self, pin: &CpuPin) -> Result<(), Unavailable> {
        self.caches.with(pin, |cache| {
            cache.flush(self, pin);
            cache.set_offline();
        })
    }

    /// Returns cached memory to the page source: the pinned CPU's magazines (unless the call is
    /// nested in another use on the CPU), all nodes' depots, objects freed from other nodes, and
    /// all slabs without a live object. The magazines of remote CPUs can be returned by the remote CPUs
    /// only, as asked by [`Heap::reclaim`]. Returns the number of frames freed.
    ///
    /// Allocates nothing, and may be called by the page source inside an allocation of the heap.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::alloc::Layout;
    /// # use topomem_percpu::{Heap, Platform};
    /// # mod host { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/host/mod.rs")); }
    /// # use host::Host;
    /// let heap = Heap::new(Host, Host);
    /// let layout = Layout::new::<[u64; 8]>();
    /// let memory = heap.try_alloc(layout)?;
    /// // SAFETY: allocated above with the layout, and not used any more.
    /// unsafe { heap.free(memory, layout)? };
    /// assert!(heap.drain(&Host.pin()) > 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn drain(&self, pin: &CpuPin) -> u64 {
        // A CPU without magazines, or with magazines in use by the interrupted context, has none to
        // return.
        let own = self.caches.with(pin, |cache| cache.flush(self, pin));
        let patience = match own {
            Err(Unavailable::Busy) => Patience::None,
            Ok(_) | Err(Unavailable::NotInstalled) => Patience::Bounded,
        };
        let depots: u64 = self.existing_nodes().map(|node| self.clear_depots(pin, node, patience)).sum();
        // After the depots, since the depots' own magazines lived in slabs too.
        let shelves: u64 = self.existing_nodes().map(|node| self.clear_shelves(pin, node, patience)).sum();
        #[cfg(feature = "encoded-free-lists")]
        self.report_broken_link();
        own.unwrap_or(0) + depots + shelves
    }

    /// Returns reclaimable memory to the page source: drains here and now like [`Heap::drain`], and
    /// makes each remote CPU drain at its next [`Heap::run_pending_work`]. Returns the number of frames freed.
    ///
    /// For a page source without free memory, also inside an allocation or a free of the heap.
    /// Allocates nothing, and waits for no interrupted context. Cost: a look at
    /// every class of every node.
    ///
    /// ```
    /// # mod host { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/host/mod.rs")); }
    /// # use host::Host;
    /// # use topomem_percpu::{Heap, Platform};
    /// # static HEAP: Heap<Host, Host> = Heap::new(Host, Host);
    /// # let pin = Host.pin();
    /// # HEAP.cpu_online(&pin)?;
    /// let pages = HEAP.reclaim(&pin); // when memory is short
    /// assert_eq!(pages, 0); // the heap holds nothing
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn reclaim(&self, pin: &CpuPin) -> u64 {
        for (_, area) in self.areas().filter(|&(cpu, _)| cpu != pin.cpu()) {
            area.request_drain();
        }
        self.drain(pin)
    }

    /// Does the heap's pending work on the pinned CPU once: drains if a remote CPU asked for a drain,
    /// and collects objects of the CPU's node freed by other nodes' CPUs. Returns the number of
    /// frames freed to the page source.
    ///
    /// For service tasks and idle loops. Cost: a few loads without work.
    ///
    /// # Examples
    ///
    /// ```
    /// # use topomem_percpu::{Heap, Platform};
    /// # mod host { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/host/mod.rs")); }
    /// # use host::Host;
    /// let heap = Heap::new(Host, Host);
    /// let pin = Host.pin();
    /// heap.cpu_online(&pin)?;
    /// assert_eq!(heap.run_pending_work(&pin), 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn run_pending_work(&self, pin: &CpuPin) -> u64 {
        let Some(area) = self.area(pin.cpu()) else { return 0 };
        let mut frames = 0;
        if area.drain_is_due() {
            let own = self.caches.with(pin, |cache| {
                area.drains();
                cache.flush(self, pin)
            });
            frames += own.unwrap_or(0);
            if let Some(node) = self.existing(area.node) {
                frames += self.clear_depots(pin, node, Patience::Bounded);
                frames += self.clear_shelves(pin, node, Patience::Bounded);
            }
        }
        #[cfg(feature = "encoded-free-lists")]
        self.report_broken_link();
        frames + self.existing(area.node).map_or(0, |node| self.collect_arrivals(pin, node))
    }
}

impl<P: Platform, S: PageSource> Drop for Heap<P, S> {
    fn drop(&mut self) {
        let pin = self.platform.pin();
        for (cpu, _) in self.areas() {
            // SAFETY: the heap has no other users, so the context may stand in for every CPU in
            // its cells; the source receives the true pin.
            let stand_in = unsafe { CpuPin::new(cpu) };
            let _ = self.caches.with(&stand_in, |cache| cache.flush(self, &pin));
        }
        self.drain(&pin);
        for (_, area) in self.caches.iter() {
            // SAFETY: the run is the area's; its cell is not used after this.
            unsafe { self.source.free(&pin, area.cast(), CpuArea::ORDER) };
        }
        for page in self.caches.take_pages() {
            // SAFETY: `place_page` took the page from the source, and nothing uses it after this.
            unsafe { self.source.free(&pin, page.cast(), PAGE_ORDER) };
        }
        for node in self.nodes.iter() {
            // SAFETY: the run is the node heap's, which is not used after this.
            unsafe { self.source.free_run(&pin, node.cast(), NodeHeap::LENGTH) };
        }
        if let Some(far) = self.nodes.take_far() {
            // SAFETY: as above.
            unsafe { self.source.free(&pin, far, FAR_ORDER) };
        }
        // SAFETY: the heap has no other users.
        unsafe { self.free_tables(&pin) };
    }
}
