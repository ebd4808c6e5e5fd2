//! Waiting for memory: a queue of futures, first come first served, without allocation.

use core::cell::{Cell, UnsafeCell};
use core::fmt;
use core::future::Future;
use core::marker::PhantomPinned;
use core::pin::Pin;
use core::ptr::NonNull;
use core::task::{Context, Poll, Waker};

use spin::{Mutex, MutexGuard};
use topomem_percpu::Platform;
use topomem_percpu::sync::atomic::{AtomicBool, AtomicU32, Ordering, fence};
use x86_64::structures::paging::PhysFrame;

use super::{AllocError, FrameRequest, Frames};

/// A place in the queue. It lies in the waiting future, which is pinned while it is linked.
#[derive(Debug)]
struct Waiter {
    state: UnsafeCell<WaiterState>,
    _pin: PhantomPinned,
}

/// Reached only with the queue's lock held.
#[derive(Debug)]
struct WaiterState {
    waker: Option<Waker>,
    before: Option<NonNull<Waiter>>,
    after: Option<NonNull<Waiter>>,
    /// Woken, and not polled since.
    notified: bool,
}

/// First and last waiter.
#[derive(Debug)]
struct Queue {
    first: Option<NonNull<Waiter>>,
    last: Option<NonNull<Waiter>>,
}

// SAFETY: the waiters that it points to are reached only through it, under its lock.
unsafe impl Send for Queue {}

/// Who waits for memory.
#[derive(Debug)]
pub(crate) struct Waiters {
    /// How many are in the queue.
    count: AtomicU32,
    /// The first is to be woken. Who cannot get the lock leaves that to who has it, so that
    /// freeing never waits: it may have interrupted the holder.
    due: AtomicBool,
    queue: Mutex<Queue>,
}

/// The state of a waiter.
///
/// # Safety
///
/// `waiter` is linked or being linked, the caller holds the queue's lock, and no other reference
/// to the state lives.
unsafe fn state<'a>(waiter: NonNull<Waiter>) -> &'a mut WaiterState {
    // SAFETY: a linked waiter is pinned, and unlinks before it goes; the lock makes us alone.
    unsafe { &mut *waiter.as_ref().state.get() }
}

impl Queue {
    fn link(&mut self, waiter: NonNull<Waiter>, waker: &Waker) {
        // SAFETY: being linked, under the lock.
        let new = unsafe { state(waiter) };
        new.waker = Some(waker.clone());
        new.before = self.last;
        new.after = None;
        new.notified = false;
        match self.last {
            // SAFETY: linked, and not the new one.
            Some(last) => unsafe { state(last).after = Some(waiter) },
            None => self.first = Some(waiter),
        }
        self.last = Some(waiter);
    }

    fn unlink(&mut self, waiter: NonNull<Waiter>) {
        // SAFETY: linked, under the lock.
        let (before, after) = unsafe {
            let old = state(waiter);
            old.waker = None;
            (old.before.take(), old.after.take())
        };
        match before {
            // SAFETY: linked.
            Some(before) => unsafe { state(before).after = after },
            None => self.first = after,
        }
        match after {
            // SAFETY: linked.
            Some(after) => unsafe { state(after).before = before },
            None => self.last = before,
        }
    }

    /// Notes that `waiter` may try, unless that is noted already: its waker.
    ///
    /// One who has tried notifies the next, so one notification sweeps the queue in order.
    fn notify(&mut self, waiter: Option<NonNull<Waiter>>) -> Option<Waker> {
        // SAFETY: linked, under the lock.
        let waiter = unsafe { state(waiter?) };
        if core::mem::replace(&mut waiter.notified, true) { None } else { waiter.waker.take() }
    }
}

impl Waiters {
    #[cfg(not(loom))]
    pub(crate) const fn new() -> Waiters {
        Waiters {
            count: AtomicU32::new(0),
            due: AtomicBool::new(false),
            queue: Mutex::new(Queue { first: None, last: None }),
        }
    }

    /// loom's atomics have no `const` constructor.
    #[cfg(loom)]
    pub(crate) fn new() -> Waiters {
        Waiters {
            count: AtomicU32::new(0),
            due: AtomicBool::new(false),
            queue: Mutex::new(Queue { first: None, last: None }),
        }
    }

    /// Does anybody wait? SeqCst pairs with the fence in [`AllocFuture`]'s poll: after frames
    /// were given back, either this sees the waiter, or the waiter sees the frames.
    #[inline]
    pub(crate) fn any(&self) -> bool {
        self.count.load(Ordering::SeqCst) != 0
    }

    /// Lets the first waiter try. Never waits for the lock.
    #[inline]
    pub(crate) fn wake_first(&self) {
        if self.any() {
            self.wake_waiting();
        }
    }

    #[cold]
    fn wake_waiting(&self) {
        self.due.store(true, Ordering::SeqCst);
        self.run_due();
    }

    /// Wakes the first waiter if that is due, unless the holder of the lock will.
    fn run_due(&self) {
        // Pairs with a failed `try_lock` after a store: either that saw the lock released, or we
        // see what is due.
        fence(Ordering::SeqCst);
        while self.due.load(Ordering::SeqCst) {
            let Some(mut queue) = self.queue.try_lock() else { return };
            self.due.store(false, Ordering::SeqCst);
            let first = queue.first;
            let waker = queue.notify(first);
            drop(queue);
            if let Some(waker) = waker {
                waker.wake();
            }
            fence(Ordering::SeqCst);
        }
    }

