//! The transfer of a batch of pages to other nodes.
//!
//! 1. *Prepare*: looks at each page and allocates a frame for it.
//! 2. *Hide*: removes all permissions from the leaf. A leaf without permissions, in a region with
//!    permissions, is on its way: a fault waits for the leaf for a while, and then restores it.
//! 3. The ticket of all these changes completes: no CPU uses the pages.
//! 4. *Settle*: with the claim of the entry, checks whether the page is still hidden and nothing is
//!    pending for it, copies, and maps the new frame. No CPU has a translation: nothing is stale,
//!    and the old frame is free at once.
//!
//! Step 4 depends only on the page's present state, not on its changes since step 2. It does not
//! matter whether another CPU has unmapped, protected, forked or hidden the page meanwhile.

use topomem_numa::frames::{FrameRequest, NodeSet, Policy};
use topomem_percpu::{CpuPin, NodeId, Order, PhysFrame};

use super::super::attributes::Region;
use super::moves::{MoveError, PageMove, Stage, Target};
use super::policy::{conforms, placed};
use crate::Machine;
use crate::address_space::{SpaceCore, Unmapping, invalidation_of, range_of_pages};
use crate::page_table::{Access, Changed, ExchangeError, Found, Leaf, Level, Ownership, Pages, TableMemory};
use crate::region::calls::protect::protection_of;
use crate::service::memory::frame_memory;

/// Pages on their way. A drop gives them back unchanged.
pub(super) struct Transfer<'m, P: Machine> {
    core: &'static SpaceCore<P>,
    moves: &'m mut [PageMove],
    /// For pages without a node to move to.
    policy: &'m Policy,
}

/// The work left by [`Transfer::settle`].
pub(super) enum Settled<'s, P: Machine> {
    /// None: each page has moved, or is unchanged.
    All,
    /// Pages with translations made stale by another change: to be settled after its completion.
    Later(Unmapping<'s, P>),
}

/// A frame for a page.
enum Spare {
    /// This frame, of the size of the page's leaf of this level.
    Frame(PhysFrame, Level),
    /// None: the page is on this node, as permitted.
    Unneeded(NodeId),
}

/// The reason why a hidden page is not copied.
enum Unfit {
    /// Programs may use the page again.
    Visible,
    /// The page's frame is not the space's alone.
    Shared,
    /// Some CPU may have a translation.
    Pending,
}

/// Returns the pages of the leaf of `level` around `page`.
fn leaf_pages(page: u64, level: Level) -> Pages {
    let first = page - page % level.pages();
    Pages { first, last: first + level.pages() - 1 }
}

const fn order_of(level: Level) -> Order {
    if level.get() == Level::PAGE.get() { Order::FRAME } else { Order::HUGE }
}

/// Returns whether the leaf permits nothing although its region does.
pub(in crate::region) fn is_hidden(leaf: &Leaf, region: Region) -> bool {
    !leaf.protection.access().reads() && region.access().reads()
}

