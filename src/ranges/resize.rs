//! Growing and shrinking ranges.

use topomem_percpu::CpuPin;
use topomem_percpu::sync::atomic::Ordering;
use topomem_shootdown::VirtAddr;

use super::node::{Node, NodeNumber, State};
use super::{KernelRanges, RangeError, RangeRequest};
use crate::Machine;
use crate::page_table::{Level, MovedRegions, Pages};

impl<P: Machine> KernelRanges<P> {
    /// Changes the length of the range starting at `address`, and returns its start.
    ///
    /// - The range grows in place if the addresses behind it are vacant. Otherwise its pages are
    ///   moved to other addresses: the same frames, without copying bytes, and whole tables if
    ///   possible. The old addresses are free after every CPU has dropped them, like those of a
    ///   freed range.
    /// - The range always shrinks in place. The part behind the new end is unmapped like a freed
    ///   range, as far as pages of 2 MiB permit.
    ///
    /// New pages are as described by `request`, whose protection must be the range's.
    ///
    /// # Errors
    ///
    /// The range is unchanged on an error, at the same place:
    ///
    /// - [`RangeError::NotARange`] if no range starts at `address`.
    /// - [`RangeError::NotMovable`] if the pages cannot be moved. The caller may copy the contents
    ///   to a new range.
    /// - All others as for [`KernelRanges::allocate`].
    ///
    /// # Safety
    ///
    /// The caller owns the range, made by [`KernelRanges::allocate`]. The part behind the new
    /// length is not used any more. If another start is returned, nothing uses the old addresses
    /// any more.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// # use topomem::{PageRange, PageSize, VirtAddr, sim::Sim};
    /// # use topomem::ranges::{RangeRequest, RangesConfig};
    /// # let addresses = VirtAddr::new(Sim::WINDOW.as_u64() + (256 << 30))?;
    /// # let addresses = PageRange::new(addresses, 64, PageSize::Size1GiB)?;
    /// # let ranges = service.add_kernel_ranges(pin, &RangesConfig::of(addresses))?;
    /// let start = ranges.allocate(pin, &RangeRequest::pages(4))?.into_start();
    /// // SAFETY: the range is not used yet.
    /// let start = unsafe { ranges.resize_at(pin, start, &RangeRequest::pages(8))? };
    /// assert_eq!(ranges.pages_at(pin, start), Some(8));
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub unsafe fn resize_at(
        &'static self,
        pin: &CpuPin,
        address: VirtAddr,
        request: &RangeRequest,
    ) -> Result<VirtAddr, RangeError> {
        let not_one = RangeError::NotARange { address };
        let (number, node) = self.find(pin, address).ok_or(not_one)?;
        let moved = self.resize_node(pin, number, node, request, not_one)?;
        let node = self.nodes.find(moved).ok_or(not_one)?;
        Ok(VirtAddr::new_truncate(node.start() << 12))
    }

    /// Changes the length of the range of `node`, and returns the range's node afterwards. Returns
    /// the error `not_one` if `node` has no range.
    pub(super) fn resize_node(
        &'static self,
        pin: &CpuPin,
        number: NodeNumber,
        node: &Node,
        request: &RangeRequest,
        not_one: RangeError,
    ) -> Result<NodeNumber, RangeError> {
        let (old, new) = (node.pages(), request.pages);
        if new == 0 || new >= self.bounds.count() - 1 {
            return Err(RangeError::Length { pages: new });
        }
        if !node.change_state(State::Live, State::Held) {
            return Err(not_one);
        }
        let resized = if new <= node.mapped() {
            self.shorten(pin, number, node, new);
            Ok(number)
        } else if self.has_room(pin, number, node, new) {
            self.lengthen(pin, node, request).map(|()| number)
        } else {
            self.relocate(pin, number, node, request)
        };
        if resized.is_ok() {
            // Relaxed: a count, read for statistics.
            self.live_pages.fetch_add(new.wrapping_sub(old), Ordering::Relaxed);
        }
        if resized.is_err() || resized == Ok(number) {
            node.set_state(State::Live);
        }
        resized
    }

