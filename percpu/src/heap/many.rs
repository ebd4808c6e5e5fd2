//! Many allocations or frees of one layout in one call: the CPU is pinned, its cell entered and the
//! size's class looked up once for up to a magazine of them.

use core::alloc::Layout;
use core::fmt;
use core::ptr::NonNull;

use super::{AllocError, Heap, InvalidFree, mark_live};
use crate::slab::{CHECKED, SizeClass};
use crate::{PageSource, Platform};

/// Some of many were served, and the next was not. Nothing is lost: what was served stays so, and
/// what was not is as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Partial<E> {
    /// How many were served: the first ones.
    pub served: usize,
    /// Why the next one was not.
    pub error: E,
}

impl<E: fmt::Display> fmt::Display for Partial<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "after {} that were served: {}", self.served, self.error)
    }
}

impl<E: core::error::Error> core::error::Error for Partial<E> {}

/// Most uses of a cell in one go: contexts that interrupt it take the shared path meanwhile.
const AT_ONCE: usize = crate::magazine::MAX_ROUNDS;

impl<P: Platform, S: PageSource> Heap<P, S> {
    /// Allocates memory for `layout` into every place of `into`, as [`Heap::alloc`] does; what the
    /// places held before is overwritten. What the loaded magazine holds costs a few instructions
    /// each.
    ///
    /// # Errors
    ///
    /// [`Partial`], if there is no more memory: the first `served` places hold memory, which is the
    /// caller's; the others are as they were.
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
    /// // SAFETY: allocated with this layout, and not used any more.
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
            // One by any way, and then as many as that left in the magazine.
            *next = self.alloc(layout).map_err(|error| Partial { served, error })?;
            served += 1;
            if let Some(class) = class {
                served += self.pop_many(class, &mut into[served..]);
            }
        }
        Ok(())
    }

    /// Takes objects of `class` out of the loaded magazine, and says how many.
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

    /// Takes memory back that was allocated with `layout`, one after another, as [`Heap::dealloc`]
    /// does. What the loaded magazine has room for costs a few instructions each.
    ///
    /// # Safety
    ///
    /// As for [`Heap::dealloc`], for all of `memory`.
    ///
    /// # Errors
    ///
    /// [`Partial`], if one is refused: the first `served` are freed, the refused one and those
    /// behind it are as they were.
    pub unsafe fn free_many(
        &self,
        layout: Layout,
        memory: &[NonNull<u8>],
    ) -> Result<(), Partial<InvalidFree>> {
        let class = SizeClass::of(layout).filter(|_| layout.size() > 0);
        let mut served = 0;
        while let Some(&next) = memory[served..].first() {
            // One by any way, and then as many as that left room for.
            // SAFETY: the caller's promise.
            unsafe { self.dealloc(next, layout) }.map_err(|error| Partial { served, error })?;
            served += 1;
            if let Some(class) = class {
                // SAFETY: the caller's promise.
                served += unsafe { self.push_many(class, &memory[served..]) };
            }
        }
        Ok(())
    }

    /// Puts objects of `class` into the loaded magazine as long as it has room and none is to be
    /// checked or refused, and says how many.
    ///
    /// # Safety
    ///
    /// As for [`Heap::dealloc`], for all of `memory`, with a layout of that class.
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
