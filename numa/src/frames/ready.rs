//! The allocator once it is built: every operation beyond a magazine hit works on it.

use topomem_percpu::Platform;
use topomem_percpu::sync::atomic::Ordering;

use super::Frames;
use super::state::AllocatorState;

/// A [`Frames`] that is built, with its state. Passed in two registers.
pub(super) struct Ready<'f, P: Platform> {
    pub(super) frames: &'f Frames<P>,
    pub(super) state: &'static AllocatorState,
}

impl<P: Platform> Clone for Ready<'_, P> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<P: Platform> Copy for Ready<'_, P> {}

impl<P: Platform> Frames<P> {
    /// Returns the state, once built.
    #[inline]
    pub(super) fn state(&self) -> Option<&'static AllocatorState> {
        // Acquire pairs with the Release in `init`.
        // SAFETY: null, or the address of a `&'static` from `init`.
        unsafe { self.state.load(Ordering::Acquire).as_ref() }
    }

    /// Returns the allocator with its state, once built.
    #[inline]
    pub(super) fn ready(&self) -> Option<Ready<'_, P>> {
        self.state().map(|state| Ready { frames: self, state })
    }
}
