//! Moving all misplaced pages of a range.

use core::ops::ControlFlow;

use arrayvec::ArrayVec;
use topomem_numa::frames::{NodeSet, Policy};
use topomem_percpu::{CpuPin, NodeId};
use topomem_shootdown::PageRange;

use super::moves::{PageMove, Target};
use super::policy::conforms;
use crate::Machine;
use crate::address_space::{AddressSpace, pages_of};
use crate::page_table::{Found, Level, Ownership, Pages};

/// Number of pages of a range looked up together. Each round has interrupts of its own.
const ROUND: usize = 32;

/// The outcome for the misplaced pages of a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MovedPages {
    /// Number of pages moved, each as large as its leaf.
    pub moved: u64,
    /// Number of pages not moved: shared with other spaces, changed all the time, or without a free
    /// frame.
    pub stayed: u64,
}

type Round = ArrayVec<PageMove, ROUND>;

/// Pages of a space to be moved, in ascending order.
struct Misplaced<'s, P: Machine, W> {
    space: &'s AddressSpace<P>,
    rest: Option<Pages>,
    /// Returns where the page with this number (in units of its size), on the given node, moves, or `None` if it
    /// stays.
    wanted: W,
    /// For pages that are to conform to it.
    policy: &'s Policy,
    counts: MovedPages,
}

impl<'s, P: Machine, W: Fn(u64, NodeId) -> Option<Target>> Misplaced<'s, P, W> {
    fn new(space: &'s AddressSpace<P>, pages: Pages, policy: &'s Policy, wanted: W) -> Misplaced<'s, P, W> {
        let bounds = space.core().bounds;
        let pages = Pages { first: pages.first.max(bounds.first), last: pages.last.min(bounds.last) };
        let rest = (pages.first <= pages.last).then_some(pages);
        Misplaced { space, rest, wanted, policy, counts: MovedPages::default() }
    }

    /// Returns the next pages to move, or `None` if none are left.
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
                // Larger pages do not move.
                _ => return ControlFlow::Continue(()),
            };
            let owned = leaf.ownership != Ownership::Borrowed;
            let node = frames.node_of(leaf.frame).filter(|_| owned);
            let Some(to) = node.and_then(|node| (self.wanted)(part.first / size, node)) else {
                return ControlFlow::Continue(());
            };
            if round.try_push(PageMove::of_page(part.first, to)).is_err() {
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
            self.space.move_conforming(pin, &mut round, self.policy);
            self.count(&round);
        }
        self.counts
    }

    async fn move_all_async(mut self) -> MovedPages {
        let platform = *self.space.core().service.platform();
        loop {
            let round = self.next(&platform.pin());
            let Some(mut round) = round else { return self.counts };
            self.space.move_conforming_async(&mut round, self.policy).await;
            self.count(&round);
        }
    }
}

impl<P: Machine> AddressSpace<P> {
    /// Moves the mapped pages of `range` not conforming to `to` to conforming places: to the nodes
    /// of a [`Policy::Bind`] or [`Policy::Preferred`], or each to its own node of a
    /// [`Policy::Interleave`] or [`Policy::WeightedInterleave`]. Pages outside the space are left
    /// out.
    ///
    /// The pages move like in [`AddressSpace::move_pages`], in rounds of 32 pages. Additional cost:
    /// a look at each entry of the tables serving the range.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// use topomem::{NodeId, PageRange, PageSize, Policy, VirtAddr};
    ///
    /// let space = service.create_space(pin)?;
    /// let range = PageRange::new(VirtAddr::new(0x40_0000)?, 512, PageSize::Size4KiB)?;
    /// let moved = space.move_range(pin, range, Policy::Preferred(NodeId::ZERO));
    /// assert_eq!((moved.moved, moved.stayed), (0, 0));
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub fn move_range(&self, pin: &CpuPin, range: PageRange, to: Policy) -> MovedPages {
        Misplaced::new(self, pages_of(range), &to, self.wanted_by(&to)).move_all(pin)
    }

    /// Moves pages like [`AddressSpace::move_range`], without blocking, like
    /// [`AddressSpace::move_pages_async`].
    pub async fn move_range_async(&self, range: PageRange, to: Policy) -> MovedPages {
        Misplaced::new(self, pages_of(range), &to, self.wanted_by(&to)).move_all_async().await
    }

    /// Moves the pages of the whole space on a node of `from` to nodes of `to`: from the first node
    /// of `from` to the first of `to`, and so on, in turn if `to` has fewer (migrate_pages of
    /// Linux). Moves nothing if `to` is empty.
    pub fn move_between(&self, pin: &CpuPin, from: NodeSet, to: NodeSet) -> MovedPages {
        let wanted = |_, node: NodeId| {
            let at = from.iter().position(|of| of == node)? % to.len().max(1);
            to.iter().nth(at).filter(|&target| target != node).map(Target::Node)
        };
        Misplaced::new(self, self.core().bounds, &Policy::Local, wanted).move_all(pin)
    }

    /// Returns a function deciding on the destination of pages not conforming to `to`.
    fn wanted_by(&self, to: &Policy) -> impl Fn(u64, NodeId) -> Option<Target> {
        let frames = self.core().service.frames();
        move |page, node| (!conforms(frames, to, page, node)).then_some(Target::Conforming)
    }
}
