//! Allocating ranges.

use topomem_numa::frames::AllocError;
use topomem_percpu::sync::atomic::Ordering;
use topomem_percpu::{CpuPin, Order, PhysFrame};
use topomem_shootdown::VirtAddr;

use super::arena::Unreserved;
use super::backing::{FreshFrames, GivenFrames};
use super::node::{CHUNK, Node, NodeNumber, State};
use super::{KernelRange, KernelRanges, RangeError, RangeRequest};
use crate::Machine;
use crate::address_space::AddressSpace;
use crate::budget::Budget;
use crate::page_table::{Attributes, Backing, Chain, Level, Ownership, Pages, Protection, Runs};
use crate::service::memory::frame_memory;

/// Number of looks at awaited CPUs by an allocation, and of turns of a spin loop between two looks.
/// The CPUs may be waiting for the context interrupted by this one; the allocation therefore gives
/// up.
const LOOKS: u32 = 64;
const TURNS: u32 = 64;

/// Greatest number of pages unmapped for an allocation without addresses.
const AT_ONCE: u64 = 1 << 15;

/// The order of a chunk of nodes.
const CHUNK_ORDER: Order = match Order::for_bytes((CHUNK * size_of::<Node>()) as u64) {
    Some(order) => order,
    None => Order::HUGE,
};

impl<P: Machine> KernelRanges<P> {
    /// Allocates a range of fresh frames, as described by `request`. Uses pages of 2 MiB if such
    /// runs are free and no other range shares the 2 MiB. Frames of other nodes serve if the wanted
    /// node has none.
    ///
    /// Never waits. An allocation without frames or addresses flushes freed ranges, and looks a
    /// bounded number of times for answers of remote CPUs.
    ///
    /// Cost: the lock of the addresses for a constant number of steps, an allocation for each frame
    /// or run, and a claim of each 2 MiB.
    ///
    /// # Errors
    ///
    /// Nothing has changed on an error:
    ///
    /// - [`RangeError::Length`] if the request has no pages, or more than the addresses.
    /// - [`RangeError::OutOfAddresses`] or [`RangeError::TooManyRanges`] if no addresses are left.
    /// - [`RangeError::OutOfFrames`] if no frame is left.
    /// - [`RangeError::Busy`] if the lock was taken all the time, or the caller has interrupted a
    ///   use of ranges.
    /// - [`RangeError::Map`] if the protection is not the kernel's.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// # use topomem::{PageRange, PageSize, VirtAddr, sim::Sim};
    /// use topomem::ranges::{RangeRequest, RangesConfig};
    ///
    /// # let addresses = VirtAddr::new(Sim::WINDOW.as_u64() + (256 << 30))?;
    /// # let addresses = PageRange::new(addresses, 64, PageSize::Size1GiB)?;
    /// let ranges = service.add_kernel_ranges(pin, &RangesConfig::of(addresses))?;
    /// let buffer = ranges.allocate(pin, &RangeRequest::bytes(100_000).zeroed())?;
    /// assert_eq!(buffer.pages(), 25);
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub fn allocate(
        &'static self,
        pin: &CpuPin,
        request: &RangeRequest,
    ) -> Result<KernelRange<P>, RangeError> {
        let (number, node) = self.reserve(pin, request.pages)?;
        let filled = self.fill_fresh(
            pin,
            request,
            Pages { first: node.start(), last: node.start() + request.pages - 1 },
        );
        self.finish(pin, number, node, request.pages, filled)
    }

    /// Maps a range to the frames listed by the caller, one for each page. The frames stay the
    /// caller's, as with Linux's vmap.
    ///
    /// # Errors
    ///
    /// As for [`KernelRanges::allocate`].
    ///
    /// # Safety
    ///
    /// The frames may be accessed as permitted by `protection` until the range was freed and
    /// flushed ([`KernelRanges::flush`]). If Rust code uses the frames, its aliasing rules hold.
    pub unsafe fn map_frames(
        &'static self,
        pin: &CpuPin,
        frames: &[PhysFrame],
        protection: Protection,
    ) -> Result<KernelRange<P>, RangeError> {
        let pages = frames.len() as u64;
        let (number, node) = self.reserve(pin, pages)?;
        let attributes = self.attributes(protection, Ownership::Borrowed);
        let part = Pages { first: node.start(), last: node.start() + pages - 1 };
        let filled = self
            .fill(pin, part, protection, &mut || Ok(GivenFrames { first: part.first, frames, attributes }));
        self.finish(pin, number, node, pages, filled)
    }

