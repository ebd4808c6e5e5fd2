//! Allocations beyond the largest run of pages: each is a mapping of its own, whose first page says how
//! long the mapping is, and whose second page is where the memory begins.

use core::ptr::{self, NonNull};

const PAGE: usize = 4096;
/// Combined with the memory's address, the first word of a mapping. No address and no small number.
const MARK: usize = 0x6d61_7070_696e_6700;

/// What the page in front of the memory says.
#[repr(C)]
struct Header {
    seal: usize,
    /// The mapping's length, this page included.
    bytes: usize,
}

/// A mapping that the program holds.
pub(crate) struct Mapping(NonNull<Header>);

/// Maps `size` bytes, aligned to `align`, all zero.
pub(crate) fn allocate(size: usize, align: usize) -> Option<NonNull<u8>> {
    let bytes = size.checked_next_multiple_of(PAGE)?.checked_add(PAGE)?;
    let slack = align.max(PAGE) - PAGE;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    let all = bytes.checked_add(slack)?;
    // SAFETY: a new mapping, wherever the kernel has room.
    let start = unsafe { libc::mmap(ptr::null_mut(), all, protection, flags, -1, 0) };
    if start == libc::MAP_FAILED {
        return None;
    }
    let before = (start.addr() + PAGE).next_multiple_of(align.max(PAGE)) - PAGE - start.addr();
    let base = start.wrapping_byte_add(before);
    // SAFETY: both are ends of the mapping, which nobody uses yet.
    unsafe {
        if before > 0 {
            libc::munmap(start, before);
        }
        if slack > before {
            libc::munmap(base.wrapping_byte_add(bytes), slack - before);
        }
    }
    // SAFETY: the mapping is ours.
    Some(unsafe { seal(NonNull::new(base.cast())?, bytes) })
}

/// Moves `size` bytes at `memory` to the beginning of a new mapping of `new_size` bytes. Whole pages
/// are moved as such, and leave zeroes where they were; anything else is copied.
///
/// # Safety
///
/// The bytes are the caller's, in private memory, and no more than `new_size`.
pub(crate) unsafe fn take_over(memory: NonNull<u8>, size: usize, new_size: usize) -> Option<NonNull<u8>> {
    let new = allocate(new_size, PAGE)?;
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED | libc::MREMAP_DONTUNMAP;
    // SAFETY: both ranges are the caller's.
    let moved = unsafe { libc::mremap(memory.as_ptr().cast(), size, size, flags, new.as_ptr()) };
    if moved == libc::MAP_FAILED {
        // Not whole pages, or a kernel older than Linux 5.7.
        // SAFETY: as above.
        unsafe { new.copy_from_nonoverlapping(memory, size) };
    }
    Some(new)
}

/// Writes the header of the mapping at `base`, and returns its memory.
///
/// # Safety
///
/// The mapping has so many bytes, and is the caller's.
unsafe fn seal(base: NonNull<Header>, bytes: usize) -> NonNull<u8> {
    // SAFETY: the first page is in the mapping, and so is at least a part of a second.
    unsafe {
        let memory = base.cast::<u8>().add(PAGE);
        base.write(Header { seal: memory.addr().get() ^ MARK, bytes });
        memory
    }
}

impl Mapping {
    /// The mapping whose memory starts at `memory`, if there is one.
    ///
    /// # Safety
    ///
    /// The program got `memory` from this library; else the page before it is read, if there is one or
    /// not.
    pub(crate) unsafe fn of(memory: NonNull<u8>) -> Option<Mapping> {
        let address = memory.addr().get();
        if !address.is_multiple_of(PAGE) {
            return None;
        }
        // SAFETY: the caller's promise.
        let header = unsafe { memory.sub(PAGE) }.cast::<Header>();
        // SAFETY: the caller's promise.
        let seal = unsafe { (&raw const (*header.as_ptr()).seal).read() };
        (seal == address ^ MARK).then_some(Mapping(header))
    }

    fn bytes(&self) -> usize {
        // SAFETY: the page is sealed, and mapped until the mapping is freed or moved.
        unsafe { self.0.as_ref() }.bytes
    }

    /// Bytes that the program may use.
    pub(crate) fn usable_size(&self) -> usize {
        self.bytes() - PAGE
    }

    /// Unmaps it.
    pub(crate) fn free(self) {
        // SAFETY: the program gave the memory up.
        unsafe { libc::munmap(self.0.as_ptr().cast(), self.bytes()) };
    }

    /// Changes its size, and returns where the memory is from then on. `None` if there is no address
    /// space, with nothing changed.
    pub(crate) fn resize(self, size: usize) -> Option<NonNull<u8>> {
        let bytes = size.checked_next_multiple_of(PAGE)?.checked_add(PAGE)?;
        // SAFETY: the mapping is the program's, whose pointers to it are the new ones from here on.
        let moved =
            unsafe { libc::mremap(self.0.as_ptr().cast(), self.bytes(), bytes, libc::MREMAP_MAYMOVE) };
        if moved == libc::MAP_FAILED {
            return None;
        }
        // SAFETY: the mapping is the program's.
        Some(unsafe { seal(NonNull::new(moved.cast())?, bytes) })
    }
}
