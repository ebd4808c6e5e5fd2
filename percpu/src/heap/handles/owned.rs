//! A value in memory that is freed automatically.

use core::alloc::Layout;
use core::mem::{ManuallyDrop, MaybeUninit};
use core::ops::{Deref, DerefMut};
use core::pin::Pin;
use core::ptr::{self, NonNull};
use core::{fmt, marker};

use crate::heap::Heap;
use crate::{PageSource, Platform};

/// The owner of a box's memory: a reference to a [`Heap`], or to a [`Pool`](crate::Pool).
///
/// # Safety
///
/// `take_back` has no effect on other memory than the given memory.
pub unsafe trait Owner {
    /// Frees memory. Never fails, waits or runs foreign code.
    ///
    /// # Safety
    ///
    /// The memory came from this owner, for this layout, and is not used any more.
    unsafe fn take_back(&self, memory: NonNull<u8>, layout: Layout);
}

// SAFETY: a heap's free.
unsafe impl<P: Platform, S: PageSource> Owner for &Heap<P, S> {
    #[inline]
    unsafe fn take_back(&self, memory: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller's promise is the same.
        unsafe { allocator_api2::alloc::Allocator::deallocate(*self, memory, layout) };
    }
}

/// A value in memory of a heap or a pool. Dropping the box drops the value, and returns the memory
/// to its owner `O`.
///
/// Created by [`Heap::try_box`] and its relatives. None of them panics: a shortage of memory is an
/// error.
///
/// ```
/// # mod host { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/host/mod.rs")); }
/// # use host::Host;
/// # use topomem_percpu::{Heap, Platform};
/// # static HEAP: Heap<Host, Host> = Heap::new(Host, Host);
/// # let pin = Host.pin();
/// # HEAP.cpu_online(&pin)?;
/// let number = HEAP.try_box(7_u32)?;
/// assert_eq!(*number, 7);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct HeapBox<T: ?Sized, O: Owner> {
    /// Points to memory of the owner, allocated for the layout of the value, with the box as its
    /// only user.
    value: NonNull<T>,
    owner: O,
    owns: marker::PhantomData<T>,
}

// SAFETY: the box is the value's only holder, and the owner is sent along.
unsafe impl<T: ?Sized + Send, O: Owner + Send> Send for HeapBox<T, O> {}
// SAFETY: a shared box gives only shared references to the value and the owner.
unsafe impl<T: ?Sized + Sync, O: Owner + Sync> Sync for HeapBox<T, O> {}

impl<T: ?Sized, O: Owner> HeapBox<T, O> {
    /// Creates a box from memory that [`HeapBox::into_raw`] returned.
    ///
    /// # Safety
    ///
    /// `value` points to a valid value in memory of `owner`, allocated for the value's layout. From
    /// here on the box owns the memory.
    pub const unsafe fn from_raw(value: NonNull<T>, owner: O) -> HeapBox<T, O> {
        HeapBox { value, owner, owns: marker::PhantomData }
    }

    /// Releases the memory, with the value in it, to the caller until [`HeapBox::from_raw`].
    ///
    /// # Examples
    ///
    /// ```
    /// # use topomem_percpu::{Heap, HeapBox};
    /// # mod host { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/host/mod.rs")); }
    /// # use host::Host;
    /// let heap = Heap::new(Host, Host);
    /// let (value, owner) = heap.try_box(7_u64)?.into_raw();
    /// // SAFETY: the value and its owner come from a box.
    /// let again = unsafe { HeapBox::from_raw(value, owner) };
    /// assert_eq!(*again, 7);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn into_raw(self) -> (NonNull<T>, O) {
        let this = ManuallyDrop::new(self);
        // SAFETY: the box is not dropped, so the owner is moved out once.
        (this.value, unsafe { ptr::read(&raw const this.owner) })
    }

    /// Returns the owner of the memory.
    pub const fn owner(&self) -> &O {
        &self.owner
    }

    /// Pins the value in place until the box is dropped.
    ///
    /// # Examples
    ///
    /// ```
    /// # use topomem_percpu::Heap;
    /// # mod host { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/host/mod.rs")); }
    /// # use host::Host;
    /// let heap = Heap::new(Host, Host);
    /// let pinned = heap.try_box(7_u64)?.into_pin();
    /// assert_eq!(*pinned, 7);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn into_pin(self) -> Pin<HeapBox<T, O>> {
        // SAFETY: the value moves only by being taken out of the box, which a pinned box forbids.
        unsafe { Pin::new_unchecked(self) }
    }
}

