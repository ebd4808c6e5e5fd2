//! Boxes of one value, and of slices: fallible, and without a global allocator.

use core::alloc::Layout;
use core::fmt;
use core::mem::{self, MaybeUninit};
use core::ptr::NonNull;

use super::OnNode;
use super::owned::{GiveBack, HeapBox, Owner};
use crate::heap::{AllocError, Heap};
use crate::{PageSource, Platform};

/// A value returned for lack of memory.
///
/// ```
/// # mod host { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/host/mod.rs")); }
/// # use host::Host;
/// # use topomem_percpu::{Heap, Platform};
/// # static HEAP: Heap<Host, Host> = Heap::new(Host, Host);
/// # let pin = Host.pin();
/// # HEAP.cpu_online(&pin)?;
/// // `try_box` gives the value back if there is no memory.
/// let number = HEAP.try_box(7_u32).unwrap_or_else(|no_room| panic!("{no_room}"));
/// assert_eq!(*number, 7);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct NoRoom<T> {
    /// The value, unchanged.
    pub value: T,
    /// The cause.
    pub error: AllocError,
}

impl<T> fmt::Debug for NoRoom<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NoRoom").field("error", &self.error).finish_non_exhaustive()
    }
}

impl<T> fmt::Display for NoRoom<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no room for a value of {} bytes: {}", size_of::<T>(), self.error)
    }
}

impl<T> core::error::Error for NoRoom<T> {}

/// A box in a heap.
pub type InHeap<'h, T, P, S> = HeapBox<T, &'h Heap<P, S>>;

/// Returns the layout of a slice.
fn slice<T>(len: usize) -> Result<Layout, AllocError> {
    let (size, align) = (size_of::<T>().saturating_mul(len), align_of::<T>());
    Layout::array::<T>(len).map_err(|_| AllocError::TooLarge { size, align })
}

/// Moves `value` into `memory`, allocated for it.
///
/// # Safety
///
/// The caller owns the memory, which came from `owner` with the value's layout.
pub(super) unsafe fn place<T, O: Owner>(
    memory: Result<NonNull<u8>, AllocError>,
    value: T,
    owner: O,
) -> Result<HeapBox<T, O>, NoRoom<T>> {
    match memory {
        // SAFETY: the caller's promise.
        Ok(memory) => unsafe {
            memory.cast().write(value);
            Ok(HeapBox::from_raw(memory.cast(), owner))
        },
        Err(error) => Err(NoRoom { value, error }),
    }
}

/// The values of a slice during its filling: dropped if the filling unwinds.
struct Filled<T> {
    first: NonNull<T>,
    count: usize,
}

impl<T> Drop for Filled<T> {
    fn drop(&mut self) {
        // SAFETY: that many values were written, and no other holder exists.
        unsafe { NonNull::slice_from_raw_parts(self.first, self.count).drop_in_place() };
    }
}

/// Fills `memory`, allocated for a slice of `len`.
///
/// # Safety
///
/// The caller owns the memory, which came from `owner` with the slice's layout.
unsafe fn fill<T, O: Owner>(
    memory: NonNull<u8>,
    len: usize,
    layout: Layout,
    owner: O,
    mut value: impl FnMut(usize) -> T,
) -> HeapBox<[T], O> {
    let first = memory.cast::<T>();
    let give_back = GiveBack { memory, layout, owner: &owner };
    // Dropped before the memory goes back.
    let mut filled = Filled { first, count: 0 };
    for index in 0..len {
        // SAFETY: the memory has room for that many values.
        unsafe { first.add(index).write(value(index)) };
        filled.count += 1;
    }
    mem::forget(filled);
    mem::forget(give_back);
    // SAFETY: all values were written; the caller's promise.
    unsafe { HeapBox::from_raw(NonNull::slice_from_raw_parts(first, len), owner) }
}

