//! The ticket for a change to be announced to TLBs.

use core::fmt;
use core::future::{Future, IntoFuture};
use core::pin::Pin;
use core::task::{Context, Poll};

use topomem_percpu::CpuPin;
use topomem_shootdown::{ChangeRecord, Completion, PageRange, Request, Ticket};

use crate::Machine;
use crate::address_space::core::SpaceCore;
use crate::address_space::layout::range_of_pages;
use crate::fault::points::Announced;
use crate::page_table::{Changed, Pages};
use crate::retire::{Callback, Callbacks, Parked, Retired};

/// A change of page tables not yet noticed by every remote CPU.
///
/// Until the change is complete, remote CPUs may use the old translations. The ticket owns the
/// frames and tables removed by the change. They are freed when it completes, and never before:
///
/// - [`Unmapping::wait`] blocks, serving remote CPUs' shootdowns meanwhile;
/// - `.await` does not block;
/// - [`Unmapping::detach`], or a drop, leaves the frames to the service task;
/// - [`Unmapping::detach_then`] also calls a function afterwards.
///
/// Forgetting the ticket does not compile cleanly:
///
/// ```compile_fail
/// #![deny(unused_must_use)]
/// use topomem::{AddressSpace, CpuPin, Machine, PageRange, UnmapError};
///
/// fn f<P: Machine>(space: &AddressSpace<P>, pin: &CpuPin, range: PageRange) -> Result<(), UnmapError> {
///     space.unmap(pin, range)?;
///     Ok(())
/// }
/// ```
///
/// The pinned CPU has dropped its own translations when the ticket is made.
#[must_use = "other CPUs may use the old translations until it completes: wait, await or detach"]
pub struct Unmapping<'s, P: Machine> {
    parts: Parts<'s, P, Ticket<'s, P>>,
}

/// The memory to free, wherever the ticket goes, and the ticket in one of its forms.
struct Parts<'s, P: Machine, W: Pending> {
    core: &'s SpaceCore<P>,
    retired: Retired,
    /// Number of 4 KiB pages affected by the change.
    pages: u64,
    /// `None` if nothing was stale anywhere, or the change is complete.
    wait: Option<W>,
}

/// A wait for an invalidation.
trait Pending {
    fn request(&self) -> Request;
}

impl<P: Machine> Pending for Ticket<'_, P> {
    fn request(&self) -> Request {
        Ticket::request(self)
    }
}

impl<P: Machine> Pending for Completion<'_, P> {
    fn request(&self) -> Request {
        Completion::request(self)
    }
}

impl<P: Machine, W: Pending> Parts<'_, P, W> {
    /// Frees the retired memory.
    ///
    /// # Safety
    ///
    /// The awaited invalidation is complete.
    #[inline]
    unsafe fn free(&mut self, pin: &CpuPin) {
        self.wait = None;
        let service = self.core.service;
        if !self.retired.is_empty() {
            // SAFETY: the caller's promise.
            unsafe { self.retired.free(service.frames(), service.walks(), pin) };
        }
    }

    /// Leaves the retired memory to the service task, which then arranges the calls of `callbacks`.
    #[cold]
    fn park(&mut self, callbacks: Callbacks) {
        let retired = core::mem::replace(&mut self.retired, Retired::NOTHING);
        let service = self.core.service;
        // No other context of this CPU intervenes while a lock is held.
        let pin = service.platform().pin();
        self.core.park(Parked {
            request: self.wait.as_ref().map(W::request),
            retired,
            callbacks,
            ..Parked::NOTHING
        });
        service.note_work(&pin);
    }
}

impl<P: Machine, W: Pending> Drop for Parts<'_, P, W> {
    #[inline]
    fn drop(&mut self) {
        if !self.retired.is_empty() {
            self.park(Callbacks::NONE);
        }
    }
}

