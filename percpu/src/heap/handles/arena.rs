//! An arena: memory handed out front to back, and freed as a whole.

use core::alloc::Layout;
use core::cell::Cell;
use core::fmt;
use core::ptr::NonNull;

use allocator_api2::alloc::Allocator;

use super::boxes::NoRoom;
use crate::heap::{AllocError, Heap};
use crate::{PageSource, Platform};

/// The bytes of the first chunk. Each further chunk is twice as large as the chunk before, up to
/// [`MAX_CHUNK`].
const FIRST_CHUNK: usize = 4096;
const MAX_CHUNK: usize = 64 * 1024;

/// The header at the start of a chunk.
struct Chunk {
    /// The chunk allocated before.
    previous: Option<NonNull<Chunk>>,
    /// The chunk's own layout.
    layout: Layout,
}

/// A position in an arena, for [`Arena::rewind`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkpoint {
    chunk: Option<NonNull<Chunk>>,
    next: usize,
}

/// The checkpoint is not from this arena, or memory from before the checkpoint was freed since.
/// Nothing has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StaleCheckpoint;

impl fmt::Display for StaleCheckpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the arena has no memory from before the checkpoint")
    }
}

impl core::error::Error for StaleCheckpoint {}

/// A bump arena over chunks of a heap.
///
/// An allocation advances an address. A new chunk is one allocation of the heap: 4 KiB at first, at
/// most 64 KiB, or as large as a larger allocation needs. Single allocations are never freed;
/// [`Arena::reset`] frees all of them. An arena belongs to one context: it is not `Sync`.
///
/// # Examples
///
/// ```
/// # use topomem_percpu::{Arena, Heap};
/// # mod host { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/host/mod.rs")); }
/// # use host::Host;
/// let heap = Heap::new(Host, Host);
/// let mut arena = Arena::new(&heap);
/// for _request in 0..3 {
///     let counter = arena.alloc(1_u32)?;
///     let name = arena.alloc_bytes(b"disk 0")?;
///     *counter += 1;
///     assert_eq!((*counter, name.len()), (2, 6));
///     arena.reset();
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Arena<'h, P: Platform, S: PageSource> {
    heap: &'h Heap<P, S>,
    /// The newest chunk; each chunk links to the chunk before.
    chunk: Cell<Option<NonNull<Chunk>>>,
    /// The address in the newest chunk behind the memory handed out.
    next: Cell<usize>,
}

// SAFETY: the arena owns its chunks, and nothing in them is tied to a context or CPU. References to
// memory handed out borrow the arena, so there are none while it moves.
unsafe impl<P: Platform, S: PageSource> Send for Arena<'_, P, S> where Heap<P, S>: Sync {}

impl<'h, P: Platform, S: PageSource> Arena<'h, P, S> {
    /// Creates an arena without memory.
    #[must_use]
    pub const fn new(heap: &'h Heap<P, S>) -> Arena<'h, P, S> {
        Arena { heap, chunk: Cell::new(None), next: Cell::new(0) }
    }

    /// Returns memory for `layout`: aligned, uninitialised, owned by the caller until the arena is
    /// reset, rewound to an earlier position, or dropped.
    ///
    /// # Errors
    ///
    /// Returns [`AllocError`] if a new chunk is needed and the heap has no memory for it. The arena
    /// is unchanged.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::alloc::Layout;
    /// # use topomem_percpu::{Arena, Heap};
    /// # mod host { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/host/mod.rs")); }
    /// # use host::Host;
    /// let heap = Heap::new(Host, Host);
    /// let arena = Arena::new(&heap);
    /// let memory = arena.alloc_layout(Layout::from_size_align(24, 64)?)?;
    /// assert_eq!(memory.addr().get() % 64, 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn alloc_layout(&self, layout: Layout) -> Result<NonNull<u8>, AllocError> {
        if let Some(memory) = self.bump(layout) {
            return Ok(memory);
        }
        self.grow(layout)?;
        let (size, align) = (layout.size(), layout.align());
        // The new chunk was sized for this layout.
        self.bump(layout).ok_or(AllocError::TooLarge { size, align })
    }

