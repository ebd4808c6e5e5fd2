//! Files in memory, as `memfd_create` makes them.

use core::fmt;

use spin::mutex::SpinMutex;
use topomem::object::MemoryObject;

use crate::memory::platform::{Kernel, pin};
use crate::memory::service::SERVICE;
use crate::per_cpu::Polling;
use crate::syscall::Errno;

/// Bytes that a file can have.
const MOST: u64 = 1 << 30;

/// A file that lives as long as it is open, mapped, or has a name.
pub(crate) struct MemoryFile {
    object: MemoryObject<Kernel>,
    /// Held while the size changes, so that no write makes the file shorter.
    resizing: SpinMutex<(), Polling>,
}

impl MemoryFile {
    /// Makes an empty file.
    ///
    /// # Errors
    ///
    /// [`Errno::NO_MEMORY`].
    pub(crate) fn new() -> Result<MemoryFile, Errno> {
        let object = MemoryObject::anonymous(&SERVICE, &pin(), 0).map_err(|_| Errno::NO_MEMORY)?;
        Ok(MemoryFile { object, resizing: SpinMutex::new(()) })
    }

    /// Returns what mappings show.
    pub(crate) fn object(&self) -> &MemoryObject<Kernel> {
        &self.object
    }

    /// Cuts the file, or makes it longer by zeros. What is cut off goes from all mappings.
    ///
    /// # Errors
    ///
    /// [`Errno::FILE_TOO_BIG`], [`Errno::NO_MEMORY`]; nothing has changed.
    pub(crate) fn resize(&self, size: u64) -> Result<(), Errno> {
        if size > MOST {
            return Err(Errno::FILE_TOO_BIG);
        }
        let resizing = self.resizing.lock();
        self.object.set_size(&pin(), size)?;
        drop(resizing);
        Ok(())
    }

    /// Copies `from` to `offset`, and makes the file so long.
    ///
    /// # Errors
    ///
    /// As for [`MemoryFile::resize`]; a part may be written.
    pub(crate) async fn write(&self, offset: u64, from: &[u8]) -> Result<(), Errno> {
        let end = offset.checked_add(from.len() as u64).filter(|&end| end <= MOST);
        self.lengthen(end.ok_or(Errno::FILE_TOO_BIG)?)?;
        let mut done = 0;
        while done < from.len() {
            match self.object.write(offset + done as u64, &from[done..]).await? {
                // Another thread has cut it meanwhile.
                0 => return Err(Errno::AGAIN),
                written => done += written,
            }
        }
        Ok(())
    }

    /// Makes the file at least `size` bytes long.
    fn lengthen(&self, size: u64) -> Result<(), Errno> {
        if self.object.size() >= size {
            return Ok(());
        }
        let resizing = self.resizing.lock();
        if self.object.size() < size {
            self.object.set_size(&pin(), size)?;
        }
        drop(resizing);
        Ok(())
    }
}

impl fmt::Debug for MemoryFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryFile").field("size", &self.object.size()).finish()
    }
}
