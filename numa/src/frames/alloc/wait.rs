//! Waiting for memory: futures, first come first served, without allocation.

use core::fmt;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll};

use topomem_percpu::sync::atomic::{Ordering, fence};
use topomem_percpu::{CpuId, CpuPin, PhysFrame, Platform};

use crate::frames::Frames;
use crate::frames::state::waiters::{Turn, WaiterId};
use crate::frames::types::{AllocError, FrameRequest, Obstacle};

/// A future that resolves to a run of frames. See [`Frames::alloc_async`].
#[must_use = "futures do nothing unless polled"]
pub struct AllocFuture<'f, P: Platform> {
    frames: &'f Frames<P>,
    request: FrameRequest,
    /// The position among the waiters.
    place: Option<WaiterId>,
}

impl<P: Platform> Frames<P> {
    /// Waits until the request can be served.
    ///
    /// First come, first served: a request queues behind the waiters already present. When memory
    /// is freed, the first waiter is due to be woken, by the kernel's next call of
    /// [`Frames::wake_waiters`]. If a waiter's order or nodes are unavailable, the next waiter
    /// tries. Nothing is allocated: 64 futures can wait at once. A further future wakes itself, so
    /// that it is polled again after other tasks, until it is served or finds a place.
    ///
    /// Dropping the future at any time loses no frame: frames stay with the allocator until a poll
    /// returns them. It may be dropped in any context, also in an interrupt handler: dropping
    /// neither waits nor calls or drops a waker. Poll it in tasks: a poll clones and drops wakers,
    /// with no lock held.
    ///
    /// ```
    /// # mod machine { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/machine.rs")); }
    /// # machine::run(|frames, pin| {
    /// use std::pin::pin;
    /// use std::task::{Context, Poll, Waker};
    /// use topomem_numa::frames::FrameRequest;
    ///
    /// let future = pin!(frames.alloc_async(FrameRequest::frame()));
    /// let frame = future.poll(&mut Context::from_waker(Waker::noop()));
    /// assert!(matches!(frame, Poll::Ready(Ok(_)))); // a frame was free
    /// # use std::future::Future;
    /// # let _ = pin;
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub const fn alloc_async(&self, request: FrameRequest) -> AllocFuture<'_, P> {
        AllocFuture { frames: self, request, place: None }
    }

    /// Allocates as [`Frames::alloc`] does, and waits for a bounded time where that would answer
    /// [`AllocError::WouldBlock`]: for a caller that wants an answer now.
    ///
    /// `interrupt` is called with the number of each CPU with frames for the request in the magazine, once for each
    /// CPU: the closure sends an interrupt, and the interrupt's handler calls [`Frames::service`] to free the frames.
    /// If the closure does nothing, the CPUs drain at the next use that is no quick hit. In between the caller turns through
    /// [`Platform::relax`], `turns` times at most, and is pinned only while it tries.
    ///
    /// Not for interrupt handlers and not with interrupts off, unless `relax` answers the interrupts of `interrupt`: two
    /// CPUs waiting for each other's frames would both wait in vain until the bound.
    ///
    /// # Errors
    ///
    /// As for [`Frames::alloc`]. [`AllocError::WouldBlock`] is returned after the last turn, and at once for
    /// [`Obstacle::Interrupted`], for which waiting is in vain.
    ///
    /// # Examples
    ///
    /// ```
    /// # use core::ptr::NonNull;
    /// # use topomem_numa::frames::{AllocError, FrameRequest, Frames};
    /// # use topomem_percpu::{CpuId, Platform};
    /// # struct Kernel;
    /// # unsafe impl Platform for Kernel {
    /// #     fn current_cpu(&self) -> CpuId { CpuId::BOOT }
    /// #     fn phys_to_virt(&self, _: topomem_percpu::PhysAddr) -> NonNull<u8> { NonNull::dangling() }
    /// # }
    /// # static FRAMES: Frames<Kernel> = Frames::new(Kernel);
    /// # fn send_ipi(_: CpuId) {}
    /// // The interrupt's handler calls `FRAMES.service(&Kernel.pin())`.
    /// let frame = FRAMES.alloc_waiting(&FrameRequest::frame(), 100_000, |cpu| send_ipi(cpu));
    /// # assert_eq!(frame, Err(AllocError::NotReady));
    /// ```
    pub fn alloc_waiting(
        &self,
        request: &FrameRequest,
        turns: u32,
        mut interrupt: impl FnMut(CpuId),
    ) -> Result<PhysFrame, AllocError> {
        let mut asked = false;
        for _ in 0..turns {
            let pin = self.platform().pin();
            match self.alloc(&pin, request) {
                // The request has asked the CPUs to drain.
                Err(AllocError::WouldBlock { why: Obstacle::Held, .. }) if !asked => {
                    asked = true;
                    let others = self.magazines.iter().filter(|other| other.cpu != pin.cpu());
                    others.filter(|other| other.wants_attention()).for_each(|other| interrupt(other.cpu));
                }
                Err(AllocError::WouldBlock { why: Obstacle::Held | Obstacle::InTransit, .. }) => {}
                answer => return answer,
            }
            drop(pin);
            self.platform().relax();
        }
        self.alloc(&self.platform().pin(), request)
    }

    /// Returns true if a future of [`Frames::alloc_async`] waits for frames. Cost: one load.
    #[inline]
    pub fn is_awaited(&self) -> bool {
        self.waiters.any()
    }

    /// Returns true if [`Frames::wake_waiters`] is due. Cost: one load.
    ///
    /// Every operation that frees memory records this: frees, drains, a CPU going offline. None of
    /// them calls a waker.
    #[inline]
    pub fn wakers_due(&self) -> bool {
        self.waiters.is_due()
    }

    /// Wakes the futures of [`Frames::alloc_async`] that are to try. Returns their number.
    ///
    /// Calls and drops wakers, so the caller must not hold a lock that a waker may take. Call it at
    /// the exit of an interrupt, in an idle loop before halting, or in an executor between tasks.
    ///
    /// Bound: one load if nothing is due; otherwise each waiter is woken at most once, with a check
    /// of 64 slots.
    pub fn wake_waiters(&self, _pin: &CpuPin) -> usize {
        if self.waiters.is_due() { self.waiters.wake() } else { 0 }
    }
}