    /// Gives up the part behind the first `new` pages, in whole pages of 2 MiB if any may exist.
    /// Without a node for the rest, the rest stays mapped.
    fn shorten(&self, pin: &CpuPin, number: NodeNumber, node: &Node, new: u64) {
        node.set_pages(new);
        let (start, mapped, huge) = (node.start(), node.mapped(), Level::HUGE.pages());
        let kept = if mapped < huge { new } else { (start + new).next_multiple_of(huge) - start };
        if kept >= mapped {
            return;
        }
        let rest = self.enter(pin).and_then(|inside| {
            let mut arena = self.arena(&inside).ok()?;
            arena.split(&self.nodes, number, 1 + kept)
        });
        if let Some(rest) = rest
            && let Some(other) = self.nodes.find(rest)
        {
            node.set_mapped(kept);
            other.set_mapped(mapped - kept);
            self.free_node(rest, other, State::Held);
        }
    }

    /// Returns whether `new` pages of addresses are available in place, and takes vacant addresses
    /// behind if needed.
    fn has_room(&self, pin: &CpuPin, number: NodeNumber, node: &Node, new: u64) -> bool {
        let count = node.count();
        if new < count {
            return true;
        }
        let Some(inside) = self.enter(pin) else { return false };
        let Ok(mut arena) = self.arena(&inside) else { return false };
        let (wanted, ..) = Self::shape(new);
        [wanted, 1 + new].into_iter().any(|wanted| arena.extend(&self.nodes, number, wanted - count))
    }

    /// Maps further pages behind a range, at addresses of the range.
    fn lengthen(&self, pin: &CpuPin, node: &Node, request: &RangeRequest) -> Result<(), RangeError> {
        let start = node.start();
        let part = Pages { first: start + node.mapped(), last: start + request.pages - 1 };
        self.fill_fresh(pin, request, part)?;
        node.set_mapped(request.pages);
        node.set_pages(request.pages);
        Ok(())
    }

    /// Moves a held node's pages to other addresses with room for further pages, and returns the
    /// new node.
    fn relocate(
        &'static self,
        pin: &CpuPin,
        number: NodeNumber,
        node: &Node,
        request: &RangeRequest,
    ) -> Result<NodeNumber, RangeError> {
        let (moved, place) = self.reserve(pin, request.pages)?;
        let (old, mapped, huge) = (node.start(), node.mapped(), Level::HUGE.pages());
        let new = place.start();
        // Replacing a table by a large leaf would require a wait.
        let in_the_way = |pages: u64| mapped >= huge && self.has_table(pin, new + pages);
        if (0..mapped).step_by(huge as usize).any(in_the_way) || (mapped >= huge && (old ^ new) % huge != 0) {
            self.give_back(pin, moved, place);
            return Err(RangeError::NotMovable);
        }
        let part = Pages { first: new + mapped, last: new + request.pages - 1 };
        if let Err(error) = self.fill_fresh(pin, request, part) {
            self.give_back(pin, moved, place);
            return Err(error);
        }
        if let Err(error) = self.move_pages(pin, old, mapped, new) {
            // The further pages go like those of a freed range.
            place.set_mapped(part.count());
            self.free_node(moved, place, State::Held);
            return Err(error);
        }
        place.set_mapped(request.pages);
        place.set_pages(request.pages);
        self.name_first_frame(pin, moved, place);
        place.set_state(State::Live);
        node.set_mapped(0);
        self.free_node(number, node, State::Held);
        Ok(moved)
    }

    /// Moves the mappings of `count` pages from the page `old` on to the page `new`. Records the
    /// change without announcing it: the old addresses are not used before a flush has waited for
    /// their pending changes.
    fn move_pages(&self, pin: &CpuPin, old: u64, count: u64, new: u64) -> Result<(), RangeError> {
        let _inside = self.enter(pin).ok_or(RangeError::Busy)?;
        let from = Self::range(old, count).ok_or(RangeError::NotMovable)?;
        let to = VirtAddr::new_truncate(new << 12);
        let core = self.core;
        let retired = core
            .relocate(pin, from, to, MovedRegions::default(), |changed, _| {
                let _ = core.record(&changed);
                changed.retired
            })
            .map_err(|unmoved| match unmoved.refused(from) {
                crate::RemapError::OutOfFrames(error) => RangeError::OutOfFrames(error),
                _ => RangeError::NotMovable,
            })?;
        debug_assert!(retired.is_empty(), "no table was in the way");
        Ok(())
    }
}
