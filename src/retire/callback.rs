//! Functions to call after frames have retired.

use core::fmt;
use core::ptr;

use topomem_percpu::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

/// A completion callback for kernels without an executor. Tells the kernel of a complete change of
/// mappings: every CPU has dropped the old translations, and the retired frames are free.
///
/// [`Unmapping::detach_then`](crate::Unmapping::detach_then) takes the callback.
/// [`MemoryService::run_pending_work`](crate::MemoryService::run_pending_work) calls it once, with no lock held. From the
/// beginning of the call on, the callback can be used again. A callback needs no allocation.
///
/// ```
/// use topomem::address_space::Callback;
///
/// fn reuse(buffer: usize) {
///     println!("buffer {buffer} is free");
/// }
///
/// static BUFFER_7: Callback = Callback::new(reuse, 7);
/// assert!(!BUFFER_7.is_pending());
/// ```
pub struct Callback {
    function: fn(usize),
    argument: usize,
    /// Whether the callback is in a list.
    pending: AtomicBool,
    /// The next callback of the list. Read and written by the list's owner.
    next: AtomicPtr<Callback>,
}

impl Callback {
    /// Returns a callback to call `function` with `argument`. The argument distinguishes callbacks
    /// with the same function.
    ///
    /// ```
    /// use topomem::address_space::Callback;
    ///
    /// static DONE: Callback = Callback::new(|number| println!("request {number} is complete"), 1);
    /// ```
    #[cfg(not(loom))]
    #[must_use]
    pub const fn new(function: fn(usize), argument: usize) -> Callback {
        Callback {
            function,
            argument,
            pending: AtomicBool::new(false),
            next: AtomicPtr::new(ptr::null_mut()),
        }
    }

    /// Returns whether the callback was passed on and not called yet.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        // Acquire pairs with the Release in `call`.
        self.pending.load(Ordering::Acquire)
    }

    /// Claims the callback for the caller, unless it is in use.
    fn claim(&self) -> bool {
        // Acquire, as in `is_pending`: the last list's use of `next` happened before.
        !self.pending.swap(true, Ordering::Acquire)
    }

    fn call(&self) {
        self.pending.store(false, Ordering::Release);
        (self.function)(self.argument);
    }
}

impl fmt::Debug for Callback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Callback")
            .field("argument", &self.argument)
            .field("pending", &self.is_pending())
            .finish_non_exhaustive()
    }
}

/// A list of claimed callbacks, linked through themselves.
#[must_use = "dropped, its callbacks are never called"]
pub(crate) struct Callbacks {
    first: Option<&'static Callback>,
}

impl Callbacks {
    pub(crate) const NONE: Callbacks = Callbacks { first: None };

    /// Returns a list of `callback`, or `None` if the callback is in a list already.
    pub(crate) fn of(callback: &'static Callback) -> Option<Callbacks> {
        let mut list = Callbacks::NONE;
        callback.claim().then(|| {
            list.push(callback);
            list
        })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// Takes over all of `other`.
    pub(crate) fn append(&mut self, mut other: Callbacks) {
        while let Some(callback) = other.pop() {
            self.push(callback);
        }
    }

    fn push(&mut self, callback: &'static Callback) {
        let next = self.first.map_or(ptr::null_mut(), |next| ptr::from_ref(next).cast_mut());
        // Relaxed: a list has a single owner at a time, and passes to the next through a lock or
        // the Release of `Due::add`.
        callback.next.store(next, Ordering::Relaxed);
        self.first = Some(callback);
    }

    fn pop(&mut self) -> Option<&'static Callback> {
        let callback = self.first?;
        // SAFETY: null, or from `push`: a `&'static Callback`.
        self.first = unsafe { callback.next.load(Ordering::Relaxed).as_ref() };
        Some(callback)
    }
}

/// The callbacks due in a service, until a context may call them.
pub(crate) struct Due {
    first: AtomicPtr<Callback>,
}

impl Due {
    #[cfg(not(loom))]
    pub(crate) const fn new() -> Due {
        Due { first: AtomicPtr::new(ptr::null_mut()) }
    }

    /// Adds all of `list`; never blocks.
    pub(crate) fn add(&self, mut list: Callbacks) {
        while let Some(callback) = list.pop() {
            let new = ptr::from_ref(callback).cast_mut();
            let mut first = self.first.load(Ordering::Relaxed);
            loop {
                callback.next.store(first, Ordering::Relaxed);
                // Release pairs with the Acquire in `call`: the link is visible. No context takes a
                // part of the list, so an unchanged first callback has an unchanged next callback.
                match self.first.compare_exchange_weak(first, new, Ordering::Release, Ordering::Relaxed) {
                    Ok(_) => break,
                    Err(now) => first = now,
                }
            }
        }
    }

    /// Returns whether no callback is due. Relaxed: a hint.
    pub(crate) fn is_empty(&self) -> bool {
        self.first.load(Ordering::Relaxed).is_null()
    }

    /// Calls all due callbacks.
    pub(crate) fn call(&self) {
        if self.is_empty() {
            return;
        }
        let first = self.first.swap(ptr::null_mut(), Ordering::Acquire);
        // SAFETY: null, or from `add`: a `&'static Callback`.
        let mut list = Callbacks { first: unsafe { first.as_ref() } };
        while let Some(callback) = list.pop() {
            callback.call();
        }
    }
}