impl<'s, P: Machine> Unmapping<'s, P> {
    /// Returns the ticket of a change, with its invalidation's `ticket`.
    #[inline]
    pub(crate) fn of(
        core: &'s SpaceCore<P>,
        ticket: Option<Ticket<'s, P>>,
        changed: Changed,
    ) -> Unmapping<'s, P> {
        let Changed { retired, pages, .. } = changed;
        Unmapping { parts: Parts { core, retired, pages, wait: ticket } }
    }

    /// Returns the complete ticket of no change.
    pub(crate) fn of_nothing(core: &'s SpaceCore<P>) -> Unmapping<'s, P> {
        Unmapping::of(core, None, Changed::NOTHING)
    }

    /// Announces `changed`, a recorded change in `range`: to this CPU's TLB at once, to the remote
    /// CPUs by interrupts. If nothing was changed, the ticket is for the pending changes of
    /// `range`.
    // Always inlined: recorded values stay in registers.
    #[inline(always)]
    pub(crate) fn announce(
        core: &'s SpaceCore<P>,
        pin: &CpuPin,
        range: impl FnOnce() -> PageRange,
        changed: Changed,
        record: Option<ChangeRecord<'s>>,
    ) -> Unmapping<'s, P> {
        let shootdown = core.service.shootdown();
        let ticket = match record {
            Some(record) => shootdown.announce(pin, record),
            None => pending(core, pin, range()),
        };
        Unmapping::of(core, Some(ticket), changed)
    }

    /// Announces `change` like [`Unmapping::announce`]: a fault point.
    #[inline(always)]
    pub(crate) fn announce_change(
        change: Announced,
        core: &'s SpaceCore<P>,
        pin: &CpuPin,
        range: PageRange,
        changed: Changed,
        record: Option<ChangeRecord<'s>>,
    ) -> Unmapping<'s, P> {
        if !core.service.fault.announces(change) {
            return Unmapping::of(core, None, changed);
        }
        Unmapping::announce(core, pin, || range, changed, record)
    }

    /// Returns the number of 4 KiB pages affected by the change.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// use topomem::{FrameRequest, PageRange, PageSize, Protection, VirtAddr};
    ///
    /// let space = service.create_space(pin)?;
    /// let page = PageRange::page(VirtAddr::new(0x40_0000)?, PageSize::Size4KiB);
    /// space.map(pin, page, FrameRequest::frame(), Protection::USER_DATA)?;
    /// let unmapping = space.unmap(pin, page)?;
    /// assert_eq!(unmapping.pages(), 1);
    /// unmapping.wait(pin);
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.parts.pages
    }

    /// Returns whether every CPU has dropped the old translations.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// use topomem::{FrameRequest, PageRange, PageSize, Protection, VirtAddr};
    ///
    /// let space = service.create_space(pin)?;
    /// let page = PageRange::page(VirtAddr::new(0x40_0000)?, PageSize::Size4KiB);
    /// space.map(pin, page, FrameRequest::frame(), Protection::USER_DATA)?;
    /// let mut unmapping = space.unmap(pin, page)?;
    /// assert!(unmapping.is_complete()); // no other CPU uses the space
    /// unmapping.wait(pin);
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    #[must_use]
    pub fn is_complete(&mut self) -> bool {
        self.parts.wait.as_mut().is_none_or(Ticket::is_complete)
    }

    /// Waits until every CPU has dropped the old translations, and frees the retired memory.
    ///
    /// Serves this CPU's own shootdown queue meanwhile: interrupts may be masked.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// use topomem::{FrameRequest, PageRange, PageSize, Protection, VirtAddr};
    ///
    /// let space = service.create_space(pin)?;
    /// let page = PageRange::page(VirtAddr::new(0x40_0000)?, PageSize::Size4KiB);
    /// space.map(pin, page, FrameRequest::frame(), Protection::USER_DATA)?;
    /// let unmapping = space.unmap(pin, page)?;
    /// assert_eq!(unmapping.pages(), 1);
    /// unmapping.wait(pin);
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    // As for `AddressSpace::unmap`.
    #[inline(always)]
    pub fn wait(mut self, pin: &CpuPin) {
        if let Some(ticket) = &mut self.parts.wait {
            ticket.block(pin);
        }
        // SAFETY: the ticket is complete, or nothing had to be awaited.
        unsafe { self.parts.free(pin) };
    }

    /// Frees the retired memory if every CPU has dropped the old translations, and returns whether
    /// they have. Never waits.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// use topomem::{FrameRequest, PageRange, PageSize, Protection, VirtAddr};
    ///
    /// let space = service.create_space(pin)?;
    /// let page = PageRange::page(VirtAddr::new(0x40_0000)?, PageSize::Size4KiB);
    /// space.map(pin, page, FrameRequest::frame(), Protection::USER_DATA)?;
    /// let mut unmapping = space.unmap(pin, page)?;
    /// assert!(unmapping.finish(pin)); // the frame is free
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    #[must_use]
    #[inline(always)]
    pub fn finish(&mut self, pin: &CpuPin) -> bool {
        if !self.is_complete() {
            return false;
        }
        // SAFETY: the ticket is complete, or nothing had to be awaited.
        unsafe { self.parts.free(pin) };
        true
    }

    /// Leaves the retired memory to the service task, which frees it when safe. The explicit form
    /// of a drop.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// use topomem::{FrameRequest, PageRange, PageSize, Protection, VirtAddr};
    ///
    /// let space = service.create_space(pin)?;
    /// let page = PageRange::page(VirtAddr::new(0x40_0000)?, PageSize::Size4KiB);
    /// space.map(pin, page, FrameRequest::frame(), Protection::USER_DATA)?;
    /// space.unmap(pin, page)?.detach(); // the service task frees the frame
    /// service.run_pending_work(pin);
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub fn detach(self) {}

    /// Detaches like [`Unmapping::detach`], and arranges a call of `callback` after every CPU has
    /// dropped the old translations and the retired memory is free. [`MemoryService::run_pending_work`] calls
    /// it, never before the return of this function.
    ///
    /// # Errors
    ///
    /// Returns the unmapping if `callback` is [pending](Callback::is_pending) already.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// use topomem::address_space::Callback;
    /// use topomem::{FrameRequest, PageRange, PageSize, Protection, VirtAddr};
    ///
    /// static UNMAPPED: Callback = Callback::new(|page| println!("page {page:#x} is free"), 0x40_0000);
    ///
    /// let space = service.create_space(pin)?;
    /// let page = PageRange::page(VirtAddr::new(0x40_0000)?, PageSize::Size4KiB);
    /// space.map(pin, page, FrameRequest::frame(), Protection::USER_DATA)?;
    /// space.unmap(pin, page)?.detach_then(&UNMAPPED).expect("the callback is not in use");
    /// service.run_pending_work(pin);
    /// assert!(!UNMAPPED.is_pending());
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    ///
    /// [`MemoryService::run_pending_work`]: crate::MemoryService::run_pending_work
    #[allow(clippy::result_large_err)]
    pub fn detach_then(mut self, callback: &'static Callback) -> Result<(), Unmapping<'s, P>> {
        match Callbacks::of(callback) {
            Some(callbacks) => {
                self.parts.park(callbacks);
                Ok(())
            }
            None => Err(self),
        }
    }
}