impl<'m, P: Machine> Transfer<'m, P> {
    pub(super) fn new(
        core: &'static SpaceCore<P>,
        moves: &'m mut [PageMove],
        policy: &'m Policy,
    ) -> Transfer<'m, P> {
        for page in moves.iter_mut() {
            (page.stage, page.outcome) = (Stage::Idle, None);
        }
        Transfer { core, moves, policy }
    }

    /// Finds frames for the pages still to move. Returns whether any such pages exist.
    pub(super) fn prepare(&mut self, pin: &CpuPin) -> bool {
        let mut any = false;
        for page in
            self.moves.iter_mut().filter(|page| matches!(page.outcome, None | Some(Err(MoveError::Busy))))
        {
            let of_node;
            let to = match page.to {
                Target::Node(node) => {
                    of_node = Policy::Bind(NodeSet::of(node));
                    &of_node
                }
                Target::Conforming => self.policy,
            };
            let (stage, outcome) = match self.core.frame_for(pin, page.page, to) {
                Ok(Spare::Frame(frame, level)) => {
                    any = true;
                    // The outcome if the page does not move in any of the attempts.
                    (Stage::Ready(frame, level), Err(MoveError::Busy))
                }
                Ok(Spare::Unneeded(node)) => (Stage::Idle, Ok(node)),
                Err(error) => (Stage::Idle, Err(error)),
            };
            (page.stage, page.outcome) = (stage, Some(outcome));
        }
        any
    }

    /// Hides the pages with frames from programs.
    pub(super) fn hide(&mut self, pin: &CpuPin) -> Unmapping<'static, P> {
        let shootdown = self.core.service.shootdown();
        let mut batch = shootdown.batch(self.core.domain());
        for page in self.moves.iter_mut() {
            let Stage::Ready(frame, level) = page.stage else { continue };
            let pages = leaf_pages(page.page, level);
            let hide = |leaf: &Leaf, _| {
                let protection = leaf.protection.with_access(Access::NONE);
                let hidden = Leaf { protection, ownership: Ownership::Owned, ..*leaf };
                if self.core.is_exclusive(leaf, level) { Ok(hidden) } else { Err(()) }
            };
            let record = |changed: &Changed| {
                let told = self.core.service.fault.announces_hidden();
                if let Some(invalidation) = invalidation_of(changed).filter(|_| told) {
                    batch.record(invalidation);
                }
            };
            let hidden = self.core.table.exchange(self.core.service.tables(pin), pages, level, hide, record);
            if hidden.is_ok() {
                page.stage = Stage::Hidden(frame, level);
            } else {
                self.core.put_back(pin, page);
            }
        }
        // If no page was visible, the ticket is for pending changes.
        Unmapping::of(self.core, Some(batch.issue(pin)), Changed::NOTHING)
    }

    /// Moves the hidden pages. No CPU uses the pages hidden by [`Transfer::hide`].
    pub(super) fn settle(&mut self, pin: &CpuPin) -> Settled<'static, P> {
        let core = self.core;
        let mut pending = None;
        for page in self.moves.iter_mut() {
            let Stage::Hidden(frame, level) = page.stage else { continue };
            match core.put(pin, page.page, level, frame) {
                Ok(node) => (page.stage, page.outcome) = (Stage::Idle, Some(Ok(node))),
                Err(ExchangeError::Refused(Unfit::Pending)) => pending = Some(leaf_pages(page.page, level)),
                Err(_) => core.put_back(pin, page),
            }
        }
        match pending {
            Some(pages) => {
                let range = range_of_pages(pages);
                Settled::Later(Unmapping::announce(core, pin, || range, Changed::NOTHING, None))
            }
            None => Settled::All,
        }
    }
}

impl<P: Machine> Drop for Transfer<'_, P> {
    fn drop(&mut self) {
        if self.moves.iter().any(|page| page.stage != Stage::Idle) {
            let platform = *self.core.service.platform();
            let pin = platform.pin();
            self.moves.iter_mut().for_each(|page| self.core.put_back(&pin, page));
        }
    }
}

impl<P: Machine> SpaceCore<P> {
    /// Allocates a frame for `page` placed by `to`, as large as the page's leaf, unless the page
    /// conforms to `to` already.
    fn frame_for(&self, pin: &CpuPin, page: u64, to: &Policy) -> Result<Spare, MoveError> {
        if page < self.bounds.first || page > self.bounds.last {
            return Err(MoveError::NotMovable);
        }
        let (found, level) = self.table.look(self.service.tables(pin), page);
        let leaf = match found {
            Found::Vacant | Found::Mapped(_, None) => return Err(MoveError::NotMovable),
            Found::Reserved(_) => return Err(MoveError::NotPresent),
            Found::Mapped(leaf, Some(_)) => leaf,
        };
        let (frames, number) = (self.service.frames(), page / level.pages());
        let node = frames.node_of(leaf.frame).ok_or(MoveError::NotMovable)?;
        match leaf.ownership {
            Ownership::Owned if level > Level::HUGE => return Err(MoveError::NotMovable),
            Ownership::Borrowed => return Err(MoveError::NotMovable),
            _ if conforms(frames, to, number, node) => return Ok(Spare::Unneeded(node)),
            _ if !self.is_exclusive(&leaf, level) => return Err(MoveError::Shared),
            _ => {}
        }
        let request = placed(frames, FrameRequest::order(order_of(level)), to, number);
        let frame = self.service.alloc(pin, &request).map_err(MoveError::OutOfFrames)?;
        frame_memory::take_over(frames, frame);
        Ok(Spare::Frame(frame, level))
    }

