//! Making the ranges of a service.

use core::ptr;

use crossbeam_utils::CachePadded;
use topomem_numa::frames::FrameRequest;
use topomem_percpu::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};
use topomem_percpu::{CpuPin, MAX_NODES, NodeId, Order};
use x86_64::structures::paging::PhysFrame;

use super::arena::Arena;
use super::flush::Retiring;
use super::freed::FreedList;
use super::node::{CHUNK, CHUNKS, Node, Nodes};
use super::{KernelRanges, RangesConfig, RangesError};
use crate::Machine;
use crate::page_table::{Level, Pages};
use crate::service::{MemoryService, frame_memory};
use crate::spin_lock::SpinLock;

/// How many pages wait to be unmapped, at most one in so many of the machine's frames, before the service task is told.
const LAZY_PART: u64 = 64;

/// Values placed in runs of frames, all of which go back if one finds no frames.
struct Places<'a, P: Machine> {
    service: &'static MemoryService<P>,
    pin: &'a CpuPin,
    taken: [Option<(PhysFrame, Order)>; 4],
}

impl<P: Machine> Places<'_, P> {
    /// Room for `count` values, at `place`.
    fn room<T>(&mut self, place: usize, count: usize) -> Result<ptr::NonNull<T>, RangesError> {
        let order = Order::for_bytes((count * size_of::<T>()) as u64).unwrap_or(Order::HUGE);
        let frame =
            self.service.alloc(self.pin, &FrameRequest::order(order)).map_err(RangesError::OutOfFrames)?;
        self.taken[place] = Some((frame, order));
        Ok(self.service.platform().phys_to_virt(frame.start_address()).cast())
    }

    /// A slice of `count` values that stays for good, if the places are kept.
    fn slice<T>(
        &mut self,
        place: usize,
        count: usize,
        mut value: impl FnMut() -> T,
    ) -> Result<&'static [T], RangesError> {
        let room = self.room::<T>(place, count)?;
        // SAFETY: the run is ours alone, aligned to a page and long enough.
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
            // SAFETY: allocated by `room`; what was placed there is known to nobody.
            unsafe { frame_memory::release_own(self.service.frames(), self.pin, frame, order) };
        }
    }
}

impl<P: Machine> MemoryService<P> {
    /// Gives the service ranges of kernel addresses, and the heap a way to make large objects of frames from anywhere.
    /// Once, after boot.
    ///
    /// Costs some 20 KiB and a cache line for each CPU.
    ///
    /// # Errors
    ///
    /// [`RangesError`]; nothing has changed.
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
        // SAFETY: the run is ours alone, and has room for so many.
        (0..CHUNK).for_each(|index| unsafe { first_nodes.add(index).write(Node::new()) });
        let nodes = Nodes::new(chunks);
        let mut arena = Arena::new();
        // SAFETY: the nodes stay for good, if the ranges do; these are the first.
        let numbers = unsafe { nodes.add_chunk(0, first_nodes) };
        arena.add_nodes(&nodes, numbers);
        // The last page stays a guard.
        let added = arena.add_addresses(&nodes, bounds.first, bounds.count() - 1);
        debug_assert!(added, "there are spare nodes");
        let place = places.room::<KernelRanges<P>>(3, 1)?;
        let lazy_pages = (self.managed_frames() / LAZY_PART).max(1);
        // SAFETY: the run is ours alone and large enough, and stays for good if it is kept.
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

    /// The service's ranges of kernel addresses, if it was given some.
    pub fn kernel_ranges(&self) -> Option<&'static KernelRanges<P>> {
        // SAFETY: `publish_ranges` stores the address of a `&'static KernelRanges`, with Release.
        unsafe { self.ranges.load(Ordering::Acquire).as_ref() }
    }

    fn managed_frames(&self) -> u64 {
        let nodes = (0..MAX_NODES).filter_map(NodeId::new);
        nodes.filter_map(|node| self.frames().stats(node)).map(|stats| stats.managed()).sum()
    }

    fn publish_ranges(&self, ranges: &'static KernelRanges<P>) -> Result<(), ()> {
        let new = ptr::from_ref(ranges).cast_mut();
        // Release pairs with the Acquire in `kernel_ranges`.
        let placed = self.ranges.compare_exchange(ptr::null_mut(), new, Ordering::Release, Ordering::Relaxed);
        placed.map(|_| ()).map_err(|_| ())
    }
}
