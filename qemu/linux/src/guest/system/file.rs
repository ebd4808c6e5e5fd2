//! Files in memory, whose pages the kernel keeps.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr;

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use crate::guest::error::GuestError;
use crate::guest::pages::{PAGE, mapping};

/// A file of so many pages that has a name nowhere.
#[derive(Debug)]
pub(crate) struct File {
    descriptor: OwnedFd,
    bytes: usize,
}

impl File {
    /// Creates a file that no page was written of.
    pub(crate) fn create(pages: usize) -> Result<Self, GuestError> {
        let call = |call| move |error: Errno| GuestError::Call { call, error };
        let descriptor = memfd_create(c"measured", MemfdFlags::empty()).map_err(call("memfd_create"))?;
        let bytes = pages * PAGE;
        ftruncate(&descriptor, bytes as u64).map_err(call("ftruncate"))?;
        Ok(Self { descriptor, bytes })
    }

    /// Creates a file and writes to each of its pages, so that the kernel has all of them in memory.
    pub(crate) fn written(pages: usize) -> Result<Self, GuestError> {
        let file = Self::create(pages)?;
        file.whole(MapFlags::SHARED)?.write_each();
        Ok(file)
    }

    /// Maps the whole file wherever the kernel likes; dropped, that is unmapped.
    pub(crate) fn whole(&self, sharing: MapFlags) -> Result<Whole, GuestError> {
        // SAFETY: a new mapping, of which only this function knows.
        let start = unsafe { mmap(ptr::null_mut(), self.bytes, DATA, sharing, &self.descriptor, 0) };
        let start = start.map_err(mapping("mmap"))?.cast();
        Ok(Whole { start, bytes: self.bytes })
    }
}

impl AsFd for File {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// A mapping of its own.
#[derive(Debug)]
pub(crate) struct Whole {
    start: *mut u8,
    bytes: usize,
}

impl Whole {
    /// Maps private memory without a file wherever the kernel likes.
    pub(crate) fn anonymous(bytes: usize) -> Result<Self, GuestError> {
        // SAFETY: a new mapping, of which only this function knows.
        let start = unsafe { rustix::mm::mmap_anonymous(ptr::null_mut(), bytes, DATA, MapFlags::PRIVATE) };
        Ok(Self { start: start.map_err(mapping("mmap"))?.cast(), bytes })
    }

    /// Writes to its first page.
    pub(crate) fn write_first(&self) {
        // SAFETY: it is mapped for writing, and nothing else uses its bytes.
        unsafe { self.start.write_volatile(1) };
    }

    /// Writes to each of its pages.
    pub(crate) fn write_each(&self) {
        for offset in (0..self.bytes).step_by(PAGE) {
            // SAFETY: as above; `offset` lies in the mapping.
            unsafe { self.start.add(offset).write_volatile(1) };
        }
    }

    /// Unmaps it.
    pub(crate) fn unmap(self) -> Result<(), GuestError> {
        let (start, bytes) = (self.start, self.bytes);
        std::mem::forget(self);
        // SAFETY: the mapping is ours and is not used any more.
        unsafe { munmap(start.cast(), bytes) }.map_err(mapping("munmap"))
    }
}

impl Drop for Whole {
    fn drop(&mut self) {
        // SAFETY: as in `unmap`. A mapping that stays is no harm.
        let _ = unsafe { munmap(self.start.cast(), self.bytes) };
    }
}

const DATA: ProtFlags = ProtFlags::READ.union(ProtFlags::WRITE);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_mappings_show_what_was_written_and_private_ones_keep_it() {
        let file = File::create(2).unwrap();
        let byte = |mapping: &Whole| {
            // SAFETY: the mapping is there, and nobody writes to it meanwhile.
            unsafe { mapping.start.read_volatile() }
        };
        let private = file.whole(MapFlags::PRIVATE).unwrap();
        private.write_each();
        let shared = file.whole(MapFlags::SHARED).unwrap();
        assert_eq!((byte(&private), byte(&shared)), (1, 0));
        shared.write_first();
        assert_eq!(byte(&file.whole(MapFlags::SHARED).unwrap()), 1);
        shared.unmap().unwrap();
        let written = File::written(2).unwrap();
        assert_eq!(byte(&written.whole(MapFlags::PRIVATE).unwrap()), 1);
    }
}