    /// Makes a range of a held node whose first `pages` pages were mapped, or gives the node back
    /// if they were not.
    fn finish(
        &'static self,
        pin: &CpuPin,
        number: NodeNumber,
        node: &Node,
        pages: u64,
        filled: Result<(), RangeError>,
    ) -> Result<KernelRange<P>, RangeError> {
        if let Err(error) = filled {
            self.give_back(pin, number, node);
            return Err(error);
        }
        node.set_mapped(pages);
        node.set_pages(pages);
        Ok(self.publish(pin, number, node))
    }

    /// Returns the handle of a held node's range, known to users from here on.
    fn publish(&'static self, pin: &CpuPin, number: NodeNumber, node: &Node) -> KernelRange<P> {
        let owned =
            self.core.table.walk(self.service.frames(), &self.service.walks().enter(pin), node.start());
        if owned.is_some_and(|(leaf, _)| leaf.ownership == Ownership::Owned) {
            self.name_first_frame(pin, number, node);
        }
        // Relaxed: counts, read for statistics.
        self.live.fetch_add(1, Ordering::Relaxed);
        self.live_pages.fetch_add(node.pages(), Ordering::Relaxed);
        node.set_state(State::Live);
        KernelRange::new(self, number, VirtAddr::new_truncate(node.start() << 12))
    }

    /// Returns the addresses of a held node to the arena. Nothing was ever mapped at them.
    pub(super) fn give_back(&self, pin: &CpuPin, number: NodeNumber, node: &Node) {
        if let Some(inside) = self.enter(pin)
            && let Ok(mut arena) = self.arena(&inside)
        {
            arena.release(&self.nodes, number);
            return;
        }
        // Another context holds the lock for long: the next flush returns the addresses.
        node.set_mapped(0);
        self.free_node(number, node, State::Held);
    }

    /// Reserves addresses for `pages` pages and their guards.
    pub(super) fn reserve(&self, pin: &CpuPin, pages: u64) -> Result<(NodeNumber, &Node), RangeError> {
        if pages == 0 || pages >= self.bounds.count() - 1 {
            return Err(RangeError::Length { pages });
        }
        let (count, align, end) = Self::shape(pages);
        let try_once = || {
            loop {
                let (outcome, chunks) = {
                    let inside = self.enter(pin).ok_or(RangeError::Busy)?;
                    let mut arena = self.arena(&inside)?;
                    (arena.reserve(&self.nodes, count, align, end), arena.chunks())
                };
                match outcome {
                    Ok(number) => return Ok(number),
                    Err(Unreserved::NoAddresses) => return Err(RangeError::OutOfAddresses { pages }),
                    Err(Unreserved::NoNodes) => self.add_nodes(pin, chunks)?,
                }
            }
        };
        let is_out = |reserved: &Result<_, _>| matches!(reserved, Err(RangeError::OutOfAddresses { .. }));
        let mut reserved = try_once();
        for look in 0..LOOKS {
            if !is_out(&reserved) {
                break;
            }
            let flushed = self.flush_within(pin, &mut Budget::of(AT_ONCE));
            // Before it gives up: this flush may have been the one that freed the addresses.
            reserved = try_once();
            if !is_out(&reserved) || (look > 0 && !flushed.waiting && !flushed.more) {
                break;
            }
            (0..TURNS).for_each(|_| self.service.platform().relax());
        }
        let number = reserved?;
        let node = self.nodes.find(number).ok_or(RangeError::OutOfAddresses { pages })?;
        Ok((number, node))
    }

    /// Makes the chunk of nodes numbered `chunk`, unless another context has made the chunk
    /// meanwhile.
    fn add_nodes(&self, pin: &CpuPin, chunk: usize) -> Result<(), RangeError> {
        if chunk >= self.nodes.capacity() {
            return Err(RangeError::TooManyRanges);
        }
        let request = topomem_numa::frames::FrameRequest::order(CHUNK_ORDER);
        let frame = self.service.alloc_from_reserve(pin, &request).map_err(RangeError::OutOfFrames)?;
        let place = self.service.platform().phys_to_virt(frame.start_address()).cast::<Node>();
        // SAFETY: the caller owns the run, which has room for the nodes.
        (0..CHUNK).for_each(|index| unsafe { place.add(index).write(Node::new()) });
        let added = self.enter(pin).ok_or(RangeError::Busy).and_then(|inside| {
            let mut arena = self.arena(&inside)?;
            if arena.chunks() == chunk {
                // SAFETY: the nodes stay for good; only the holder of the arena's lock adds chunks.
                let numbers = unsafe { self.nodes.add_chunk(chunk, place) };
                arena.add_nodes(&self.nodes, numbers);
                return Ok(true);
            }
            Ok(false)
        });
        if added != Ok(true) {
            // SAFETY: no context has seen the run.
            unsafe { frame_memory::release_own(self.service.frames(), pin, frame, CHUNK_ORDER) };
        }
        added.map(|_| ())
    }

