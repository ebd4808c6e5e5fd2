//! C's allocation functions.
//!
//! What they do in corner cases is what glibc does, where programs may rely on that: an allocation of
//! no bytes is unique, and `realloc(p, 0)` frees `p`. Alignments that are no power of two are refused.

use core::alloc::{GlobalAlloc, Layout};
use core::ffi::{c_int, c_void};
use core::ptr::{self, NonNull};

use topomem_percpu::{AllocError, Platform, ReallocError};

use crate::machine::{self, HEAP, Threads};
use crate::mappings::{self, Mapping};
use crate::{errno, gate, report};

const PAGE: usize = 4096;
/// What every type of C is aligned to at most.
const ALIGN: usize = 16;
/// What the heap aligns every object to.
const WORD: usize = 8;

/// The layout of `size` bytes for any type of C that fits into them. The size classes of multiples of
/// [`ALIGN`] are aligned to that, so a layout that asks for a word's alignment has it too, and is served
/// by the quickest path.
#[inline(always)]
fn layout_of(size: usize) -> Option<Layout> {
    let size = if size <= WORD { WORD } else { size.checked_add(ALIGN - 1)? & !(ALIGN - 1) };
    Layout::from_size_align(size, WORD).ok()
}

/// The answer of a function that found no memory.
#[cold]
fn no_memory() -> *mut c_void {
    errno::set(libc::ENOMEM);
    ptr::null_mut()
}

#[cold]
fn invalid_alignment() -> *mut c_void {
    errno::set(libc::EINVAL);
    ptr::null_mut()
}

/// Memory for `layout`: of the heap, or a mapping if no run of pages is so large.
#[inline(never)]
fn allocate(layout: Layout) -> Option<NonNull<u8>> {
    match HEAP.try_alloc(layout) {
        Ok(memory) => Some(memory),
        Err(AllocError::TooLarge { .. }) => mappings::allocate(layout.size(), layout.align()),
        Err(_) => None,
    }
}

/// Memory of `size` bytes, aligned to `align`, which must be a power of two.
fn allocate_aligned(align: usize, size: usize) -> Option<NonNull<u8>> {
    if align <= WORD || (align <= ALIGN && size > WORD) {
        return allocate(layout_of(size)?);
    }
    allocate(Layout::from_size_align(size.max(1), align).ok()?)
}

fn pointer(memory: Option<NonNull<u8>>) -> *mut c_void {
    memory.map_or_else(no_memory, |memory| memory.as_ptr().cast())
}

/// `malloc(3)`.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn malloc(size: usize) -> *mut c_void {
    let Some(layout) = layout_of(size) else { return no_memory() };
    // SAFETY: the layout has a size.
    let memory = unsafe { GlobalAlloc::alloc(&HEAP, layout) };
    if memory.is_null() { pointer(allocate(layout)) } else { memory.cast() }
}

/// `free(3)`.
///
/// # Safety
///
/// `memory` is null, or was returned by a function of this library and is not used any more.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn free(memory: *mut c_void) {
    let Some(memory) = NonNull::new(memory.cast::<u8>()) else { return };
    // SAFETY: the caller's promise.
    if let Err(invalid) = unsafe { HEAP.free_by_address(memory) } {
        // SAFETY: the caller's promise.
        match unsafe { Mapping::of(memory) } {
            Some(mapping) => errno::preserved(|| mapping.free()),
            None => report::invalid(invalid),
        }
    }
}

/// `calloc(3)`.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn calloc(count: usize, size: usize) -> *mut c_void {
    let Some(layout) = count.checked_mul(size).and_then(layout_of) else { return no_memory() };
    match HEAP.try_alloc_zeroed(layout) {
        Ok(memory) => memory.as_ptr().cast(),
        // A mapping is zero.
        Err(AllocError::TooLarge { .. }) => pointer(mappings::allocate(layout.size(), WORD)),
        Err(_) => no_memory(),
    }
}