    /// Moves `value` into the arena. The compiler refuses values with a destructor, since nothing
    /// in an arena is dropped.
    ///
    /// # Errors
    ///
    /// Returns [`NoRoom`], with the value, if a new chunk is needed and the heap has no memory for
    /// it.
    ///
    /// # Examples
    ///
    /// A value with a destructor does not compile:
    ///
    /// ```compile_fail
    /// # use topomem_percpu::{Arena, Heap};
    /// # mod host { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/host/mod.rs")); }
    /// # use host::Host;
    /// let heap = Heap::new(Host, Host);
    /// let arena = Arena::new(&heap);
    /// arena.alloc(String::new()).unwrap();
    /// ```
    // Each call returns other memory.
    #[allow(clippy::mut_from_ref)]
    pub fn alloc<T>(&self, value: T) -> Result<&mut T, NoRoom<T>> {
        const { assert!(!core::mem::needs_drop::<T>(), "nothing in an arena is dropped") };
        match self.alloc_layout(Layout::new::<T>()) {
            // SAFETY: the memory has a `T`'s layout, and no other user as long as the arena is
            // borrowed.
            Ok(memory) => unsafe {
                let mut place = memory.cast();
                place.write(value);
                Ok(place.as_mut())
            },
            Err(error) => Err(NoRoom { value, error }),
        }
    }

