//! Closing a space in the context of its last user.

use core::fmt;
use core::future::Future;
use core::mem;
use core::pin::Pin;
use core::task::{Context, Poll};

use topomem_percpu::CpuPin;
use topomem_percpu::sync::atomic::Ordering;

use crate::Machine;
use crate::address_space::{AddressSpace, SpaceKind};
use crate::budget::Budget;

/// Greatest work of a step, in leaves and frames freed: a fraction of a millisecond.
const STEP: u64 = 1 << 13;

/// Whether more work is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Done,
    More,
}

/// The end of an address space, begun by [`AddressSpace::close`].
///
/// The caller may wait ([`Closing::wait`]), await, or drop the future. A drop leaves the rest to
/// the service task.
///
/// ```
/// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
/// # booted::run(|service, pin| {
/// let space = service.create_space(pin)?;
/// space.close().wait(pin); // or `.await`; a drop leaves the rest to the service task
/// # Ok(())
/// # }).unwrap();
/// ```
#[must_use = "futures do nothing unless polled"]
pub struct Closing<P: Machine> {
    /// `None` if nothing is left to do, or the service task does the rest.
    space: Option<AddressSpace<P>>,
}

impl<P: Machine> AddressSpace<P> {
    /// Dismantles a user space in the caller's context: its memory is free when the future is
    /// ready. A drop of the future leaves the rest to the service task.
    ///
    /// If a CPU still has the space active, even lazily, or another context is at work on the
    /// space, the future is ready at once, and the service task does the rest. The kernel's space
    /// stays unchanged.
    ///
    /// Each poll does a bounded amount of work, a fraction of a millisecond. Cost of all polls
    /// together: some 30 instructions for each mapped page, and a look at each entry of each table.
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
    /// Waits until the space is gone, or left to the service task. Serves remote CPUs' shootdowns
    /// meanwhile.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// service.create_space(pin)?.close().wait(pin);
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub fn wait(mut self, pin: &CpuPin) {
        while self.step(pin) == Step::More {
            if let Some(space) = &self.space {
                space.core.service.platform().relax();
            }
        }
    }

    /// Does a part of the remaining work.
    fn step(&mut self, pin: &CpuPin) -> Step {
        let Some(core) = self.space.as_ref().map(|space| space.core) else { return Step::Done };
        // Only this handle could let a CPU join, so an idle space stays idle.
        if core.kind == SpaceKind::User && core.domain().is_idle() {
            let collected = core.take_apart(pin, &mut Budget::of(STEP));
            if collected.more && !collected.waiting {
                return Step::More;
            }
            if !collected.waiting {
                // The end is noted here, without a task.
                mem::forget(self.space.take());
                // Release pairs with the Acquire in `MemoryService::free_abandoned_if`.
                core.abandoned.store(true, Ordering::Release);
                core.service.free_abandoned_space(pin, core);
                return Step::Done;
            }
        }
        // Dropped, the space belongs to the service task.
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