impl<P: Platform> AllocFuture<'_, P> {
    fn attempt(&self, context: &Context<'_>) -> Poll<Result<PhysFrame, AllocError>> {
        let pin = self.frames.platform().pin();
        match self.frames.alloc(&pin, &self.request) {
            // Holders of frames record it when they free them; a context moving frames from one
            // place to another does not.
            Err(AllocError::WouldBlock { why: Obstacle::InTransit | Obstacle::Interrupted, .. }) => {
                context.waker().wake_by_ref();
                Poll::Pending
            }
            Err(AllocError::Exhausted { .. } | AllocError::WouldBlock { .. }) => Poll::Pending,
            other => Poll::Ready(other),
        }
    }

    /// Puts the task's waker into a slot, the first time into a new slot. Returns its turn.
    fn register(&mut self, context: &mut Context<'_>) -> Turn {
        let waiters = &self.frames.waiters;
        // Cloned before any slot is held: cloning may run foreign code.
        let waker = context.waker().clone();
        match self.place {
            Some(place) => waiters.renew(place, waker),
            None => match waiters.join(waker) {
                Ok(place) => {
                    self.place = Some(place);
                    waiters.turn(place)
                }
                Err(_) => Turn::Own,
            },
        }
    }
}

impl<P: Platform> Future for AllocFuture<'_, P> {
    type Output = Result<PhysFrame, AllocError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let waiters = &this.frames.waiters;
        if this.place.is_none() && !waiters.any() {
            let attempt = this.attempt(context);
            if attempt.is_ready() {
                return attempt;
            }
        }
        match this.register(context) {
            Turn::Own => {}
            Turn::Others => return Poll::Pending,
            Turn::Again => {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
        // Frames in magazines, now or later, are to be freed.
        this.frames.drain_all();
        // Pairs with the SeqCst of a free followed by `any`.
        fence(Ordering::SeqCst);
        let attempt = this.attempt(context);
        match this.place {
            Some(place) => {
                waiters.pass_on(place);
                if attempt.is_ready() {
                    waiters.finish(place);
                    this.place = None;
                }
            }
            // No slot was free: no other context will wake it.
            None if attempt.is_pending() => context.waker().wake_by_ref(),
            None => {}
        }
        attempt
    }
}

impl<P: Platform> Drop for AllocFuture<'_, P> {
    fn drop(&mut self) {
        if let Some(place) = self.place.take() {
            self.frames.waiters.leave(place);
        }
    }
}

impl<P: Platform> fmt::Debug for AllocFuture<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AllocFuture").field("request", &self.request).finish_non_exhaustive()
    }
}