    /// Copies `bytes` into the arena.
    ///
    /// # Errors
    ///
    /// Returns [`AllocError`] if a new chunk is needed and the heap has no memory for it.
    // Each call returns other memory.
    #[allow(clippy::mut_from_ref)]
    pub fn alloc_bytes(&self, bytes: &[u8]) -> Result<&mut [u8], AllocError> {
        let memory = self.alloc_layout(Layout::for_value(bytes))?;
        // SAFETY: the memory has that many bytes, and no other user as long as the arena is
        // borrowed.
        unsafe {
            memory.copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len());
            Ok(NonNull::slice_from_raw_parts(memory, bytes.len()).as_mut())
        }
    }

    /// Frees all memory handed out. The newest chunk, mostly the largest, stays for later
    /// allocations; the older chunks go back to the heap.
    ///
    /// # Examples
    ///
    /// ```
    /// # use topomem_percpu::{Arena, Heap};
    /// # mod host { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/host/mod.rs")); }
    /// # use host::Host;
    /// let heap = Heap::new(Host, Host);
    /// let mut arena = Arena::new(&heap);
    /// let first = arena.alloc(1_u64)? as *mut u64;
    /// arena.reset();
    /// assert_eq!(arena.alloc(2_u64)? as *mut u64, first);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn reset(&mut self) {
        let Some(newest) = self.chunk.get() else { return };
        // SAFETY: the arena's own chunk.
        let previous = unsafe { (*newest.as_ptr()).previous.take() };
        self.free_from(previous, None);
        self.next.set(first(newest));
    }

    /// Returns the arena's current position.
    ///
    /// ```
    /// # mod host { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/host/mod.rs")); }
    /// # use host::Host;
    /// # use topomem_percpu::{Heap, Platform};
    /// # static HEAP: Heap<Host, Host> = Heap::new(Host, Host);
    /// # let pin = Host.pin();
    /// # HEAP.cpu_online(&pin)?;
    /// use topomem_percpu::Arena;
    ///
    /// let mut arena = Arena::new(&HEAP);
    /// let start = arena.checkpoint();
    /// arena.alloc(7_u32)?;
    /// arena.rewind(start)?; // the word is free again
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn checkpoint(&self) -> Checkpoint {
        Checkpoint { chunk: self.chunk.get(), next: self.next.get() }
    }

    /// Frees the memory handed out since `checkpoint`. Memory handed out before stays with the
    /// caller (as addresses: references end with the exclusive borrow). Chunks added since go back
    /// to the heap.
    ///
    /// # Errors
    ///
    /// Returns [`StaleCheckpoint`] if the checkpoint is not from this arena, or if memory from
    /// before the checkpoint was freed since.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::alloc::Layout;
    /// # use topomem_percpu::{Arena, Heap};
    /// # mod host { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/host/mod.rs")); }
    /// # use host::Host;
    /// let heap = Heap::new(Host, Host);
    /// let mut arena = Arena::new(&heap);
    /// let kept = arena.alloc_layout(Layout::new::<u64>())?;
    /// let place = arena.checkpoint();
    /// let given_back = arena.alloc_layout(Layout::new::<u64>())?;
    /// arena.rewind(place)?;
    /// assert_eq!(arena.alloc_layout(Layout::new::<u64>())?, given_back);
    /// # let _ = kept;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn rewind(&mut self, checkpoint: Checkpoint) -> Result<(), StaleCheckpoint> {
        let newest = self.chunk.get();
        if newest == checkpoint.chunk {
            // No memory behind this position was handed out before the checkpoint.
            if checkpoint.next > self.next.get() {
                return Err(StaleCheckpoint);
            }
        } else if !self.has(checkpoint) {
            return Err(StaleCheckpoint);
        }
        self.free_from(newest, checkpoint.chunk);
        self.chunk.set(checkpoint.chunk);
        self.next.set(checkpoint.next);
        Ok(())
    }

    /// Returns the number of bytes of the heap held by the arena.
    ///
    /// # Examples
    ///
    /// ```
    /// # use topomem_percpu::{Arena, Heap};
    /// # mod host { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/host/mod.rs")); }
    /// # use host::Host;
    /// let heap = Heap::new(Host, Host);
    /// let arena = Arena::new(&heap);
    /// assert_eq!(arena.held_bytes(), 0);
    /// arena.alloc(1_u8)?;
    /// assert_eq!(arena.held_bytes(), 4096);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn held_bytes(&self) -> usize {
        // SAFETY: the arena's own chunks.
        self.chunks().map(|chunk| unsafe { chunk.as_ref() }.layout.size()).sum()
    }

    /// Returns the chunks, newest first.
    fn chunks(&self) -> impl Iterator<Item = NonNull<Chunk>> {
        // SAFETY: the arena's own chunks.
        core::iter::successors(self.chunk.get(), |chunk| unsafe { chunk.as_ref() }.previous)
    }

    /// Returns true if the checkpoint lies in a chunk of the arena, or at the arena's beginning.
    fn has(&self, checkpoint: Checkpoint) -> bool {
        match checkpoint.chunk {
            Some(chunk) => self.chunks().any(|known| known == chunk),
            None => true,
        }
    }

    /// Hands out memory of the newest chunk, if enough is left.
    fn bump(&self, layout: Layout) -> Option<NonNull<u8>> {
        let chunk = self.chunk.get()?;
        let start = self.next.get().checked_next_multiple_of(layout.align())?;
        let next = start.checked_add(layout.size())?;
        if next > end(chunk) {
            return None;
        }
        self.next.set(next);
        // SAFETY: inside the chunk.
        Some(unsafe { chunk.cast::<u8>().add(start - chunk.addr().get()) })
    }

    /// Adds a chunk with room for `layout`.
    #[cold]
    fn grow(&self, layout: Layout) -> Result<(), AllocError> {
        let previous = self.chunk.get();
        // SAFETY: the arena's own chunk.
        let last = previous.map(|chunk| unsafe { chunk.as_ref() }.layout.size());
        let usual = last.map_or(FIRST_CHUNK, |size| size.saturating_mul(2).clamp(FIRST_CHUNK, MAX_CHUNK));
        let (size, align) = (layout.size(), layout.align());
        let (whole, _) =
            Layout::new::<Chunk>().extend(layout).map_err(|_| AllocError::TooLarge { size, align })?;
        let chunk_layout = Layout::from_size_align(whole.size().max(usual), whole.align())
            .map_err(|_| AllocError::TooLarge { size, align })?;
        let chunk = self.heap.try_alloc(chunk_layout)?.cast::<Chunk>();
        // SAFETY: just allocated, large enough for the head.
        unsafe { chunk.write(Chunk { previous, layout: chunk_layout }) };
        self.chunk.set(Some(chunk));
        self.next.set(first(chunk));
        Ok(())
    }

    /// Frees the chunks from `chunk` on that are newer than `last`.
    fn free_from(&mut self, mut chunk: Option<NonNull<Chunk>>, last: Option<NonNull<Chunk>>) {
        while let Some(current) = chunk
            && chunk != last
        {
            // SAFETY: the arena's own chunk, without users: the arena is borrowed exclusively.
            unsafe {
                let Chunk { previous, layout } = current.read();
                self.heap.deallocate(current.cast(), layout);
                chunk = previous;
            }
        }
    }
}

/// Returns the first address in a chunk that can be handed out.
fn first(chunk: NonNull<Chunk>) -> usize {
    chunk.addr().get() + size_of::<Chunk>()
}

/// Returns the address behind a chunk.
fn end(chunk: NonNull<Chunk>) -> usize {
    // SAFETY: callers take the chunk from its arena.
    chunk.addr().get() + unsafe { chunk.as_ref() }.layout.size()
}

impl<P: Platform, S: PageSource> Drop for Arena<'_, P, S> {
    fn drop(&mut self) {
        self.free_from(self.chunk.get(), None);
    }
}

impl<P: Platform, S: PageSource> fmt::Debug for Arena<'_, P, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arena").field("held_bytes", &self.held_bytes()).finish_non_exhaustive()
    }
}
