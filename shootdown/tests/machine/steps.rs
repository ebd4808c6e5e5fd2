//! Steps that several tests take.

use topomem_shootdown::{Domain, Invalidation, Ticket};

use super::{Machine, PAGES, Queue, forever, range, run_as};

/// A domain of its own, for ever.
pub(crate) fn domain() -> &'static Domain {
    forever(Domain::new())
}

/// CPU `index` takes up `space` and has all of it in its TLB.
pub(crate) fn enter(queue: &Queue, index: usize, space: usize, domain: &'static Domain) {
    // SAFETY: the domain lives for ever, and the switch is the machine's own.
    unsafe { queue.activate(&run_as(index), domain, |load| queue.tlb().load_root(load)) };
    for page in 0..PAGES {
        queue.tlb().access(space, page);
    }
}

/// CPU 0 changes `pages` pages of `space` and issues that.
pub(crate) fn issue(
    queue: &'static Queue,
    space: usize,
    pages: usize,
    domain: &'static Domain,
) -> Ticket<'static, Machine> {
    for page in 0..pages {
        queue.tlb().change(space, page);
    }
    queue.invalidate(&run_as(0), domain, Invalidation::pages(range(space, 0, pages)))
}