    /// Runs `change` under the lock, then whatever wake-ups came due meanwhile.
    fn locked<P: Platform, R>(&self, platform: &P, change: impl FnOnce(&mut Queue) -> R) -> R {
        let mut queue: MutexGuard<'_, Queue> = loop {
            match self.queue.try_lock() {
                Some(queue) => break queue,
                None => platform.relax(),
            }
        };
        let result = change(&mut queue);
        drop(queue);
        self.run_due();
        result
    }
}

/// Resolves to a run of frames, once there is one. See [`Frames::alloc_async`].
#[must_use = "futures do nothing unless polled"]
pub struct AllocFuture<'f, P: Platform> {
    frames: &'f Frames<P>,
    request: FrameRequest,
    waiter: Waiter,
    /// Is `waiter` in the queue? Ours alone.
    linked: Cell<bool>,
}

// SAFETY: the waiter's pointers are reached under the queue's lock only, from any CPU.
unsafe impl<P: Platform> Send for AllocFuture<'_, P> {}

impl<P: Platform> Frames<P> {
    /// Waits until the request can be served.
    ///
    /// First come, first served: a request that finds others waiting queues behind them. When
    /// memory comes free the first waiter tries; one whose order or nodes cannot be had lets the
    /// next one try. Dropping the future at any time loses no frame: frames stay with the
    /// allocator until a poll returns them. Nothing is allocated, and wakers are called outside
    /// all locks. Poll and drop it in tasks, not in interrupt handlers: they take a short lock.
    pub const fn alloc_async(&self, request: FrameRequest) -> AllocFuture<'_, P> {
        let state = WaiterState { waker: None, before: None, after: None, notified: false };
        let waiter = Waiter { state: UnsafeCell::new(state), _pin: PhantomPinned };
        AllocFuture { frames: self, request, waiter, linked: Cell::new(false) }
    }
}

impl<P: Platform> AllocFuture<'_, P> {
    fn place(&self) -> NonNull<Waiter> {
        NonNull::from(&self.waiter)
    }

    fn attempt(&self) -> Poll<Result<PhysFrame, AllocError>> {
        let pin = self.frames.platform().pin();
        match self.frames.alloc(&pin, &self.request) {
            Err(AllocError::Exhausted { .. } | AllocError::WouldBlock { .. }) => Poll::Pending,
            other => Poll::Ready(other),
        }
    }
}

impl<P: Platform> Future for AllocFuture<'_, P> {
    type Output = Result<PhysFrame, AllocError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &*self;
        let (waiters, platform) = (&this.frames.waiters, this.frames.platform());
        let place = this.place();
        if !this.linked.get() {
            if !waiters.any() {
                let attempt = this.attempt();
                if attempt.is_ready() {
                    return attempt;
                }
            }
            waiters.count.fetch_add(1, Ordering::SeqCst);
            this.linked.set(true);
            waiters.locked(platform, |queue| queue.link(place, context.waker()));
        }
        let (turn, first) = waiters.locked(platform, |queue| {
            // SAFETY: linked, under the lock.
            let own = unsafe { state(place) };
            let notified = core::mem::take(&mut own.notified);
            own.waker = Some(context.waker().clone());
            match queue.first {
                Some(first) if first != place && !notified => (false, queue.notify(Some(first))),
                _ => (true, None),
            }
        });
        if let Some(waker) = first {
            waker.wake();
        }
        // Not before the first; when it cannot be served, it lets the next one try.
        if !turn {
            return Poll::Pending;
        }
        // What magazines hold, or take from now on, is to come out.
        this.frames.drain_all();
        // Pairs with the SeqCst of who frees and then asks `any`.
        fence(Ordering::SeqCst);
        let attempt = this.attempt();
        let next = waiters.locked(platform, |queue| {
            // SAFETY: linked, under the lock.
            let after = unsafe { state(place).after };
            if attempt.is_ready() {
                queue.unlink(place);
                this.linked.set(false);
                waiters.count.fetch_sub(1, Ordering::SeqCst);
            }
            // More may be free, or what is free may do for the next one.
            queue.notify(after)
        });
        if let Some(waker) = next {
            waker.wake();
        }
        attempt
    }
}

impl<P: Platform> Drop for AllocFuture<'_, P> {
    fn drop(&mut self) {
        if !self.linked.get() {
            return;
        }
        let (waiters, place) = (&self.frames.waiters, self.place());
        let next = waiters.locked(self.frames.platform(), |queue| {
            // SAFETY: linked, under the lock.
            let (notified, after) = unsafe {
                let own = state(place);
                (own.notified, own.after)
            };
            queue.unlink(place);
            waiters.count.fetch_sub(1, Ordering::SeqCst);
            // A wake-up that came for this one is the next one's.
            if notified { queue.notify(after) } else { None }
        });
        if let Some(waker) = next {
            waker.wake();
        }
    }
}

impl<P: Platform> fmt::Debug for AllocFuture<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AllocFuture").field("request", &self.request).finish_non_exhaustive()
    }
}