impl<P: Platform, S: PageSource> Heap<P, S> {
    /// Moves `value` into memory of the heap. Cost: an allocation and a move.
    ///
    /// # Errors
    ///
    /// Returns [`NoRoom`], with the value, if there is no memory.
    ///
    /// # Examples
    ///
    /// ```
    /// # use topomem_percpu::Heap;
    /// # mod host { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/host/mod.rs")); }
    /// # use host::Host;
    /// let heap = Heap::new(Host, Host);
    /// let mut counter = heap.try_box(1_u64)?;
    /// *counter += 1;
    /// assert_eq!(counter.into_inner(), 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// A value without a size goes by its address:
    ///
    /// ```
    /// # use topomem_percpu::{Heap, HeapBox};
    /// # mod host { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/host/mod.rs")); }
    /// # use host::Host;
    /// # use std::ptr::NonNull;
    /// let heap = Heap::new(Host, Host);
    /// let (value, owner) = heap.try_box(7_u64)?.into_raw();
    /// // SAFETY: the value and its owner come from a box.
    /// let shown: HeapBox<dyn std::fmt::Display, _> =
    ///     unsafe { HeapBox::from_raw(value as NonNull<dyn std::fmt::Display>, owner) };
    /// assert_eq!(shown.to_string(), "7");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn try_box<T>(&self, value: T) -> Result<InHeap<'_, T, P, S>, NoRoom<T>> {
        // SAFETY: just allocated by the heap, for a value of this type.
        unsafe { place(self.try_alloc(Layout::new::<T>()), value, self) }
    }

    /// Allocates memory for a `T`, all bytes zero. Large values thus need no room on the stack.
    ///
    /// # Errors
    ///
    /// Returns [`AllocError`] if there is no memory, or if `T` is larger than the largest run of
    /// pages.
    ///
    /// # Examples
    ///
    /// ```
    /// # use topomem_percpu::Heap;
    /// # mod host { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/host/mod.rs")); }
    /// # use host::Host;
    /// let heap = Heap::new(Host, Host);
    /// let table = heap.try_box_zeroed::<[u64; 4096]>()?;
    /// // SAFETY: zeroes are numbers.
    /// let table = unsafe { table.assume_init() };
    /// assert!(table.iter().all(|entry| *entry == 0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn try_box_zeroed<T>(&self) -> Result<InHeap<'_, MaybeUninit<T>, P, S>, AllocError> {
        let memory = self.try_alloc_zeroed(Layout::new::<T>())?;
        // SAFETY: just allocated by the heap, for a value of this type; any bytes will do.
        Ok(unsafe { HeapBox::from_raw(memory.cast(), self) })
    }

    /// Allocates memory for `len` values, all bytes zero.
    ///
    /// # Errors
    ///
    /// Returns [`AllocError::OutOfMemory`] if there is no memory, and [`AllocError::TooLarge`] if
    /// the slice is larger than the largest run of pages or than the address space.
    ///
    /// # Examples
    ///
    /// ```
    /// # use topomem_percpu::Heap;
    /// # mod host { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/host/mod.rs")); }
    /// # use host::Host;
    /// let heap = Heap::new(Host, Host);
    /// // SAFETY: zeroes are numbers.
    /// let bytes = unsafe { heap.try_slice_zeroed::<u8>(1000)?.assume_init() };
    /// assert_eq!((bytes.len(), bytes[999]), (1000, 0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn try_slice_zeroed<T>(&self, len: usize) -> Result<InHeap<'_, [MaybeUninit<T>], P, S>, AllocError> {
        let memory = self.try_alloc_zeroed(slice::<T>(len)?)?;
        let values = NonNull::slice_from_raw_parts(memory.cast(), len);
        // SAFETY: just allocated by the heap, for a slice of that length; any bytes will do.
        Ok(unsafe { HeapBox::from_raw(values, self) })
    }

    /// Allocates a slice of `len` values, each made by `value` from its index. The memory is
    /// allocated first, so `value` is called only if the slice has room. If `value` unwinds, the
    /// values made so far are dropped, and the memory is freed.
    ///
    /// # Errors
    ///
    /// As for [`Heap::try_slice_zeroed`].
    ///
    /// # Examples
    ///
    /// ```
    /// # use topomem_percpu::Heap;
    /// # mod host { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/host/mod.rs")); }
    /// # use host::Host;
    /// let heap = Heap::new(Host, Host);
    /// let squares = heap.try_slice(4, |index| index * index)?;
    /// assert_eq!(*squares, [0, 1, 4, 9]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn try_slice<T>(
        &self,
        len: usize,
        value: impl FnMut(usize) -> T,
    ) -> Result<InHeap<'_, [T], P, S>, AllocError> {
        let layout = slice::<T>(len)?;
        // SAFETY: just allocated by the heap, with the slice's layout.
        Ok(unsafe { fill(self.try_alloc(layout)?, len, layout, self, value) })
    }
}

impl<'h, P: Platform, S: PageSource> OnNode<'h, P, S> {
    /// Moves `value` into memory of the node: see [`Heap::try_box`] and [`OnNode::try_alloc`].
    ///
    /// # Errors
    ///
    /// Returns [`NoRoom`], with the value, if there is no memory.
    ///
    /// # Examples
    ///
    /// ```
    /// # use topomem_percpu::{Heap, NodeId};
    /// # mod host { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/host/mod.rs")); }
    /// # use host::Host;
    /// let heap = Heap::new(Host, Host);
    /// let counter = heap.on(NodeId::ZERO)?.try_box(1_u64)?;
    /// assert_eq!(*counter, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn try_box<T>(&self, value: T) -> Result<InHeap<'h, T, P, S>, NoRoom<T>> {
        // SAFETY: just allocated by the heap, for a value of this type.
        unsafe { place(self.try_alloc(Layout::new::<T>()), value, self.heap) }
    }

    /// Allocates a slice on the node: see [`Heap::try_slice`] and [`OnNode::try_alloc`].
    ///
    /// # Errors
    ///
    /// As for [`Heap::try_slice`].
    pub fn try_slice<T>(
        &self,
        len: usize,
        value: impl FnMut(usize) -> T,
    ) -> Result<InHeap<'h, [T], P, S>, AllocError> {
        let layout = slice::<T>(len)?;
        // SAFETY: just allocated by the heap, with the slice's layout.
        Ok(unsafe { fill(self.try_alloc(layout)?, len, layout, self.heap, value) })
    }
}
