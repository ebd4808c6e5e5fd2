//! Pools: objects of one type, some of them held in reserve.

use core::alloc::Layout;
use core::fmt;
use core::marker::PhantomData;
use core::ptr::NonNull;

use allocator_api2::alloc::Allocator;

use super::boxes::{NoRoom, place};
use super::owned::{HeapBox, Owner};
use super::reserve::{NewBlock, Reserve};
use crate::heap::{AllocError, Heap};
use crate::{PageSource, Platform};

/// A box of a [`Pool`]; its memory returns to the pool.
pub type PoolBox<'p, T, P, S> = HeapBox<T, &'p Pool<'p, T, P, S>>;

/// Objects of one type, in a heap.
///
/// An allocation is an allocation of the heap, with a size class computed at compile time. The pool
/// adds a reserve, like Linux's `mempool`: [`Pool::reserve`] holds back a number of objects, used
/// if the heap has no memory. A box dropped while the reserve is not full goes into the reserve. So
/// as long as at most as many objects of the pool are out as were reserved, no allocation fails, in
/// any context, and with any other use of the memory. (An object counts as out until its drop has
/// returned.)
///
/// Objects in the reserve are live objects in the heap's statistics. A free object keeps nothing of
/// its value: the heap links free objects through their first word.
///
/// ```
/// # mod host { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/host/mod.rs")); }
/// # use host::Host;
/// # use topomem_percpu::{Heap, Platform};
/// # static HEAP: Heap<Host, Host> = Heap::new(Host, Host);
/// # let pin = Host.pin();
/// # HEAP.cpu_online(&pin)?;
/// use topomem_percpu::Pool;
///
/// let pool: Pool<'_, [u64; 4], _, _> = Pool::new(&HEAP);
/// pool.reserve(2)?; // two allocations are certain to succeed
/// let object = pool.alloc([1; 4])?;
/// assert_eq!(object[0], 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Pool<'h, T, P: Platform, S: PageSource> {
    heap: &'h Heap<P, S>,
    reserve: Reserve,
    /// The pool holds memory for objects, but no object.
    objects: PhantomData<fn() -> T>,
}

impl<'h, T, P: Platform, S: PageSource> Pool<'h, T, P, S> {
    const OBJECT: Layout = Layout::new::<T>();

    /// Creates a pool without a reserve.
    ///
    /// # Examples
    ///
    /// ```
    /// # use topomem_percpu::{Heap, Pool};
    /// # mod host { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/host/mod.rs")); }
    /// # use host::Host;
    /// struct Request {
    ///     sector: u64,
    /// }
    ///
    /// static HEAP: Heap<Host, Host> = Heap::new(Host, Host);
    /// static REQUESTS: Pool<Request, Host, Host> = Pool::new(&HEAP);
    ///
    /// // Up to 16 requests may be out at a time without any allocation failing.
    /// REQUESTS.reserve(16)?;
    /// let request = REQUESTS.alloc(Request { sector: 7 })?;
    /// assert_eq!(request.sector, 7);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[cfg(not(loom))]
    #[must_use]
    pub const fn new(heap: &'h Heap<P, S>) -> Pool<'h, T, P, S> {
        Pool { heap, reserve: Reserve::new(), objects: PhantomData }
    }

    /// Creates a pool without a reserve (loom's atomics have no `const` constructor).
    #[cfg(loom)]
    #[must_use]
    pub fn new(heap: &'h Heap<P, S>) -> Pool<'h, T, P, S> {
        Pool { heap, reserve: Reserve::new(), objects: PhantomData }
    }

    /// Returns the heap.
    #[must_use]
    pub const fn heap(&self) -> &'h Heap<P, S> {
        self.heap
    }

    /// Moves `value` into an object of the pool: an object of the heap, or else of the reserve.
    /// Cost: as for [`Heap::try_box`]; from the reserve, a search of its slots.
    ///
    /// # Errors
    ///
    /// Returns [`NoRoom`], with the value, if the heap has no memory and the reserve is used up.
    ///
    /// # Examples
    ///
    /// ```
    /// # use topomem_percpu::{Heap, Pool};
    /// # mod host { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/host/mod.rs")); }
    /// # use host::Host;
    /// let heap = Heap::new(Host, Host);
    /// let numbers = Pool::new(&heap);
    /// let number = numbers.alloc(7_u64)?;
    /// assert_eq!(*number, 7);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn alloc(&self, value: T) -> Result<PoolBox<'_, T, P, S>, NoRoom<T>> {
        let memory = match self.heap.try_alloc(Self::OBJECT) {
            Err(error) => self.reserve.take().ok_or(error),
            memory => memory,
        };
        // SAFETY: the memory is an object of this pool, for a value of this type.
        unsafe { place(memory, value, self) }
    }

