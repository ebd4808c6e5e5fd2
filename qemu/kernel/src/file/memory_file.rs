//! A file in memory without a name, as `memfd_create` makes it.

extern crate alloc;

use alloc::vec::Vec;
use core::fmt;

use spin::mutex::SpinMutex;

use crate::per_cpu::Polling;
use crate::syscall::Errno;

/// Bytes that a file can have.
const MOST: u64 = 1 << 24;

/// A file that lives as long as it is open.
pub struct MemoryFile {
    bytes: SpinMutex<Vec<u8>, Polling>,
}

impl MemoryFile {
    /// An empty file.
    pub const fn new() -> MemoryFile {
        MemoryFile { bytes: SpinMutex::new(Vec::new()) }
    }

    /// Its bytes.
    pub fn size(&self) -> u64 {
        self.bytes.lock().len() as u64
    }

    /// Cuts it, or makes it longer by zeros.
    ///
    /// # Errors
    ///
    /// [`Errno::FILE_TOO_BIG`], [`Errno::NO_MEMORY`]; nothing has changed.
    pub fn resize(&self, size: u64) -> Result<(), Errno> {
        let size = usize::try_from(size).ok().filter(|&size| size as u64 <= MOST);
        let size = size.ok_or(Errno::FILE_TOO_BIG)?;
        let mut bytes = self.bytes.lock();
        let more = size.saturating_sub(bytes.len());
        bytes.try_reserve(more).map_err(|_| Errno::NO_MEMORY)?;
        bytes.resize(size, 0);
        Ok(())
    }

    /// Copies what is at `offset` to `to`; how much that is.
    pub fn read(&self, offset: u64, to: &mut [u8]) -> usize {
        super::open::read_slice(&self.bytes.lock(), offset, to)
    }

    /// Copies `from` to `offset`.
    ///
    /// # Errors
    ///
    /// As for [`MemoryFile::resize`].
    pub fn write(&self, offset: u64, from: &[u8]) -> Result<(), Errno> {
        let end = offset.checked_add(from.len() as u64).ok_or(Errno::FILE_TOO_BIG)?;
        if end > self.size() {
            self.resize(end)?;
        }
        let start = offset as usize;
        match self.bytes.lock().get_mut(start..start + from.len()) {
            Some(place) => place.copy_from_slice(from),
            // Another thread has cut it meanwhile.
            None => return Err(Errno::AGAIN),
        }
        Ok(())
    }
}

impl fmt::Debug for MemoryFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryFile").field("size", &self.size()).finish()
    }
}
