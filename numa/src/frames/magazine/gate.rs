//! The gate of a magazine: one context of its CPU uses the magazine at a time.

use core::ptr;

use topomem_percpu::PhysFrame;
use topomem_percpu::sync::atomic::{Ordering, compiler_fence};

use super::entry::{Entry, Insertion, barred, closed};
use super::guard::MagazineGuard;
use super::{Checked, Magazine};
use crate::frames::types::Zeroing;

/// Returns true if the near entry, found at the gate, belongs to a magazine that may be used
/// quickly.
#[inline]
pub(super) fn is_open(current: &Entry) -> bool {
    !ptr::eq(current, closed()) && !ptr::eq(current, barred())
}

impl Magazine {
    /// Opens the magazine to its CPU.
    pub(super) fn open(&'static self, checked: Checked, zeroing: Zeroing) {
        self.remember(&self.near[0]);
        if zeroing == Zeroing::OnRequest {
            self.insert_at.store(ptr::from_ref(&self.near[0]).cast_mut(), Ordering::Relaxed);
        }
        let entry = if checked == Checked::EveryUse { barred() } else { &self.near[0] };
        self.current.store(ptr::from_ref(entry).cast_mut(), Ordering::Relaxed);
    }

    /// Passes the current entry to `act`: an entry without frames and without word if the magazine
    /// is in use, or may not be used quickly. The caller is pinned to the magazine's CPU.
    #[inline]
    pub(crate) fn with_current<R>(&self, act: impl FnOnce(&Entry, &Magazine) -> R) -> R {
        // Only contexts of this CPU get here, nested in each other: plain accesses suffice. A handler run between the
        // load and the store has finished; a later handler finds the gate closed.
        let current = self.current.load(Ordering::Relaxed);
        self.current.store(ptr::from_ref(closed()).cast_mut(), Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
        // SAFETY: only `'static` entries are ever stored.
        let result = act(unsafe { &*current }, self);
        compiler_fence(Ordering::SeqCst);
        self.current.store(current, Ordering::Relaxed);
        result
    }

    /// Passes the magazine to `act`. Returns `None` if the magazine is in use, or may not be used quickly. The caller is
    /// pinned to the magazine's CPU.
    #[inline(always)]
    pub(in crate::frames) fn with_open<R>(&self, act: impl FnOnce(&Magazine) -> R) -> Option<R> {
        self.with_current(|entry, magazine| is_open(entry).then(|| act(magazine)))
    }

    /// Passes the last used near entry to `act`, in paranoid mode. Returns `None` in another mode,
    /// or if the magazine is in use, or to be drained. The caller is pinned to the magazine's CPU.
    #[inline(always)]
    pub(super) fn with_checked<R>(&self, act: impl FnOnce(&Entry, &Magazine) -> R) -> Option<R> {
        // As in `with_current`.
        let resting = self.current.load(Ordering::Relaxed);
        if !ptr::eq(resting, barred()) || self.wants_attention() {
            return None;
        }
        self.current.store(ptr::from_ref(closed()).cast_mut(), Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
        // SAFETY: set before the gate first opened, and to `'static` entries only.
        let result = act(unsafe { &*self.last.load(Ordering::Relaxed) }, self);
        compiler_fence(Ordering::SeqCst);
        self.current.store(resting, Ordering::Relaxed);
        Some(result)
    }

    /// Returns the entry at the gate. The caller is pinned to the magazine's CPU.
    #[inline(always)]
    pub(in crate::frames) fn resting(&self) -> &'static Entry {
        let resting = self.current.load(Ordering::Relaxed);
        // SAFETY: only `'static` entries are ever stored.
        unsafe {
            core::hint::assert_unchecked(!resting.is_null());
            &*resting
        }
    }

    /// Begins a use of a magazine that rests at an entry of its own. The caller is pinned to the
    /// magazine's CPU, and ends the use by [`Magazine::leave`].
    #[inline(always)]
    pub(in crate::frames) fn begin(&self) {
        // As in `with_current`.
        self.current.store(ptr::from_ref(closed()).cast_mut(), Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
    }

    /// Frees a frame marked as handed out, if the frame is of the word used last, in paranoid mode, where
    /// the gate is [`barred`]. Returns false, with nothing changed, if the frame is of another word,
    /// or is to be cleared first, or is refused, or if a drain is requested. The caller is pinned to
    /// the magazine's CPU.
    #[inline(always)]
    pub(in crate::frames) fn insert_checked(&self, frame: PhysFrame) -> bool {
        if self.wants_attention() {
            return false;
        }
        self.begin();
        // SAFETY: only `'static` entries are ever stored.
        let inserted = unsafe { &*self.insert_at.load(Ordering::Relaxed) }.add_marked(frame);
        self.leave(barred());
        inserted == Insertion::Taken
    }

    /// Enters the magazine, unless an interrupted context of this CPU uses it. The caller is pinned
    /// to its CPU.
    pub(crate) fn enter(&'static self) -> Option<MagazineGuard> {
        let resting = self.current.load(Ordering::Relaxed);
        if ptr::eq(resting, closed()) {
            return None;
        }
        self.current.store(ptr::from_ref(closed()).cast_mut(), Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
        // SAFETY: only `'static` entries are ever stored.
        Some(MagazineGuard::new(self, unsafe { &*resting }))
    }

    /// Returns the last used entry in paranoid mode: the gate does not tell the entry then.
    pub(super) fn last(&'static self) -> &'static Entry {
        // SAFETY: set before the gate first opened, and to `'static` entries only.
        unsafe { &*self.last.load(Ordering::Relaxed) }
    }

    /// Stores the entry for [`Magazine::last`].
    pub(super) fn remember(&self, entry: &'static Entry) {
        self.last.store(ptr::from_ref(entry).cast_mut(), Ordering::Relaxed);
        if !ptr::eq(self.insert_at.load(Ordering::Relaxed), closed()) {
            self.insert_at.store(ptr::from_ref(entry).cast_mut(), Ordering::Relaxed);
        }
    }

    /// Ends a use.
    #[inline]
    pub(in crate::frames) fn leave(&self, resting: &'static Entry) {
        compiler_fence(Ordering::SeqCst);
        self.current.store(ptr::from_ref(resting).cast_mut(), Ordering::Relaxed);
    }

    /// Asks the owner to drain.
    pub(crate) fn request_drain(&self) {
        self.attention.store(true, Ordering::Release);
    }

    /// Returns true if a drain is requested. Acquire pairs with the Release in `request_drain`: a
    /// context seeing the request sees the waiter.
    pub(crate) fn wants_attention(&self) -> bool {
        self.attention.load(Ordering::Acquire)
    }

    /// Clears the request to drain.
    pub(super) fn forget_request(&self) {
        // Acquire pairs with the Release in `request_drain`: writes before any request handled here
        // are seen from here on.
        self.attention.swap(false, Ordering::Acquire);
    }

    /// Returns true if a context of the magazine's CPU is using the magazine. For a context of the CPU: true
    /// if the context interrupted a use.
    pub(crate) fn is_busy(&self) -> bool {
        ptr::eq(self.current.load(Ordering::Relaxed), closed())
    }
}