    /// Returns whether the frame of `leaf`, of `level`, belongs to the space alone. If the caller
    /// has claimed the leaf's entry, the answer stays true.
    fn is_exclusive(&self, leaf: &Leaf, level: Level) -> bool {
        match leaf.ownership {
            Ownership::Owned => true,
            Ownership::Shared => self.service.frames().is_sole_holder(leaf.frame, level),
            Ownership::Borrowed => false,
        }
    }

    /// Maps the hidden leaf of `level` at `page` to `frame`, with the old frame's contents, and
    /// frees the old frame. Returns the node of the new frame.
    fn put(
        &self,
        pin: &CpuPin,
        page: u64,
        level: Level,
        frame: PhysFrame,
    ) -> Result<NodeId, ExchangeError<Unfit>> {
        let (frames, pages) = (self.service.frames(), leaf_pages(page, level));
        let decide = |leaf: &Leaf, region| {
            if leaf.ownership != Ownership::Owned {
                return Err(Unfit::Shared);
            }
            if leaf.protection.access().reads() {
                return Err(Unfit::Visible);
            }
            // Changes of the page are recorded under the claim held here.
            let mut pending = self.service.shootdown().pending_in(pin, self.domain(), range_of_pages(pages));
            if !pending.is_complete() {
                return Err(Unfit::Pending);
            }
            for number in 0..level.pages() {
                // SAFETY: the leaf has the old frame, and this move owns the new frame. No CPU has
                // a translation of the page.
                unsafe { frame_memory::copy(frames, leaf.frame + number, frame + number) };
            }
            Ok(Leaf { frame, protection: Region::of(region).protection(), ..*leaf })
        };
        let (old, ()) = self.table.exchange(self.service.tables(pin), pages, level, decide, |_| ())?;
        // SAFETY: no leaf has the frame any more, and no CPU a translation of the page.
        unsafe { frame_memory::release(frames, pin, old.frame, order_of(level)) };
        // The frame came from the allocator.
        Ok(frames.node_of(frame).unwrap_or(NodeId::ZERO))
    }

    /// Frees the frame meant for `page`, and lets programs use the page again if it is hidden.
    fn put_back(&self, pin: &CpuPin, page: &mut PageMove) {
        let (frame, level) = match core::mem::replace(&mut page.stage, Stage::Idle) {
            Stage::Idle => return,
            Stage::Ready(frame, level) => (frame, level),
            Stage::Hidden(frame, level) => {
                let show = |leaf: &Leaf, region| {
                    let region = Region::of(region);
                    let shown = Leaf { protection: protection_of(region.access(), leaf), ..*leaf };
                    if is_hidden(leaf, region) { Ok(shown) } else { Err(()) }
                };
                let pages = leaf_pages(page.page, level);
                // Otherwise the page is not hidden any more.
                let _ = self.table.exchange(self.service.tables(pin), pages, level, show, |_| ());
                (frame, level)
            }
        };
        // SAFETY: the frame was allocated for this move, and is mapped nowhere.
        unsafe { frame_memory::release_own(self.service.frames(), pin, frame, order_of(level)) };
    }
}