impl<P: Machine> fmt::Debug for Unmapping<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unmapping")
            .field("pages", &self.parts.pages)
            .field("ticket", &self.parts.wait)
            .field("retired", &self.parts.retired.frame_count(self.parts.core.service.frames()))
            .finish()
    }
}

impl<'s, P: Machine> IntoFuture for Unmapping<'s, P> {
    type Output = ();
    type IntoFuture = Unmapped<'s, P>;

    fn into_future(mut self) -> Unmapped<'s, P> {
        let wait = self.parts.wait.take().map(IntoFuture::into_future);
        let retired = core::mem::replace(&mut self.parts.retired, Retired::NOTHING);
        let Parts { core, pages, .. } = self.parts;
        Unmapped { parts: Parts { core, retired, pages, wait } }
    }
}

/// Not inlined, so a change with an effect saves no registers for the call.
#[cold]
#[inline(never)]
fn pending<'s, P: Machine>(core: &'s SpaceCore<P>, pin: &CpuPin, range: PageRange) -> Ticket<'s, P> {
    core.service.shootdown().pending_in(pin, core.domain(), range)
}

impl<P: Machine> SpaceCore<P> {
    /// Announces `changed`, a recorded change in `pages` answered by an error, and waits until
    /// every CPU has dropped the old translations.
    // Not inlined, so the result of a successful change is built in its final place.
    #[cold]
    #[inline(never)]
    pub(crate) fn wait_for_change<'s>(
        &'s self,
        pin: &CpuPin,
        pages: Pages,
        changed: Changed,
        record: Option<ChangeRecord<'s>>,
    ) {
        Unmapping::announce(self, pin, || range_of_pages(pages), changed, record).wait(pin);
    }
}

/// The future of an [`Unmapping`]. Dropping the future detaches.
#[must_use = "futures do nothing unless polled"]
pub struct Unmapped<'s, P: Machine> {
    parts: Parts<'s, P, Completion<'s, P>>,
}

impl<P: Machine> Future for Unmapped<'_, P> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if let Some(completion) = &mut self.parts.wait
            && Pin::new(completion).poll(context).is_pending()
        {
            return Poll::Pending;
        }
        let platform = *self.parts.core.service.platform();
        let pin = platform.pin();
        // SAFETY: the completion is ready, or nothing had to be awaited.
        unsafe { self.parts.free(&pin) };
        Poll::Ready(())
    }
}

impl<P: Machine> fmt::Debug for Unmapped<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unmapped").field("completion", &self.parts.wait).finish_non_exhaustive()
    }
}
