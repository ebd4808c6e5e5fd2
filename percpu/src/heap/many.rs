//! Many allocations or frees of one layout in one call: the CPU is pinned, its cell entered and the
//! size's class looked up once for up to a magazine of them.

use core::alloc::Layout;
use core::fmt;
use core::ptr::NonNull;

use super::alloc::mark_live;
use super::{AllocError, Heap, InvalidFree};
use crate::slab::{CHECKED, SizeClass};
use crate::{PageSource, Platform};

/// The error of a batch that was served in part. Nothing is lost: the served entries stay served,
/// and the rest is unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Partial<E> {
    /// The number of served entries: the first ones.
    pub served: usize,
    /// The error of the first entry that was not served.
    pub error: E,
}

impl<E: fmt::Display> fmt::Display for Partial<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "after {} that were served: {}", self.served, self.error)
    }
}

impl<E: core::error::Error> core::error::Error for Partial<E> {}

/// The maximum number of uses of a cell at once: contexts that interrupt them take the shared path
/// meanwhile.
const AT_ONCE: usize = 64;

impl<P: Platform, S: PageSource> Heap<P, S> {
    /// Allocates memory for `layout` into every entry of `into`, as [`Heap::try_alloc`] does. Previous
    /// contents of `into` are overwritten. Cost: a few instructions for each object from the loaded
    /// magazine.
    ///
    /// # Errors
    ///
    /// Returns [`Partial`] if there is no more memory. The caller owns the memory in the first
    /// `served` entries; the rest is unchanged.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::alloc::Layout;
    /// # use std::ptr::NonNull;
    /// # use topomem_percpu::{AllocError, Heap, PageSource, Partial, Platform};
    /// # fn example<P: Platform, S: PageSource>(heap: &Heap<P, S>) -> Result<(), Partial<AllocError>> {
    /// let layout = Layout::new::<[u64; 8]>();
    /// let mut objects = [NonNull::dangling(); 32];
    /// heap.alloc_many(layout, &mut objects)?;
    /// // SAFETY: allocated with the layout, and not used any more.
    /// let freed = unsafe { heap.free_many(layout, &objects) };
    /// assert_eq!(freed, Ok(()));
    /// # Ok(())
    /// # }
    /// ```
    #[cfg_attr(feature = "leak-tracking", track_caller)]
    pub fn alloc_many(&self, layout: Layout, into: &mut [NonNull<u8>]) -> Result<(), Partial<AllocError>> {
        let class = SizeClass::of(layout).filter(|_| layout.size() > 0);
        let mut served = 0;
        while let Some(next) = into[served..].first_mut() {
            // One object by any path, and then the objects left in the magazine.
            *next = self.try_alloc(layout).map_err(|error| Partial { served, error })?;
            served += 1;
            if let Some(class) = class {
                served += self.pop_many(class, &mut into[served..]);
            }
        }
        Ok(())
    }

    /// Takes objects of `class` out of the loaded magazine. Returns their number.
    fn pop_many(&self, class: SizeClass, into: &mut [NonNull<u8>]) -> usize {
        #[cfg(feature = "hardening")]
        if self.hardening.is_some() {
            return 0;
        }
        let pin = self.platform.pin();
        let popped = self.caches.with(&pin, |cache| {
            let objects = core::iter::from_fn(|| cache.pop(class));
            into.iter_mut().take(AT_ONCE).zip(objects).map(|(place, object)| *place = object).count()
        });
        let popped = popped.unwrap_or(0);
        if CHECKED {
            into.iter().take(popped).for_each(|&object| mark_live(class, object));
        }
        popped
    }

    /// Frees the memory at each entry, allocated with `layout`, as [`Heap::free`] does. Cost: a
    /// few instructions for each object that fits into the loaded magazine.
    ///
    /// # Safety
    ///
    /// As for [`Heap::free`], for all of `memory`.
    ///
    /// # Errors
    ///
    /// Returns [`Partial`] if a free is refused. The first `served` entries are freed; the refused
    /// entry and those behind it are unchanged.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::alloc::Layout;
    /// # use std::ptr::NonNull;
    /// # use topomem_percpu::Heap;
    /// # mod host { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/host/mod.rs")); }
    /// # use host::Host;
    /// let heap = Heap::new(Host, Host);
    /// let layout = Layout::new::<[u64; 8]>();
    /// let mut objects = [NonNull::dangling(); 4];
    /// heap.alloc_many(layout, &mut objects)?;
    /// // SAFETY: allocated with the layout, and not used any more.
    /// unsafe { heap.free_many(layout, &objects)? };
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub unsafe fn free_many(
        &self,
        layout: Layout,
        memory: &[NonNull<u8>],
    ) -> Result<(), Partial<InvalidFree>> {
        let class = SizeClass::of(layout).filter(|_| layout.size() > 0);
        let mut served = 0;
        while let Some(&next) = memory[served..].first() {
            // One object by any path, and then as many as fit into the magazine. SAFETY: the
            // caller's promise.
            unsafe { self.free(next, layout) }.map_err(|error| Partial { served, error })?;
            served += 1;
            if let Some(class) = class {
                // SAFETY: the caller's promise.
                served += unsafe { self.push_many(class, &memory[served..]) };
            }
        }
        Ok(())
    }

    /// Puts objects of `class` into the loaded magazine as long as it has room and no object is to
    /// be checked or refused. Returns their number.
    ///
    /// # Safety
    ///
    /// As for [`Heap::free`], for all of `memory`, with a layout of that class.
    unsafe fn push_many(&self, class: SizeClass, memory: &[NonNull<u8>]) -> usize {
        if CHECKED {
            return 0;
        }
        let pin = self.platform.pin();
        let pushed = self.caches.with(&pin, |cache| {
            // SAFETY: the caller's promise.
            memory.iter().take(AT_ONCE).take_while(|&&object| unsafe { cache.push(class, object) }).count()
        });
        pushed.unwrap_or(0)
    }
}