impl<T, O: Owner> HeapBox<T, O> {
    /// Moves the value out, and frees the memory.
    ///
    /// # Examples
    ///
    /// ```
    /// # use topomem_percpu::Heap;
    /// # mod host { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/host/mod.rs")); }
    /// # use host::Host;
    /// let heap = Heap::new(Host, Host);
    /// assert_eq!(heap.try_box(7_u64)?.into_inner(), 7);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn into_inner(self) -> T {
        let (value, owner) = self.into_raw();
        // SAFETY: the value is valid and owned; its memory came from the owner, and is not used any
        // more.
        unsafe {
            let inner = value.read();
            owner.take_back(value.cast(), Layout::new::<T>());
            inner
        }
    }
}

impl<T, O: Owner> HeapBox<MaybeUninit<T>, O> {
    /// Converts initialised bytes to the value.
    ///
    /// # Safety
    ///
    /// The bytes are a valid value.
    pub unsafe fn assume_init(self) -> HeapBox<T, O> {
        let (value, owner) = self.into_raw();
        // SAFETY: the caller's promise; both have the same layout.
        unsafe { HeapBox::from_raw(value.cast(), owner) }
    }

    /// Writes the value.
    ///
    /// # Examples
    ///
    /// ```
    /// # use topomem_percpu::Heap;
    /// # mod host { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/host/mod.rs")); }
    /// # use host::Host;
    /// let heap = Heap::new(Host, Host);
    /// let filled = heap.try_box_zeroed::<u64>()?.write(7);
    /// assert_eq!(*filled, 7);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn write(mut self, value: T) -> HeapBox<T, O> {
        (*self).write(value);
        // SAFETY: the value was just written.
        unsafe { self.assume_init() }
    }
}

impl<T, O: Owner> HeapBox<[MaybeUninit<T>], O> {
    /// Converts initialised bytes to the values.
    ///
    /// # Safety
    ///
    /// The bytes of every element are a valid value.
    pub unsafe fn assume_init(self) -> HeapBox<[T], O> {
        let (values, owner) = self.into_raw();
        let values = NonNull::slice_from_raw_parts(values.cast(), values.len());
        // SAFETY: the caller's promise; both have the same layout.
        unsafe { HeapBox::from_raw(values, owner) }
    }
}

impl<T: ?Sized, O: Owner> Drop for HeapBox<T, O> {
    fn drop(&mut self) {
        let layout = Layout::for_value::<T>(&**self);
        let give_back = GiveBack { memory: self.value.cast(), layout, owner: &self.owner };
        // SAFETY: the value is valid, and has no other user. If its own drop unwinds, the memory is
        // freed all the same.
        unsafe { self.value.drop_in_place() };
        drop(give_back);
    }
}

/// Memory freed when this guard is dropped, also by unwinding.
pub(super) struct GiveBack<'o, O: Owner> {
    pub(super) memory: NonNull<u8>,
    pub(super) layout: Layout,
    pub(super) owner: &'o O,
}

impl<O: Owner> Drop for GiveBack<'_, O> {
    fn drop(&mut self) {
        // SAFETY: the maker of the guard releases the memory, which came from the owner with this
        // layout.
        unsafe { self.owner.take_back(self.memory, self.layout) };
    }
}

impl<T: ?Sized, O: Owner> Deref for HeapBox<T, O> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the box holds a valid value.
        unsafe { self.value.as_ref() }
    }
}

impl<T: ?Sized, O: Owner> DerefMut for HeapBox<T, O> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the box holds a valid value, and is borrowed exclusively.
        unsafe { self.value.as_mut() }
    }
}

/// The value stays in place when the box moves.
impl<T: ?Sized, O: Owner> Unpin for HeapBox<T, O> {}

impl<T: ?Sized + fmt::Debug, O: Owner> fmt::Debug for HeapBox<T, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T: ?Sized + fmt::Display, O: Owner> fmt::Display for HeapBox<T, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}
