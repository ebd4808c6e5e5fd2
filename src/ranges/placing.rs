//! Making the ranges of a service.

use core::ptr;

use crossbeam_utils::CachePadded;
use topomem_numa::frames::FrameRequest;
use topomem_percpu::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};
use topomem_percpu::{CpuPin, NodeId, Order, PhysFrame};

use super::arena::Arena;
use super::flush::Retiring;
use super::freed::FreedList;
use super::node::{CHUNK, CHUNKS, Node, Nodes};
use super::{KernelRanges, RangesConfig, RangesError};
use crate::Machine;
use crate::page_table::{Level, Pages};
use crate::service::MemoryService;
use crate::service::memory::frame_memory;
use crate::spin_lock::SpinLock;

/// The part of the machine's frames waiting to be unmapped before the service task is told: one in
/// this number.
const LAZY_PART: u64 = 64;

/// Values placed in runs of frames. All runs are freed if any lacks frames.
struct Places<'a, P: Machine> {
    service: &'static MemoryService<P>,
    pin: &'a CpuPin,
    taken: [Option<(PhysFrame, Order)>; 4],
}

impl<P: Machine> Places<'_, P> {
    /// Allocates room for `count` values, at `place`.
    fn room<T>(&mut self, place: usize, count: usize) -> Result<ptr::NonNull<T>, RangesError> {
        let order = Order::for_bytes((count * size_of::<T>()) as u64).unwrap_or(Order::HUGE);
        let frame =
            self.service.alloc(self.pin, &FrameRequest::order(order)).map_err(RangesError::OutOfFrames)?;
        self.taken[place] = Some((frame, order));
        Ok(self.service.platform().phys_to_virt(frame.start_address()).cast())
    }

    /// Makes a slice of `count` values, which stays for good if the places are kept.
    fn slice<T>(
        &mut self,
        place: usize,
        count: usize,
        mut value: impl FnMut() -> T,
    ) -> Result<&'static [T], RangesError> {
        let room = self.room::<T>(place, count)?;
        // SAFETY: the caller owns the run, which is aligned to a page and long enough.
        unsafe {
            (0..count).for_each(|index| room.add(index).write(value()));
            Ok(core::slice::from_raw_parts(room.as_ptr(), count))
        }
    }

    fn keep(mut self) {
        self.taken = [None; 4];
    }
}

impl<P: Machine> Drop for Places<'_, P> {
    fn drop(&mut self) {
        for (frame, order) in self.taken.into_iter().flatten() {
            // SAFETY: allocated by `room`; no context knows of the values placed there.
            unsafe { frame_memory::release_own(self.service.frames(), self.pin, frame, order) };
        }
    }
}

impl<P: Machine> MemoryService<P> {
    /// Gives the service ranges of kernel addresses, and the heap the means to make large objects
    /// of frames from anywhere. Called once, after boot.
    ///
    /// Cost: some 20 KiB and a cache line for each CPU.
    ///
    /// # Errors
    ///
    /// Nothing has changed on an error:
    ///
    /// - [`RangesError::NoKernelSpace`] if boot is not complete.
    /// - [`RangesError::AlreadyThere`] if the service has ranges.
    /// - [`RangesError::Addresses`] if the addresses are outside the kernel's window, not whole
    ///   pages of 2 MiB, or fewer than two of them.
    /// - [`RangesError::OutOfFrames`] if no frame is left.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// use topomem::ranges::RangesConfig;
    /// use topomem::sim::Sim;
    /// use topomem::{PageRange, PageSize, VirtAddr};
    ///
    /// // Addresses of the kernel's window without another use.
    /// let start = VirtAddr::new(Sim::WINDOW.as_u64() + (256 << 30))?;
    /// let addresses = PageRange::new(start, 64, PageSize::Size1GiB)?;
    /// service.add_kernel_ranges(pin, &RangesConfig::of(addresses))?;
    /// assert!(service.kernel_ranges().is_some());
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub fn add_kernel_ranges(
        &'static self,
        pin: &CpuPin,
        config: &RangesConfig,
    ) -> Result<&'static KernelRanges<P>, RangesError> {
        let core = self.kernel_core().ok_or(RangesError::NoKernelSpace)?;
        let step = Level::HUGE.pages();
        let addresses = RangesError::Addresses(config.addresses);
        let bounds = core.check(config.addresses).ok_or(addresses)?;
        if !bounds.first.is_multiple_of(step)
            || !(bounds.last + 1).is_multiple_of(step)
            || bounds.count() < 2 * step
        {
            return Err(addresses);
        }
        let cpus = self.topology().map_or(1, |topology| topology.cpus().len().max(1));
        let mut places = Places { service: self, pin, taken: [None; 4] };
        let busy = places.slice(0, cpus, || CachePadded::new(AtomicBool::new(false)))?;
        let chunks = places.slice(1, CHUNKS, || AtomicPtr::new(ptr::null_mut()))?;
        let first_nodes = places.room::<Node>(2, CHUNK)?;
        // SAFETY: the caller owns the run, which has room for the nodes.
        (0..CHUNK).for_each(|index| unsafe { first_nodes.add(index).write(Node::new()) });
        let nodes = Nodes::new(chunks);
        let mut arena = Arena::new();
        // SAFETY: the nodes stay for good, if the ranges do; they are the first.
        let numbers = unsafe { nodes.add_chunk(0, first_nodes) };
        arena.add_nodes(&nodes, numbers);
        // The last page stays a guard.
        let added = arena.add_addresses(&nodes, bounds.first, bounds.count() - 1);
        debug_assert!(added, "there are spare nodes");
        let place = places.room::<KernelRanges<P>>(3, 1)?;
        let lazy_pages = (self.managed_frames() / LAZY_PART).max(1);
        // SAFETY: the caller owns the run, which is large enough, and stays for good if kept.
        let ranges: &'static KernelRanges<P> = unsafe {
            place.write(KernelRanges {
                service: self,
                core,
                bounds,
                heap_from: config.heap_from.div_ceil(Order::FRAME.bytes()),
                lazy_pages,
                nodes,
                arena: SpinLock::new(arena),
                freed: FreedList::new(),
                retiring: SpinLock::new(Retiring::new()),
                busy,
                live: AtomicU64::new(0),
                live_pages: AtomicU64::new(0),
            });
            place.as_ref()
        };
        self.publish_ranges(ranges).map_err(|()| RangesError::AlreadyThere)?;
        core.spare_tables(Pages { first: bounds.first, last: bounds.last });
        places.keep();
        Ok(ranges)
    }

    /// Returns the service's ranges of kernel addresses, if [`MemoryService::add_kernel_ranges`]
    /// has made them.
    pub fn kernel_ranges(&self) -> Option<&'static KernelRanges<P>> {
        // SAFETY: `publish_ranges` stores the address of a `&'static KernelRanges`, with a Release
        // pairing with this Acquire.
        unsafe { self.ranges.load(Ordering::Acquire).as_ref() }
    }

    fn managed_frames(&self) -> u64 {
        let nodes = (0..self.frames().node_count()).filter_map(NodeId::new);
        nodes.filter_map(|node| self.frames().stats(node)).map(|stats| stats.managed()).sum()
    }

    fn publish_ranges(&self, ranges: &'static KernelRanges<P>) -> Result<(), ()> {
        let new = ptr::from_ref(ranges).cast_mut();
        // Release pairs with the Acquire in `kernel_ranges`.
        let placed = self.ranges.compare_exchange(ptr::null_mut(), new, Ordering::Release, Ordering::Relaxed);
        placed.map(|_| ()).map_err(|_| ())
    }
}