    pub(super) fn attributes(&self, protection: Protection, ownership: Ownership) -> Attributes {
        Attributes { protection, reach: self.core.reach(), ownership }
    }

    /// Maps `part`, whose addresses belong to the caller, to fresh frames; or changes nothing.
    pub(super) fn fill_fresh(
        &self,
        pin: &CpuPin,
        request: &RangeRequest,
        part: Pages,
    ) -> Result<(), RangeError> {
        self.fill(pin, part, request.protection, &mut || {
            self.fresh_frames(pin, request, part).map_err(RangeError::OutOfFrames)
        })
    }

    /// Maps `part` to the frames made by `frames`; or changes nothing. Without a frame for a table,
    /// tries once more after a flush of freed ranges.
    fn fill<B: Backing<P::Format>>(
        &self,
        pin: &CpuPin,
        part: Pages,
        protection: Protection,
        frames: &mut dyn FnMut() -> Result<B, RangeError>,
    ) -> Result<(), RangeError> {
        let space = AddressSpace::of(self.core);
        if !self.core.kind.permits(protection) {
            return Err(RangeError::Map(crate::MapError::WrongPrivilege));
        }
        let mut again = true;
        loop {
            let mut backing = frames()?;
            let filled = {
                let _inside = self.enter(pin).ok_or(RangeError::Busy)?;
                space.fill(pin, part, &mut backing).map_err(RangeError::from)
            };
            if !matches!(filled, Err(RangeError::OutOfFrames(_))) || !again {
                return filled;
            }
            again = false;
            drop(backing);
            self.flush_for_frames(pin);
        }
    }

    /// Flushes freed ranges until any frame is free again, as far as CPUs answer in time.
    fn flush_for_frames(&self, pin: &CpuPin) {
        for _ in 0..LOOKS {
            // One call unmaps, and a later one frees.
            let flushed = self.flush_within(pin, &mut Budget::of(AT_ONCE));
            if flushed.freed > 0 || (!flushed.waiting && !flushed.more) {
                return;
            }
            (0..TURNS).for_each(|_| self.service.platform().relax());
        }
    }

    /// Allocates frames for all pages of `part`: runs of 2 MiB for as many as possible of the 2 MiB
    /// without a table, from the first on.
    fn fresh_frames<'a>(
        &'a self,
        pin: &'a CpuPin,
        request: &RangeRequest,
        part: Pages,
    ) -> Result<FreshFrames<'a, P>, AllocError> {
        let (service, frames, step) = (self.service, self.service.frames(), Level::HUGE.pages());
        let first_huge = part.first.next_multiple_of(step);
        let mut fresh = FreshFrames {
            frames,
            pin,
            huge: first_huge..first_huge,
            runs: Runs::EMPTY,
            singles: Chain::EMPTY,
            attributes: self.attributes(request.protection, Ownership::Owned),
        };
        while fresh.huge.end + step <= part.last + 1 && !self.has_table(pin, fresh.huge.end) {
            // Without pressure on other users: single frames serve as well.
            let Ok(run) = frames.alloc(pin, &request.frames(Order::HUGE)) else { break };
            frame_memory::take_over(frames, run);
            fresh.runs.push(frames, run);
            fresh.huge.end += step;
        }
        for _ in 0..part.count() - fresh.runs.len() * step {
            let frame = service.alloc(pin, &request.frames(Order::FRAME))?;
            frame_memory::take_over(frames, frame);
            fresh.singles.push(frames, frame);
        }
        Ok(fresh)
    }

    /// Returns whether a table serves the 2 MiB from `page` on. The caller owns the addresses, so
    /// the answer stays true.
    pub(super) fn has_table(&self, pin: &CpuPin, page: u64) -> bool {
        let frames = self.service.frames();
        self.core.table.has_table(frames, &self.service.walks().enter(pin), page, Level::HUGE)
    }
}
