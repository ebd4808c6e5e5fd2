//! Stacks growing downwards.

use core::ops::ControlFlow;

use topomem_percpu::CpuPin;
use topomem_percpu::sync::atomic::{AtomicU64, Ordering};

use super::fault::FaultError;
use crate::Machine;
use crate::address_space::AddressSpace;
use crate::page_table::{Access, Found, Pages};
use crate::region::attributes::{Guard, Kind, Region};
use crate::region::calls::reserve::Unextended;

/// Number of pages between a growing stack and an accessible region below, as in Linux: 1 MiB.
const GUARD_GAP: u64 = 256;

/// Default of the greatest number of pages of a stack, set by [`AddressSpace::set_stack_limit`]: 8
/// MiB.
pub(crate) const DEFAULT_STACK_LIMIT: u64 = 2048;

/// The first and the last page of the most recently grown stack. A stack grows page by page, and
/// would otherwise be searched through at each of them.
///
/// A hint: if a part of the stack is unmapped meanwhile, the stack counts as longer than it is.
#[derive(Debug)]
pub(crate) struct GrownStack {
    first: AtomicU64,
    end: AtomicU64,
}

impl GrownStack {
    pub(crate) fn none() -> GrownStack {
        GrownStack { first: AtomicU64::new(0), end: AtomicU64::new(0) }
    }

    // Relaxed: a hint. If two contexts let stacks grow at once, the first page of one may be
    // combined with the other's end: the stack then counts as longer, or as unknown.

    fn set(&self, first: u64, end: u64) {
        self.first.store(first, Ordering::Relaxed);
        self.end.store(end, Ordering::Relaxed);
    }

    /// Returns the number of pages of the stack beginning at `first`, if it is the most recently
    /// grown.
    fn pages_from(&self, first: u64) -> Option<u64> {
        if self.first.load(Ordering::Relaxed) != first {
            return None;
        }
        self.end.load(Ordering::Relaxed).checked_sub(first)
    }
}

/// The neighbour above a page.
enum Above {
    /// None, as far as searched.
    Nothing,
    /// The page, of a stack, and the stack's number of pages from the page on.
    Stack { first: u64, pages: u64, region: Region },
    /// Another region.
    Other,
}

impl<P: Machine> AddressSpace<P> {
    /// Sets the greatest number of bytes of a stack, rounded down to pages. A longer stack does not
    /// grow.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// let space = service.create_space(pin)?;
    /// space.set_stack_limit(64 << 20);
    /// assert_eq!(space.stack_limit(), 64 << 20);
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub fn set_stack_limit(&self, bytes: u64) {
        // Relaxed: a number.
        self.core().stack_limit.store(bytes >> 12, Ordering::Relaxed);
    }

    /// Returns the greatest number of bytes of a stack.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// let space = service.create_space(pin)?;
    /// space.set_stack_limit(1 << 20);
    /// assert_eq!(space.stack_limit(), 1 << 20);
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub fn stack_limit(&self) -> u64 {
        // Relaxed: a number.
        self.core().stack_limit.load(Ordering::Relaxed) << 12
    }

    /// Lets the stack above `page`, which belongs to no region, grow down to `page`. Returns
    /// whether `page` may belong to a region now, and has to be looked at again.
    ///
    /// A stack does not grow beyond its limit, or into the guard gap above an accessible region.
    ///
    /// # Errors
    ///
    /// Returns [`FaultError::OutOfFrames`] if no frame for page tables is left.
    pub(super) fn grow_stack(&self, pin: &CpuPin, page: u64) -> Result<bool, FaultError> {
        let limit = self.core().stack_limit.load(Ordering::Relaxed);
        let Above::Stack { first, pages, region } = self.above(pin, page, limit) else {
            return Ok(false);
        };
        if pages + (first - page) > limit || !self.has_gap_below(pin, page) {
            // The obstacle may be the same stack: another CPU has let it grow past the page.
            return Ok(self.is_taken(pin, page));
        }
        // The lowest page may be a guard; the new pages are not.
        let region = region.with_guard(Guard::None);
        match self.take_more(pin, Pages { first: page, last: first - 1 }, region, first) {
            Ok(()) => {
                self.core().grown_stack.set(page, first + pages);
                Ok(true)
            }
            Err(Unextended::OutOfFrames(error)) => Err(FaultError::OutOfFrames(error)),
            // Another CPU was faster, and may have let the same stack grow.
            Err(Unextended::Changed | Unextended::Occupied) => Ok(true),
        }
    }

    /// Searches a stack in `limit` pages above `page`.
    fn above(&self, pin: &CpuPin, page: u64, limit: u64) -> Above {
        let core = self.core();
        let last = page.saturating_add(limit).min(core.bounds.last);
        let mut above = Above::Nothing;
        if page >= last {
            return above;
        }
        let visit = |part: Pages, found| {
            let of = match found {
                Found::Vacant => None,
                Found::Mapped(_, None) => Some(None),
                Found::Reserved(region) | Found::Mapped(_, Some(region)) => Some(Some(Region::of(region))),
            };
            match (&mut above, of) {
                (Above::Nothing, None) => ControlFlow::Continue(()),
                (Above::Nothing, Some(Some(region))) if region.kind() == Kind::Stack => {
                    let known = core.grown_stack.pages_from(part.first);
                    let pages = known.unwrap_or(part.count());
                    above = Above::Stack { first: part.first, pages, region };
                    if known.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                }
                (Above::Nothing, _) => {
                    above = Above::Other;
                    ControlFlow::Break(())
                }
                (Above::Stack { pages, .. }, Some(Some(region))) if region.kind() == Kind::Stack => {
                    *pages += part.count();
                    ControlFlow::Continue(())
                }
                _ => ControlFlow::Break(()),
            }
        };
        let pages = Pages { first: page + 1, last };
        core.table.visit(core.service.tables(pin), pages, visit);
        above
    }

    /// Returns whether `page` belongs to a region, or is mapped.
    fn is_taken(&self, pin: &CpuPin, page: u64) -> bool {
        let core = self.core();
        let mut taken = false;
        let visit = |_, found| {
            taken = found != Found::Vacant;
            ControlFlow::Break(())
        };
        core.table.visit(core.service.tables(pin), Pages { first: page, last: page }, visit);
        taken
    }

    /// Returns whether no page of the guard gap below `page` is accessible.
    fn has_gap_below(&self, pin: &CpuPin, page: u64) -> bool {
        let core = self.core();
        let first = page.saturating_sub(GUARD_GAP).max(core.bounds.first);
        if first >= page {
            return true;
        }
        // The usual case, without a claim.
        if self.last_taken(pin, Pages { first, last: page - 1 }).is_none() {
            return true;
        }
        let mut free = true;
        let visit = |_, found| {
            let access = match found {
                Found::Vacant => Access::NONE,
                Found::Mapped(leaf, None) => leaf.protection.access(),
                Found::Reserved(region) | Found::Mapped(_, Some(region)) => Region::of(region).access(),
            };
            free = !access.reads();
            if free { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        };
        let pages = Pages { first, last: page - 1 };
        core.table.visit(core.service.tables(pin), pages, visit);
        free
    }
}
