//! Moving all pages of a range that are not where they are to be.

use core::ops::ControlFlow;

use arrayvec::ArrayVec;
use topomem_numa::frames::{NodeSet, Policy};
use topomem_percpu::{CpuPin, NodeId};
use topomem_shootdown::PageRange;

use super::moves::PageMove;
use super::policy::conforms;
use crate::Machine;
use crate::address_space::{AddressSpace, pages_of};
use crate::page_table::{Found, Level, Ownership, Pages};

/// How many pages of a range are looked up at once. Each round has interrupts of its own.
const ROUND: usize = 32;

/// What has become of the pages of a range that were not where they are to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MovedPages {
    /// How many have moved, each as large as its leaf.
    pub moved: u64,
    /// How many have stayed where they were: shared with other spaces, changed all the time, or no frame was
    /// free.
    pub stayed: u64,
}

type Round = ArrayVec<PageMove, ROUND>;

/// Pages of a space, in ascending order, that are to move.
struct Misplaced<'s, P: Machine, W> {
    space: &'s AddressSpace<P>,
    rest: Option<Pages>,
    /// Returns where the page with this number (of its size), which is on that node, is to go; `None` if it
    /// stays.
    wanted: W,
    counts: MovedPages,
}

impl<'s, P: Machine, W: Fn(u64, NodeId) -> Option<Policy>> Misplaced<'s, P, W> {
    fn new(space: &'s AddressSpace<P>, pages: Pages, wanted: W) -> Misplaced<'s, P, W> {
        let bounds = space.core().bounds;
        let pages = Pages { first: pages.first.max(bounds.first), last: pages.last.min(bounds.last) };
        let rest = (pages.first <= pages.last).then_some(pages);
        Misplaced { space, rest, wanted, counts: MovedPages::default() }
    }

    /// Looks for the next such pages. None: there are no more.
    fn next(&mut self, pin: &CpuPin) -> Option<Round> {
        let pages = self.rest.take()?;
        let mut round = Round::new();
        let core = self.space.core();
        let frames = core.service.frames();
        let visit = |part: Pages, found| {
            let Found::Mapped(leaf, Some(_)) = found else { return ControlFlow::Continue(()) };
            let size = match part.count() {
                1 => 1,
                count if count <= Level::HUGE.pages() => Level::HUGE.pages(),
                // Larger ones do not move.
                _ => return ControlFlow::Continue(()),
            };
            let owned = leaf.ownership != Ownership::Borrowed;
            let node = frames.node_of(leaf.frame).filter(|_| owned);
            let Some(to) = node.and_then(|node| (self.wanted)(part.first / size, node)) else {
                return ControlFlow::Continue(());
            };
            if round.try_push(PageMove::by_policy(part.first, to)).is_err() {
                self.rest = Some(Pages { first: part.first, ..pages });
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        };
        core.table.visit(core.service.tables(pin), pages, visit);
        Some(round)
    }

    fn count(&mut self, round: &Round) {
        let moved = round.iter().filter(|page| matches!(page.outcome(), Some(Ok(_)))).count();
        self.counts.moved += moved as u64;
        self.counts.stayed += (round.len() - moved) as u64;
    }

    fn move_all(mut self, pin: &CpuPin) -> MovedPages {
        while let Some(mut round) = self.next(pin) {
            self.space.move_pages(pin, &mut round);
            self.count(&round);
        }
        self.counts
    }

    async fn move_all_async(mut self) -> MovedPages {
        let platform = *self.space.core().service.platform();
        loop {
            let round = self.next(&platform.pin());
            let Some(mut round) = round else { return self.counts };
            self.space.move_pages_async(&mut round).await;
            self.count(&round);
        }
    }
}

impl<P: Machine> AddressSpace<P> {
    /// Moves the pages of `range` that are mapped and not where `to` would have them to such places: to the
    /// nodes of a [`Policy::Bind`] or [`Policy::Preferred`], or each to its own node of a
    /// [`Policy::Interleave`] or [`Policy::WeightedInterleave`]. Pages outside the space are left out.
    ///
    /// As [`AddressSpace::move_pages`], in rounds of 32 pages. Costs a look at each entry of the tables that
    /// serve the range besides.
    pub fn move_range(&self, pin: &CpuPin, range: PageRange, to: Policy) -> MovedPages {
        Misplaced::new(self, pages_of(range), self.wanted_by(to)).move_all(pin)
    }

    /// As [`AddressSpace::move_range`], without blocking, as [`AddressSpace::move_pages_async`].
    pub async fn move_range_async(&self, range: PageRange, to: Policy) -> MovedPages {
        Misplaced::new(self, pages_of(range), self.wanted_by(to)).move_all_async().await
    }

    /// Moves the pages of the whole space that are on a node of `from` to nodes of `to`: those on the first
    /// node of `from` to the first of `to`, and so on, in turn if `to` has fewer (migrate_pages of Linux).
    /// Nothing moves if `to` is empty.
    pub fn move_between(&self, pin: &CpuPin, from: NodeSet, to: NodeSet) -> MovedPages {
        let wanted = |_, node: NodeId| {
            let at = from.iter().position(|of| of == node)? % to.len().max(1);
            let target = to.iter().nth(at).filter(|&target| target != node)?;
            Some(Policy::Bind(NodeSet::of(target)))
        };
        Misplaced::new(self, self.core().bounds, wanted).move_all(pin)
    }

    /// Returns what says where a page is to go that is not where `to` would have it.
    fn wanted_by(&self, to: Policy) -> impl Fn(u64, NodeId) -> Option<Policy> {
        let frames = self.core().service.frames();
        move |page, node| (!conforms(frames, to, page, node)).then_some(to)
    }
}