/// `realloc(3)`.
///
/// # Safety
///
/// As for [`free`].
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn realloc(memory: *mut c_void, size: usize) -> *mut c_void {
    let Some(old) = NonNull::new(memory.cast::<u8>()) else { return malloc(size) };
    if size == 0 {
        // SAFETY: the caller's promise.
        unsafe { free(memory) };
        return ptr::null_mut();
    }
    let Some(wanted) = layout_of(size) else { return no_memory() };
    let Some(usable) = HEAP.usable_size(old) else {
        // SAFETY: the caller's promise.
        let Some(mapping) = (unsafe { Mapping::of(old) }) else { report::invalid_address(old) };
        return pointer(mapping.resize(size));
    };
    let Ok(layout) = Layout::from_size_align(usable, WORD) else { return no_memory() };
    // SAFETY: the caller's promise; the heap says that the allocation has so many bytes.
    match unsafe { HEAP.try_realloc(old, layout, wanted.size()) } {
        Ok(moved) => moved.as_ptr().cast(),
        Err(ReallocError::Alloc(AllocError::TooLarge { .. })) => {
            // SAFETY: the caller's promise; only what is beyond the largest run is too large.
            let Some(moved) = (unsafe { mappings::take_over(old, usable, size) }) else {
                return no_memory();
            };
            // SAFETY: the caller's promise.
            unsafe { free(memory) };
            moved.as_ptr().cast()
        }
        Err(ReallocError::Alloc(_)) => no_memory(),
        Err(ReallocError::Invalid(invalid)) => report::invalid(invalid),
    }
}

/// `reallocarray(3)`.
///
/// # Safety
///
/// As for [`free`].
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn reallocarray(memory: *mut c_void, count: usize, size: usize) -> *mut c_void {
    let Some(size) = count.checked_mul(size) else { return no_memory() };
    // SAFETY: the caller's promise.
    unsafe { realloc(memory, size) }
}

/// `posix_memalign(3)`.
///
/// # Safety
///
/// `place` is a variable of the caller's.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn posix_memalign(place: *mut *mut c_void, align: usize, size: usize) -> c_int {
    if !align.is_power_of_two() || !align.is_multiple_of(size_of::<*mut c_void>()) {
        return libc::EINVAL;
    }
    match errno::preserved(|| allocate_aligned(align, size)) {
        Some(memory) => {
            // SAFETY: the caller's promise.
            unsafe { place.write(memory.as_ptr().cast()) };
            0
        }
        None => libc::ENOMEM,
    }
}

/// `aligned_alloc(3)`.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn aligned_alloc(align: usize, size: usize) -> *mut c_void {
    memalign(align, size)
}

/// `memalign(3)`.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn memalign(align: usize, size: usize) -> *mut c_void {
    if !align.is_power_of_two() {
        return invalid_alignment();
    }
    pointer(allocate_aligned(align, size))
}

/// `valloc(3)`.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn valloc(size: usize) -> *mut c_void {
    memalign(PAGE, size)
}

/// `pvalloc(3)`.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn pvalloc(size: usize) -> *mut c_void {
    let Some(size) = size.max(1).checked_next_multiple_of(PAGE) else { return no_memory() };
    memalign(PAGE, size)
}

/// `malloc_usable_size(3)`.
///
/// # Safety
///
/// As for [`free`], but that the memory may be used afterwards.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn malloc_usable_size(memory: *mut c_void) -> usize {
    let Some(memory) = NonNull::new(memory.cast::<u8>()) else { return 0 };
    match HEAP.usable_size(memory) {
        Some(bytes) => bytes,
        // SAFETY: the caller's promise.
        None => unsafe { Mapping::of(memory) }.map_or(0, |mapping| mapping.usable_size()),
    }
}

/// `malloc_trim(3)`: gives the kernel back all memory that is free in runs of 2 MiB. Nothing is left at
/// the end of a heap, so `pad` has no meaning.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn malloc_trim(_pad: usize) -> c_int {
    errno::preserved(|| {
        gate::close();
        let bytes = machine::trim(&Threads.pin());
        gate::open();
        c_int::from(bytes > 0)
    })
}
