//! CPUs coming and going, and the heap's end.

use core::ptr::{self, NonNull};

use super::Heap;
use super::cache::CpuArea;
use super::node::NodeHeap;
use crate::sync::atomic::Ordering;
use crate::{CpuId, CpuPin, MAX_CPUS, OutOfMemory, PageSource, Platform, Unavailable};

impl<P: Platform, S: PageSource> Heap<P, S> {
    /// Gives the pinned CPU its magazines, in memory of its node; from here on it uses them. A
    /// CPU that was offline gets its old ones again.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`]: the CPU goes on without magazines, which is slower, not wrong.
    pub fn cpu_online(&self, pin: &CpuPin) -> Result<(), OutOfMemory> {
        match self.caches.with(pin, |cache| cache.set_online()) {
            Ok(()) | Err(Unavailable::Busy) => return Ok(()),
            Err(Unavailable::NotInstalled) => {}
        }
        let node = self.source.node_of_cpu(pin.cpu());
        let run = self.source.allocate(pin, node, CpuArea::ORDER)?;
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

    /// Returns what is cached: the pinned CPU's magazines (unless the call is nested in another
    /// use on this CPU), all nodes' depots, and all slabs without an object in use. What other
    /// CPUs' magazines hold is theirs to return.
    pub fn drain(&self, pin: &CpuPin) {
        // A CPU that has no magazines, or is using them further out, has none to return.
        let _ = self.caches.with(pin, |cache| cache.flush(self, pin));
        for node in self.existing_nodes() {
            self.clear_depots(pin, node);
        }
        // Only now, since the depots' own magazines lived in slabs too.
        for node in self.existing_nodes() {
            self.clear_shelves(pin, node);
        }
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
    }
}
