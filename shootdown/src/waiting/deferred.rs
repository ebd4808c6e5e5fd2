//! What waits for an invalidation with nobody waiting for it.

use core::fmt;

use arrayvec::ArrayVec;

use crate::{Domain, Request, Shootdown, Tlb};

/// Things that may be freed when the invalidations of one domain that name them are complete: frames, mostly. A
/// kernel unmaps, [detaches](crate::Ticket::detach) the ticket, and takes out later what is done.
///
/// It holds `N` things at most, and allocates nothing. It belongs to one context at a time: a list for each
/// CPU, or one under a lock.
///
/// ```
/// # use core::ptr::NonNull;
/// # use topomem_percpu::{CpuId, CpuSet, PhysAddr, Platform};
/// # use topomem_shootdown::*;
/// # struct Kernel;
/// # unsafe impl Platform for Kernel {
/// #     fn current_cpu(&self) -> CpuId { CpuId::BOOT }
/// #     fn phys_to_virt(&self, _: PhysAddr) -> NonNull<u8> { NonNull::dangling() }
/// # }
/// # unsafe impl Tlb for Kernel {
/// #     fn flush_page(&self, _: VirtAddr, _: PageSize) {}
/// #     fn flush_non_global(&self) {}
/// #     fn flush_all(&self) {}
/// #     fn send_ipi(&self, _: &CpuSet) {}
/// #     fn now(&self) -> Ticks { Ticks(0) }
/// #     fn unresponsive_timeout(&self) -> Ticks { Ticks(1 << 32) }
/// # }
/// static QUEUE: Shootdown<Kernel> = Shootdown::new(Kernel);
/// # fn free(_frame: PhysAddr) {}
///
/// let pin = QUEUE.tlb().pin();
/// let (domain, frame) = (QUEUE.kernel(), PhysAddr::new(0x5000));
/// let mut unmapped: Deferred<PhysAddr, 32> = Deferred::new();
/// // ... the page at 2 MiB, which showed the frame, is unmapped ...
/// let page = VirtAddr::new(0x20_0000)?;
/// let ticket = QUEUE.invalidate(&pin, domain, Invalidation::page(page, PageSize::Size4KiB));
/// unmapped.push(ticket.detach(), frame).map_err(|_| "full: wait for a ticket instead")?;
/// // ... later, in a task or before the next change ...
/// while let Some(frame) = unmapped.pop_done(&QUEUE, domain) {
///     free(frame);
/// }
/// # assert!(unmapped.is_empty());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Deferred<T, const N: usize> {
    waiting: ArrayVec<(Request, T), N>,
}

/// There is no room: the thing, back. It may not be freed before its request is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full<T>(pub T);

impl<T> fmt::Display for Full<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("too much waits for invalidations")
    }
}

impl<T: fmt::Debug> core::error::Error for Full<T> {}

impl<T, const N: usize> Deferred<T, N> {
    /// Returns a list of nothing.
    #[must_use]
    pub const fn new() -> Deferred<T, N> {
        Deferred { waiting: ArrayVec::new_const() }
    }

    /// Keeps `thing` until `request` is done.
    ///
    /// # Errors
    ///
    /// [`Full`], with `thing` in it, if `N` things wait.
    ///
    /// ```
    /// # mod machine { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/one_cpu.rs")); }
    /// # use topomem_percpu::Platform;
    /// # use topomem_shootdown::{Domain, Shootdown, Tlb};
    /// # static QUEUE: Shootdown<machine::OneCpu> = Shootdown::new(machine::OneCpu);
    /// # static SPACE: Domain = Domain::new();
    /// # let pin = QUEUE.tlb().pin();
    /// use topomem_shootdown::{Deferred, Full, Invalidation};
    ///
    /// let mut frames: Deferred<&str, 1> = Deferred::new();
    /// let request = QUEUE.invalidate(&pin, &SPACE, Invalidation::domain()).detach();
    /// assert!(frames.push(request, "frame 1").is_ok());
    /// assert!(matches!(frames.push(request, "frame 2"), Err(Full("frame 2"))));
    /// ```
    pub fn push(&mut self, request: Request, thing: T) -> Result<(), Full<T>> {
        self.waiting.try_push((request, thing)).map_err(|error| Full(error.element().1))
    }

    /// Takes out one thing whose request, an invalidation of `domain`, is done: the oldest such. `None` if there
    /// is none.
    ///
    /// Costs what [`Shootdown::is_done`] costs, for each thing that is looked at.
    ///
    /// ```
    /// # mod machine { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/one_cpu.rs")); }
    /// # use topomem_percpu::Platform;
    /// # use topomem_shootdown::{Domain, Shootdown, Tlb};
    /// # static QUEUE: Shootdown<machine::OneCpu> = Shootdown::new(machine::OneCpu);
    /// # static SPACE: Domain = Domain::new();
    /// # let pin = QUEUE.tlb().pin();
    /// use topomem_shootdown::{Deferred, Invalidation};
    ///
    /// let mut frames: Deferred<&str, 8> = Deferred::new();
    /// let request = QUEUE.invalidate(&pin, &SPACE, Invalidation::domain()).detach();
    /// frames.push(request, "frame").unwrap();
    /// assert_eq!(frames.pop_done(&QUEUE, &SPACE), Some("frame")); // no other CPU uses the space
    /// assert!(frames.is_empty());
    /// ```
    pub fn pop_done<B: Tlb>(&mut self, queue: &Shootdown<B>, domain: &Domain) -> Option<T> {
        let done = self.waiting.iter().position(|(request, _)| queue.is_done(domain, *request))?;
        Some(self.waiting.remove(done).1)
    }

    /// Returns how many things wait.
    ///
    /// ```
    /// use topomem_shootdown::Deferred;
    ///
    /// assert_eq!(Deferred::<u64, 8>::new().len(), 0);
    /// ```
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Says whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

impl<T, const N: usize> Default for Deferred<T, N> {
    fn default() -> Deferred<T, N> {
        Deferred::new()
    }
}

impl<T, const N: usize> fmt::Debug for Deferred<T, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deferred").field("waiting", &self.waiting.len()).finish()
    }
}