    /// Adds `count` objects to the reserve. They stay in the reserve until the pool is dropped, or
    /// serve an allocation and return.
    ///
    /// # Errors
    ///
    /// Returns [`AllocError`] if there is no memory for all of them. The reserve is then unchanged.
    ///
    /// # Examples
    ///
    /// ```
    /// # use topomem_percpu::{Heap, Pool};
    /// # mod host { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/host/mod.rs")); }
    /// # use host::Host;
    /// let heap = Heap::new(Host, Host);
    /// let numbers: Pool<u64, _, _> = Pool::new(&heap);
    /// numbers.reserve(4)?;
    /// assert_eq!((numbers.reserved(), numbers.in_reserve()), (4, 4));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn reserve(&self, count: usize) -> Result<(), AllocError> {
        if count == 0 {
            return Ok(());
        }
        let (size, align) = (usize::MAX, Self::OBJECT.align());
        let layout = NewBlock::layout(count).ok_or(AllocError::TooLarge { size, align })?;
        let memory = self.heap.try_alloc(layout)?;
        // SAFETY: just allocated for that many slots; freed when the block is dissolved.
        let block = unsafe { NewBlock::new(memory, count) };
        for index in 0..count {
            match self.heap.try_alloc(Self::OBJECT) {
                Ok(object) => block.fill(index, object),
                Err(error) => {
                    self.dissolve(block);
                    return Err(error);
                }
            }
        }
        self.reserve.add(block);
        Ok(())
    }

    /// Returns the total number of reserved objects.
    pub fn reserved(&self) -> usize {
        self.reserve.total()
    }

    /// Returns the number of reserved objects that are not out.
    pub fn in_reserve(&self) -> usize {
        self.reserve.spare()
    }

    /// Returns the block and its objects to the heap.
    fn dissolve(&self, block: NewBlock) {
        // SAFETY: the objects belong to the heap, have the pool's layout, and have no holder.
        let free = |object| unsafe { self.heap.deallocate(object, Self::OBJECT) };
        let (memory, len) = block.dissolve(free);
        if let Some(layout) = NewBlock::layout(len) {
            // SAFETY: allocated with the layout; the block is not used any more.
            unsafe { self.heap.deallocate(memory, layout) };
        }
    }
}

impl<T, P: Platform, S: PageSource> Drop for Pool<'_, T, P, S> {
    fn drop(&mut self) {
        while let Some(block) = self.reserve.remove() {
            self.dissolve(block);
        }
    }
}

// SAFETY: the memory goes to the reserve or to the heap, which has no effect on other memory.
unsafe impl<T, P: Platform, S: PageSource> Owner for &Pool<'_, T, P, S> {
    #[inline]
    unsafe fn take_back(&self, memory: NonNull<u8>, layout: Layout) {
        if let Err(memory) = self.reserve.put(memory) {
            // SAFETY: the caller's promise is the same.
            unsafe { self.heap.deallocate(memory, layout) };
        }
    }
}

impl<T, P: Platform, S: PageSource> fmt::Debug for Pool<'_, T, P, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("object_size", &size_of::<T>())
            .field("reserved", &self.reserved())
            .field("in_reserve", &self.in_reserve())
            .finish_non_exhaustive()
    }
}
