//! Searching frames both writable and executable.

use core::ops::ControlFlow;

use topomem_percpu::{CpuPin, PhysFrame};
use topomem_shootdown::VirtAddr;

use super::AddressSpace;
use super::layout::{SpaceKind, kernel_parts};
use crate::Machine;
use crate::page_table::{Leaf, Pages};

/// Two pages, or a single page, allowing a space to write to a frame and to execute it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WritableCode {
    /// The address of an executable page.
    pub executable: VirtAddr,
    /// The address of a writable page with the same frame.
    pub writable: VirtAddr,
}

/// Consecutive pages mapped to consecutive frames.
#[derive(Clone, Copy)]
struct Run {
    pages: Pages,
    frame: PhysFrame,
}

impl Run {
    /// Extends the run by `part`, mapped by `leaf`, if it continues the run.
    fn extend(&mut self, part: Pages, leaf: &Leaf) -> bool {
        let goes_on = self.pages.last + 1 == part.first && self.frame + self.pages.count() == leaf.frame;
        if goes_on {
            self.pages.last = part.last;
        }
        goes_on
    }

    /// Returns the first page of the run with a frame also in `other`, and the page of `other`.
    fn common(&self, other: Run) -> Option<(u64, u64)> {
        let [mine, its] = [self, &other].map(|run| run.frame.start_address().as_u64() >> 12);
        let first = mine.max(its);
        let end = (mine + self.pages.count()).min(its + other.pages.count());
        (first < end).then(|| (self.pages.first + (first - mine), other.pages.first + (first - its)))
    }
}

impl<P: Machine> AddressSpace<P> {
    /// Searches a frame this space can execute through a page and write through the same page or
    /// another. In the kernel's space, the search covers all that is not programs': the kernel's image
    /// and everything else mapped at boot, the direct map included. For a check after boot.
    ///
    /// Pages permitted by [`WriteExecute`](crate::WriteExecute) are found like all others. Two
    /// spaces acting together are not recognised; regions of memory objects are kept from such use
    /// when they are mapped ([`AddressSpace::mmap_object`]).
    ///
    /// Cost: a look at each entry of all tables, and a further look for each run of executable
    /// pages with contiguous frames.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// let space = service.create_space(pin)?;
    /// assert_eq!(space.find_writable_code(pin), None);
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    #[must_use]
    pub fn find_writable_code(&self, pin: &CpuPin) -> Option<WritableCode> {
        let mut found = None;
        let mut code: Option<Run> = None;
        self.for_each_leaf(pin, |part, leaf| {
            if !leaf.protection.access().executes() {
                return ControlFlow::Continue(());
            }
            if code.as_mut().is_some_and(|run| run.extend(part, leaf)) {
                return ControlFlow::Continue(());
            }
            let former = code.replace(Run { pages: part, frame: leaf.frame });
            found = former.and_then(|run| self.find_writer(pin, run));
            if found.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        found.or_else(|| self.find_writer(pin, code?))
    }

    /// Searches a page through which a frame of `code` may be written.
    fn find_writer(&self, pin: &CpuPin, code: Run) -> Option<WritableCode> {
        let mut found = None;
        self.for_each_leaf(pin, |part, leaf| {
            if leaf.protection.access().writes() {
                found = code.common(Run { pages: part, frame: leaf.frame });
            }
            if found.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        let (executable, writable) = found?;
        let address = |page: u64| VirtAddr::new_truncate(page << 12);
        Some(WritableCode { executable: address(executable), writable: address(writable) })
    }

    /// Calls `visit` with each leaf of the space, by address, until it breaks.
    fn for_each_leaf(&self, pin: &CpuPin, mut visit: impl FnMut(Pages, &Leaf) -> ControlFlow<()>) {
        let core = self.core();
        let parts = match self.kind() {
            SpaceKind::Kernel => kernel_parts::<P::Format>(core.service.programs()),
            SpaceKind::User => [Some(core.bounds), None, None],
        };
        let mut flow = ControlFlow::Continue(());
        for pages in parts.into_iter().flatten() {
            core.table.for_each_leaf(core.service.tables(pin), pages, |part, leaf| {
                flow = visit(part, &leaf);
                flow
            });
            if flow.is_break() {
                return;
            }
        }
    }
}
