//! Allocations beyond the largest run of pages: each is a mapping of its own, with a page in front of
//! the memory that says where the mapping is.

use core::ptr::{self, NonNull};

const PAGE: usize = 4096;
/// Combined with the memory's address, the first word of the page in front. No address and no small
/// number.
const MARK: usize = 0x6d61_7070_696e_6700;

/// What the page in front of the memory says.
#[repr(C)]
struct Header {
    seal: usize,
    /// The mapping's first byte, and its length.
    base: NonNull<u8>,
    bytes: usize,
}

/// A mapping that the program holds.
pub(crate) struct Mapping(NonNull<Header>);

/// Maps `size` bytes, aligned to `align`, all zero.
pub(crate) fn allocate(size: usize, align: usize) -> Option<NonNull<u8>> {
    let slack = if align > PAGE { align } else { 0 };
    let bytes = size.checked_next_multiple_of(PAGE)?.checked_add(PAGE)?.checked_add(slack)?;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping, wherever the kernel has room.
    let base = unsafe { libc::mmap(ptr::null_mut(), bytes, protection, flags, -1, 0) };
    if base == libc::MAP_FAILED {
        return None;
    }
    let base = NonNull::new(base.cast::<u8>())?;
    let offset = (base.addr().get() + PAGE).next_multiple_of(align.max(PAGE)) - base.addr().get();
    // SAFETY: the mapping has a page and the slack more than `size`.
    let memory = unsafe { base.add(offset) };
    // SAFETY: the page before it is in the mapping.
    unsafe { write_header(memory, base, bytes) };
    Some(memory)
}

/// # Safety
///
/// `memory` is at least a page behind `base`, in a mapping of so many bytes that is the caller's.
unsafe fn write_header(memory: NonNull<u8>, base: NonNull<u8>, bytes: usize) {
    let header = Header { seal: memory.addr().get() ^ MARK, base, bytes };
    // SAFETY: the caller's promise.
    unsafe { memory.sub(PAGE).cast::<Header>().write(header) };
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

    fn header(&self) -> &Header {
        // SAFETY: the page is sealed, and mapped until the mapping is freed or moved.
        unsafe { self.0.as_ref() }
    }

    /// Bytes that the program may use.
    pub(crate) fn usable_size(&self) -> usize {
        let Header { base, bytes, .. } = self.header();
        base.addr().get() + bytes - (self.0.addr().get() + PAGE)
    }

    /// Unmaps it.
    pub(crate) fn free(self) {
        let &Header { base, bytes, .. } = self.header();
        // SAFETY: the program gave the memory up.
        unsafe { libc::munmap(base.as_ptr().cast(), bytes) };
    }

    /// Changes its size, and returns where the memory is from then on. `None` if there is no address
    /// space, with nothing changed.
    pub(crate) fn resize(self, size: usize) -> Option<NonNull<u8>> {
        let &Header { base, bytes, .. } = self.header();
        let offset = self.0.addr().get() + PAGE - base.addr().get();
        let wanted = size.checked_next_multiple_of(PAGE)?.checked_add(offset)?;
        // SAFETY: the mapping is the program's, whose pointers to it are the new ones from here on.
        let moved = unsafe { libc::mremap(base.as_ptr().cast(), bytes, wanted, libc::MREMAP_MAYMOVE) };
        if moved == libc::MAP_FAILED {
            return None;
        }
        let base = NonNull::new(moved.cast::<u8>())?;
        // SAFETY: the memory starts as far behind the mapping's start as before.
        let memory = unsafe { base.add(offset) };
        // SAFETY: as above.
        unsafe { write_header(memory, base, wanted) };
        Some(memory)
    }
}
