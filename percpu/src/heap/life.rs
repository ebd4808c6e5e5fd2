//! CPUs coming and going, what memory pressure takes back, and the heap's end.

use core::ptr::{self, NonNull};

use super::cache::CpuArea;
use super::node::NodeHeap;
use super::{AllocError, Heap};
use crate::sync::atomic::Ordering;
use crate::try_lock::Patience;
use crate::{CpuId, CpuPin, MAX_CPUS, PageSource, Platform, Unavailable};

impl<P: Platform, S: PageSource> Heap<P, S> {
    /// Gives the pinned CPU its magazines, in memory of its node; from here on it uses them. A
    /// CPU that was offline gets its old ones again. Nested in another use of the heap on this CPU,
    /// the call changes nothing.
    ///
    /// # Errors
    ///
    /// [`AllocError`]: the CPU goes on without magazines, which is slower, not wrong.
    pub fn cpu_online(&self, pin: &CpuPin) -> Result<(), AllocError> {
        match self.caches.with(pin, |cache| cache.set_online()) {
            Ok(()) | Err(Unavailable::Busy) => return Ok(()),
            Err(Unavailable::NotInstalled) => {}
        }
        let node = self.source.node_of_cpu(pin.cpu());
        let run = self.pages(pin, node, CpuArea::ORDER)?;
        // SAFETY: the run is of that order, ours, and goes back when the heap is dropped.
        let area = unsafe { CpuArea::new_in(run, node) };
        if self.caches.install(pin.cpu(), &area.cache).is_err() {
            // An interrupt handler of this CPU was faster.
            // SAFETY: nobody has seen ours.
            unsafe { self.source.free(pin, run, CpuArea::ORDER) };
            return Ok(());
        }
        // Release pairs with the Acquire in `area`.
        self.areas[pin.cpu().index()].store(run.cast().as_ptr(), Ordering::Release);
        Ok(())
    }

    /// Returns all that the pinned CPU's magazines hold; until [`Heap::cpu_online`] it uses the
    /// shared path.
    ///
    /// # Errors
    ///
    /// [`Unavailable`], with nothing done: the CPU never was online, or the call is nested in
    /// another use of the heap on this CPU.
    pub fn cpu_offline(&self, pin: &CpuPin) -> Result<(), Unavailable> {
        self.caches.with(pin, |cache| {
            cache.flush(self, pin);
            cache.set_offline();
        })
    }

    /// Returns what is cached, and says how many frames that gave to the page source: the pinned
    /// CPU's magazines (unless the call is nested in another use on this CPU), all nodes' depots,
    /// what was freed from other nodes, and all slabs without an object in use. What other CPUs'
    /// magazines hold is theirs to return; [`Heap::reclaim`] asks them to.
    ///
    /// Allocates nothing, and may be called by the page source inside an allocation of this heap.
    pub fn drain(&self, pin: &CpuPin) -> u64 {
        // A CPU that has no magazines, or is using them further out, has none to return.
        let own = self.caches.with(pin, |cache| cache.flush(self, pin));
        let patience = match own {
            Err(Unavailable::Busy) => Patience::None,
            Ok(_) | Err(Unavailable::NotInstalled) => Patience::Bounded,
        };
        let depots: u64 = self.existing_nodes().map(|node| self.clear_depots(pin, node, patience)).sum();
        // Only now, since the depots' own magazines lived in slabs too.
        let shelves: u64 = self.existing_nodes().map(|node| self.clear_shelves(pin, node, patience)).sum();
        #[cfg(feature = "encoded-free-lists")]
        self.report_broken_link();
        own.unwrap_or(0) + depots + shelves
    }

    /// Returns what can be had because memory is short, and says how many frames that are:
    /// [`Heap::drain`] here and now, and each other CPU drains at its next [`Heap::tend`].
    ///
    /// For the page source when it runs dry, also inside an allocation or a free of this heap.
    /// Allocates nothing, and waits for no context that it may have interrupted. Costs a look at
    /// every class of every node.
    pub fn reclaim(&self, pin: &CpuPin) -> u64 {
        for cpu in (0..MAX_CPUS).filter_map(CpuId::new).filter(|&cpu| cpu != pin.cpu()) {
            if let Some(area) = self.area(cpu) {
                area.request_drain();
            }
        }
        self.drain(pin)
    }

    /// Does the heap's work on the pinned CPU once, and says how many frames that gave to the page
    /// source: drains if another CPU asked for it, and collects what other nodes' CPUs freed of
    /// this CPU's node.
    ///
    /// For service tasks and idle loops. Costs a few loads if there is nothing to do.
    pub fn tend(&self, pin: &CpuPin) -> u64 {
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
        for cpu in (0..MAX_CPUS).filter_map(CpuId::new) {
            // SAFETY: nobody else uses the heap any more, so this context may stand in for
            // every CPU in its cells; the source is given the true pin.
            let stand_in = unsafe { CpuPin::new(cpu) };
            let _ = self.caches.with(&stand_in, |cache| cache.flush(self, &pin));
        }
        self.drain(&pin);
        for area in &self.areas {
            if let Some(area) = NonNull::new(area.swap(ptr::null_mut(), Ordering::Acquire)) {
                // SAFETY: the run is the area's; its cell is not used after this.
                unsafe { self.source.free(&pin, area.cast(), CpuArea::ORDER) };
            }
        }
        for node in &self.nodes {
            if let Some(node) = NonNull::new(node.swap(ptr::null_mut(), Ordering::Acquire)) {
                // SAFETY: the run is the node heap's, which is not used after this.
                unsafe { self.source.free(&pin, node.cast(), NodeHeap::ORDER) };
            }
        }
        // SAFETY: nobody else uses the heap any more.
        unsafe { self.free_tables(&pin) };
    }
}
