//! `core`'s atomics, each access reported first to an [`Observer`]: under `--cfg topomem_count`,
//! for programs that count what production code does to cache lines.
//!
//! Only accesses are reported, not orderings: the models of correctness are loom's.

use core::fmt;
use core::sync::atomic as core_atomic;
use core::sync::atomic::Ordering;

/// One access of one context. The address is the atomic's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// A load is next.
    Load(usize),
    /// A store is next.
    Store(usize),
    /// An atomic read-modify-write is next, even a compare-and-swap that will fail.
    ReadModifyWrite(usize),
    /// The compare-and-swap just done has failed.
    Failed(usize),
}

/// A function called for each access, in the context of the access.
pub type Observer = fn(Access);

/// The installed [`Observer`]; null for none.
static OBSERVER: core_atomic::AtomicPtr<()> = core_atomic::AtomicPtr::new(core::ptr::null_mut());

/// Reports every access from now on to `observer`.
pub fn observe(observer: Observer) {
    // Release pairs with the Acquire in `report`: the observer sees all earlier writes.
    OBSERVER.store(observer as *mut (), Ordering::Release);
}

#[inline]
fn report(access: Access) {
    let observer = OBSERVER.load(Ordering::Acquire);
    if !observer.is_null() {
        // SAFETY: not null, so `observe` stored an `Observer` there.
        let observer: Observer = unsafe { core::mem::transmute::<*mut (), Observer>(observer) };
        observer(access);
    }
}

macro_rules! observed {
    ($(#[$meta:meta])* $name:ident $(<$parameter:ident>)?, $value:ty) => {
        $(#[$meta])*
        #[repr(transparent)]
        pub struct $name $(<$parameter>)? (core_atomic::$name $(<$parameter>)?);

        impl $(<$parameter>)? $name $(<$parameter>)? {
            /// Creates the atomic, as `core`'s `new` does.
            #[must_use]
            pub const fn new(value: $value) -> Self {
                Self(core_atomic::$name::new(value))
            }

            fn address(&self) -> usize {
                core::ptr::from_ref(self).addr()
            }

            /// Loads, as `core`'s `load` does, and reports the access.
            #[inline]
            pub fn load(&self, order: Ordering) -> $value {
                report(Access::Load(self.address()));
                self.0.load(order)
            }

            /// Stores, as `core`'s `store` does, and reports the access.
            #[inline]
            pub fn store(&self, value: $value, order: Ordering) {
                report(Access::Store(self.address()));
                self.0.store(value, order);
            }

            /// Swaps, as `core`'s `swap` does, and reports the access.
            #[inline]
            pub fn swap(&self, value: $value, order: Ordering) -> $value {
                report(Access::ReadModifyWrite(self.address()));
                self.0.swap(value, order)
            }

            /// Exchanges, as `core`'s `compare_exchange` does, and reports the access and a
            /// failure.
            ///
            /// # Errors
            /// Returns the current value if it differs from `current`.
            #[inline]
            pub fn compare_exchange(
                &self,
                current: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                report(Access::ReadModifyWrite(self.address()));
                let result = self.0.compare_exchange(current, new, success, failure);
                if result.is_err() {
                    report(Access::Failed(self.address()));
                }
                result
            }

            /// Exchanges, as [`Self::compare_exchange`] does: it never fails spuriously, so that
            /// counts are repeatable.
            ///
            /// # Errors
            /// Returns the current value if it differs from `current`.
            #[inline]
            pub fn compare_exchange_weak(
                &self,
                current: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                self.compare_exchange(current, new, success, failure)
            }

            /// Updates, as `core`'s `fetch_update` does: a load, then compare-and-swaps until one
            /// succeeds.
            ///
            /// # Errors
            /// Returns the current value if `change` returned `None` for it.
            pub fn fetch_update(
                &self,
                success: Ordering,
                failure: Ordering,
                mut change: impl FnMut($value) -> Option<$value>,
            ) -> Result<$value, $value> {
                let mut current = self.load(failure);
                while let Some(new) = change(current) {
                    match self.compare_exchange(current, new, success, failure) {
                        Ok(before) => return Ok(before),
                        Err(now) => current = now,
                    }
                }
                Err(current)
            }

            /// Returns the value, as `core`'s `get_mut` does, unreported: the access is exclusive.
            pub fn get_mut(&mut self) -> &mut $value {
                self.0.get_mut()
            }
        }

        impl $(<$parameter>)? fmt::Debug for $name $(<$parameter>)? {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

macro_rules! fetches {
    ($name:ident, $value:ty: $($operation:ident),*) => {
        impl $name {
            $(
                /// Changes the value, as `core`'s operation does, and reports the access.
                #[inline]
                pub fn $operation(&self, value: $value, order: Ordering) -> $value {
                    report(Access::ReadModifyWrite(self.address()));
                    self.0.$operation(value, order)
                }
            )*
        }
    };
}

observed!(
    /// `core`'s `AtomicBool`, observed.
    AtomicBool,
    bool
);
observed!(
    /// `core`'s `AtomicPtr`, observed.
    AtomicPtr<T>,
    *mut T
);
fetches!(AtomicBool, bool: fetch_and, fetch_or, fetch_xor);

macro_rules! integer {
    ($name:ident, $value:ty) => {
        observed!(
            #[doc = concat!("`core`'s `", stringify!($name), "`, observed.")]
            $name,
            $value
        );
        impl Default for $name {
            fn default() -> Self {
                Self::new(<$value>::default())
            }
        }
        fetches!($name, $value: fetch_add, fetch_sub, fetch_and, fetch_or, fetch_xor, fetch_max, fetch_min);
    };
}

integer!(AtomicU8, u8);
integer!(AtomicU16, u16);
integer!(AtomicU32, u32);
integer!(AtomicU64, u64);
integer!(AtomicUsize, usize);
