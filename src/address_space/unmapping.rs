//! The ticket for a change that TLBs must hear of.

use core::fmt;
use core::future::{Future, IntoFuture};
use core::pin::Pin;
use core::task::{Context, Poll};

use topomem_percpu::CpuPin;
use topomem_shootdown::{ChangeRecord, Completion, PageRange, Request, Ticket};

use super::core::SpaceCore;
use super::layout::range_of_pages;
use crate::Machine;
use crate::fault::Fault;
use crate::page_table::{Changed, Pages};
use crate::retire::{Callback, Callbacks, Parked, Retired};

/// A change of page tables that other CPUs may not have noticed yet.
///
/// Until it is complete, they may go on using the old translations. It owns the frames and
/// tables that the change took out; they are freed when it completes, and never before:
///
/// - [`Unmapping::wait`] blocks, answering other CPUs' shootdowns meanwhile;
/// - `.await` does not block;
/// - [`Unmapping::detach`], or a drop, leaves the frames to the service task;
/// - [`Unmapping::detach_then`] has it call a function afterwards.
///
/// Forgetting it does not compile cleanly:
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
/// The pinned CPU itself has dropped its own translations when the ticket is made.
#[must_use = "other CPUs may use the old translations until it completes: wait, await or detach"]
pub struct Unmapping<'s, P: Machine> {
    parts: Parts<'s, P, Ticket<'s, P>>,
}

/// What has to be freed, wherever the ticket goes, and the ticket in one of its forms.
struct Parts<'s, P: Machine, W: Pending> {
    core: &'s SpaceCore<P>,
    retired: Retired,
    /// 4 KiB pages that the change affected.
    pages: u64,
    /// `None`: nothing was stale anywhere, or it is complete.
    wait: Option<W>,
}

/// Something that waits for an invalidation.
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
    /// Frees what is retired.
    ///
    /// # Safety
    ///
    /// What was waited for is complete.
    #[inline]
    unsafe fn free(&mut self, pin: &CpuPin) {
        self.wait = None;
        let service = self.core.service;
        if !self.retired.is_empty() {
            // SAFETY: the caller's promise.
            unsafe { self.retired.free(service.frames(), service.walks(), pin) };
        }
    }

    /// Leaves what is retired to the service task, which then has `callbacks` called.
    #[cold]
    fn park(&mut self, callbacks: Callbacks) {
        let retired = core::mem::replace(&mut self.retired, Retired::NOTHING);
        let service = self.core.service;
        // No other context of this CPU gets in while a lock is held.
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
    /// Of a change that was made, and of which `ticket` tells.
    #[inline]
    pub(crate) fn of(
        core: &'s SpaceCore<P>,
        ticket: Option<Ticket<'s, P>>,
        changed: Changed,
    ) -> Unmapping<'s, P> {
        let Changed { retired, pages, .. } = changed;
        Unmapping { parts: Parts { core, retired, pages, wait: ticket } }
    }

    /// Of nothing that changed: complete.
    pub(crate) fn of_nothing(core: &'s SpaceCore<P>) -> Unmapping<'s, P> {
        Unmapping::of(core, None, Changed::NOTHING)
    }

    /// Tells TLBs of `changed`, a change in `range` that was recorded: this CPU's at once, the others'
    /// by interrupts. If there was nothing to change, the ticket is for what is pending in `range`.
    // Always: what was recorded then stays in registers.
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

    /// As [`Unmapping::announce`], unless `fault` is injected: then no TLB hears of the change, and nobody
    /// waits for it.
    #[inline(always)]
    pub(crate) fn announce_unless(
        fault: Fault,
        core: &'s SpaceCore<P>,
        pin: &CpuPin,
        range: PageRange,
        changed: Changed,
        record: Option<ChangeRecord<'s>>,
    ) -> Unmapping<'s, P> {
        if core.service.broken(fault) {
            return Unmapping::of(core, None, changed);
        }
        Unmapping::announce(core, pin, || range, changed, record)
    }

    /// How many 4 KiB pages the change affected.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.parts.pages
    }

    /// Has every CPU dropped the old translations?
    #[must_use]
    pub fn is_complete(&mut self) -> bool {
        self.parts.wait.as_mut().is_none_or(Ticket::is_complete)
    }

    /// Waits until every CPU has dropped the old translations, and frees what was retired.
    ///
    /// Serves this CPU's own shootdown queue meanwhile, so interrupts may be masked.
    // As for `AddressSpace::unmap`.
    #[inline(always)]
    pub fn wait(mut self, pin: &CpuPin) {
        if let Some(ticket) = &mut self.parts.wait {
            ticket.block(pin);
        }
        // SAFETY: the ticket is complete, or there was nothing to wait for.
        unsafe { self.parts.free(pin) };
    }

    /// Frees what was retired if every CPU has dropped the old translations, and returns whether that is so.
    /// Never waits.
    #[must_use]
    #[inline(always)]
    pub fn finish(&mut self, pin: &CpuPin) -> bool {
        if !self.is_complete() {
            return false;
        }
        // SAFETY: the ticket is complete, or there was nothing to wait for.
        unsafe { self.parts.free(pin) };
        true
    }

    /// Waits for nothing: the service task frees what was retired once that is safe. The same
    /// as dropping it, but said aloud.
    pub fn detach(self) {}

    /// As [`Unmapping::detach`], and calls `callback` when every CPU has dropped the old
    /// translations and what was retired is free: from [`MemoryService::tend`], never before this
    /// returns.
    ///
    /// # Errors
    ///
    /// The unmapping comes back where `callback` is [pending](Callback::is_pending) already.
    ///
    /// [`MemoryService::tend`]: crate::MemoryService::tend
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

/// Apart, so that a change that finds something to change saves no registers for it.
#[cold]
#[inline(never)]
fn pending<'s, P: Machine>(core: &'s SpaceCore<P>, pin: &CpuPin, range: PageRange) -> Ticket<'s, P> {
    core.service.shootdown().pending_in(pin, core.domain(), range)
}

impl<P: Machine> SpaceCore<P> {
    /// Tells TLBs of `changed`, a change in `pages` that was recorded and is answered by an error, and waits until
    /// every CPU has dropped the old translations.
    // Apart, so that a change that succeeds is made where its caller wants it.
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

/// The future of an [`Unmapping`]. Dropping it detaches.
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
        // SAFETY: the completion is ready, or there was nothing to wait for.
        unsafe { self.parts.free(&pin) };
        Poll::Ready(())
    }
}

impl<P: Machine> fmt::Debug for Unmapped<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unmapped").field("completion", &self.parts.wait).finish_non_exhaustive()
    }
}
