//! The end of a space in the context of its last user.

use core::fmt;
use core::future::Future;
use core::mem;
use core::pin::Pin;
use core::task::{Context, Poll};

use topomem_percpu::CpuPin;
use topomem_percpu::sync::atomic::Ordering;

use super::{AddressSpace, SpaceKind};
use crate::Machine;
use crate::budget::Budget;

/// What one step does at most, in leaves given up and frames freed: a fraction of a millisecond.
const STEP: u64 = 1 << 13;

/// Is there more to do?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Done,
    More,
}

/// The end of an address space, which [`AddressSpace::close`] has begun.
///
/// It may be waited for ([`Closing::wait`]), awaited, or dropped: then the service task does the rest.
#[must_use = "futures do nothing unless polled"]
pub struct Closing<P: Machine> {
    /// `None` once nothing is left to do, or the service task does it.
    space: Option<AddressSpace<P>>,
}

impl<P: Machine> AddressSpace<P> {
    /// Takes a user space apart in the caller's context, so that its memory is free when the future is ready; a
    /// drop leaves that to the service task.
    ///
    /// If a CPU has the space active still, be it lazy, or another context is at work on the space, the future is
    /// ready at once, and the service task does the rest. The kernel's space stays as it is.
    ///
    /// Each poll does a bounded amount of work, a fraction of a millisecond. All polls together cost some 30
    /// instructions for each page that is mapped, and a look at each entry of each table.
    ///
    /// # Example
    ///
    /// ```
    /// # use topomem::sim::Sim;
    /// use topomem::region::MapRequest;
    /// use topomem::CpuId;
    ///
    /// # let sim = Sim::builder().memory(64 << 20).build()?;
    /// # let service = sim.boot_service()?;
    /// # sim.on(CpuId::BOOT, |pin| -> Result<(), Box<dyn std::error::Error>> {
    /// let space = service.create_space(pin)?;
    /// space.mmap(pin, &MapRequest::anonymous(1 << 20))?;
    /// space.close().wait(pin);
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn close(self) -> Closing<P> {
        Closing { space: Some(self) }
    }
}

impl<P: Machine> Closing<P> {
    /// Waits until the space is gone, or left to the service task. Answers other CPUs' shootdowns meanwhile.
    pub fn wait(mut self, pin: &CpuPin) {
        while self.step(pin) == Step::More {
            if let Some(space) = &self.space {
                space.core.service.platform().relax();
            }
        }
    }

    /// Does one part of what is left.
    fn step(&mut self, pin: &CpuPin) -> Step {
        let Some(core) = self.space.as_ref().map(|space| space.core) else { return Step::Done };
        // Only this handle could have a CPU join, so an idle space stays idle.
        if core.kind == SpaceKind::User && core.domain().is_idle() {
            let collected = core.take_apart(pin, &mut Budget::of(STEP));
            if collected.more && !collected.waiting {
                return Step::More;
            }
            if !collected.waiting {
                // Its end is noted here, and for no task.
                mem::forget(self.space.take());
                // Release pairs with the Acquire in `MemoryService::bury`.
                core.abandoned.store(true, Ordering::Release);
                core.service.bury_one(pin, core);
                return Step::Done;
            }
        }
        // Dropped, it is the service task's.
        self.space = None;
        Step::Done
    }
}

impl<P: Machine> Future for Closing<P> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let Some(platform) = self.space.as_ref().map(|space| *space.core.service.platform()) else {
            return Poll::Ready(());
        };
        let pin = platform.pin();
        match self.step(&pin) {
            Step::Done => Poll::Ready(()),
            Step::More => {
                context.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }
}

impl<P: Machine> fmt::Debug for Closing<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Closing").field("space", &self.space).finish()
    }
}
