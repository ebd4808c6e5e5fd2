//! The ticket for a change that TLBs must hear of.

use core::fmt;
use core::future::{Future, IntoFuture};
use core::pin::Pin;
use core::task::{Context, Poll};

use topomem_percpu::CpuPin;
use topomem_shootdown::{Completion, Ticket};

use super::core::SpaceCore;
use crate::Machine;
use crate::retire::Retired;

/// A change of page tables that other CPUs may not have noticed yet.
///
/// Until it is complete, they may go on using the old translations. It owns the frames and
/// tables that the change took out; they are freed when it completes, and never before:
///
/// - [`Unmapping::wait`] blocks, answering other CPUs' shootdowns meanwhile;
/// - `.await` does not block;
/// - [`Unmapping::detach`], or a drop, leaves the frames to the service task.
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
    parts: Parts<'s, P>,
    /// `None`: nothing was stale anywhere.
    ticket: Option<Ticket<'s, P>>,
}

/// What has to be freed, wherever the ticket goes.
struct Parts<'s, P: Machine> {
    core: &'s SpaceCore<P>,
    retired: Retired,
    request: Option<topomem_shootdown::Request>,
    pages: u64,
}

impl<P: Machine> Parts<'_, P> {
    /// Frees what is retired.
    ///
    /// # Safety
    ///
    /// `request` is done.
    #[inline]
    unsafe fn free(&mut self, pin: &CpuPin) {
        self.request = None;
        let service = self.core.service;
        // SAFETY: the caller's promise.
        unsafe { self.retired.free(service.frames(), service.walks(), pin) };
    }

    /// Leaves what is retired to the service task.
    #[cold]
    fn park(&mut self) {
        let retired = core::mem::replace(&mut self.retired, Retired::NOTHING);
        let service = self.core.service;
        // No other context of this CPU gets in while a lock is held.
        let pin = service.platform().pin();
        self.core.park(self.request, retired);
        service.call_task(&pin);
    }
}

impl<P: Machine> Drop for Parts<'_, P> {
    #[inline]
    fn drop(&mut self) {
        if !self.retired.is_empty() {
            self.park();
        }
    }
}

impl<'s, P: Machine> Unmapping<'s, P> {
    #[inline]
    pub(super) fn new(
        core: &'s SpaceCore<P>,
        ticket: Option<Ticket<'s, P>>,
        retired: Retired,
        pages: u64,
    ) -> Unmapping<'s, P> {
        let request = ticket.as_ref().map(Ticket::request);
        Unmapping { parts: Parts { core, retired, request, pages }, ticket }
    }

    /// How many 4 KiB pages the change affected.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.parts.pages
    }

    /// Has every CPU dropped the old translations?
    #[must_use]
    pub fn is_complete(&mut self) -> bool {
        self.ticket.as_mut().is_none_or(Ticket::is_complete)
    }

    /// Waits until every CPU has dropped the old translations, and frees what was retired.
    ///
    /// Serves this CPU's own shootdown queue meanwhile, so interrupts may be masked.
    #[inline]
    pub fn wait(mut self, pin: &CpuPin) {
        if let Some(ticket) = &mut self.ticket {
            ticket.block(pin);
        }
        // SAFETY: the ticket is complete, or there was nothing to wait for.
        unsafe { self.parts.free(pin) };
    }

    /// Waits for nothing: the service task frees what was retired once that is safe. The same
    /// as dropping it, but said aloud.
    pub fn detach(self) {}
}

impl<P: Machine> fmt::Debug for Unmapping<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unmapping")
            .field("pages", &self.parts.pages)
            .field("request", &self.parts.request)
            .field("retired", &self.parts.retired.frame_count())
            .finish()
    }
}

impl<'s, P: Machine> IntoFuture for Unmapping<'s, P> {
    type Output = ();
    type IntoFuture = Unmapped<'s, P>;

    fn into_future(self) -> Unmapped<'s, P> {
        Unmapped { parts: self.parts, completion: self.ticket.map(IntoFuture::into_future) }
    }
}

/// The future of an [`Unmapping`]. Dropping it detaches.
#[must_use = "futures do nothing unless polled"]
pub struct Unmapped<'s, P: Machine> {
    parts: Parts<'s, P>,
    completion: Option<Completion<'s, P>>,
}

impl<P: Machine> Future for Unmapped<'_, P> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if let Some(completion) = &mut self.completion {
            if Pin::new(completion).poll(context).is_pending() {
                return Poll::Pending;
            }
            self.completion = None;
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
        f.debug_struct("Unmapped").field("request", &self.parts.request).finish_non_exhaustive()
    }
}
