//! A thread's accesses to its process's memory on the program's behalf.

extern crate alloc;

use alloc::vec::Vec;

use topomem::region::FaultAccess;

use crate::arch::user::{self, UserFault};
use crate::process::{Memory, Task};
use crate::syscall::Errno;

/// The longest text that the kernel takes from a program: a path.
const MOST_TEXT: usize = 4096;

impl Memory {
    /// Copies `bytes` by `copy`, which is told from where on, until it does not fault or the fault is the
    /// program's own.
    async fn copy(
        &self,
        access: FaultAccess,
        mut copy: impl FnMut(usize) -> Result<(), UserFault>,
    ) -> Result<(), Errno> {
        let mut done = 0;
        loop {
            // Another process's may have become active while this one waited.
            self.activate();
            match copy(done) {
                Ok(()) => return Ok(()),
                Err(UserFault::NoUserAddress) => return Err(Errno::FAULT),
                Err(UserFault::Page { address, copied }) => {
                    done += copied;
                    self.resolve(address, access).await.map_err(|_| Errno::FAULT)?;
                }
            }
        }
    }

    /// Copies the bytes at `from` to `to`.
    ///
    /// # Errors
    ///
    /// [`Errno::FAULT`]; some may have been copied.
    pub(crate) async fn read(&self, from: u64, to: &mut [u8]) -> Result<(), Errno> {
        self.copy(FaultAccess::Read, |done| user::read(from.wrapping_add(done as u64), &mut to[done..])).await
    }

    /// Copies `from` to the bytes at `to`.
    ///
    /// # Errors
    ///
    /// [`Errno::FAULT`]; some may have been copied.
    pub(crate) async fn write(&self, to: u64, from: &[u8]) -> Result<(), Errno> {
        self.copy(FaultAccess::Write, |done| user::write(to.wrapping_add(done as u64), &from[done..])).await
    }

    /// Reads a word of 4 bytes.
    ///
    /// # Errors
    ///
    /// [`Errno::FAULT`], [`Errno::INVALID`] if it is not aligned.
    pub(crate) async fn load(&self, address: u64) -> Result<u32, Errno> {
        if !address.is_multiple_of(4) {
            return Err(Errno::INVALID);
        }
        let mut word = 0;
        self.copy(FaultAccess::Read, |_| user::load(address).map(|loaded| word = loaded)).await?;
        Ok(word)
    }

    /// Reads words of 8 bytes.
    ///
    /// # Errors
    ///
    /// [`Errno::FAULT`].
    pub(crate) async fn read_words<const N: usize>(&self, from: u64) -> Result<[u64; N], Errno> {
        let mut bytes = [[0; 8]; N];
        self.read(from, bytes.as_flattened_mut()).await?;
        Ok(bytes.map(u64::from_le_bytes))
    }

    /// Writes words of 8 bytes.
    ///
    /// # Errors
    ///
    /// [`Errno::FAULT`].
    pub(crate) async fn write_words<const N: usize>(&self, to: u64, words: [u64; N]) -> Result<(), Errno> {
        self.write(to, words.map(u64::to_le_bytes).as_flattened()).await
    }

    /// Reads the text at `from`, which ends with a zero.
    ///
    /// # Errors
    ///
    /// [`Errno::FAULT`], [`Errno::TOO_LONG`], [`Errno::NO_MEMORY`].
    pub(crate) async fn read_text(&self, from: u64) -> Result<Vec<u8>, Errno> {
        let mut text = Vec::new();
        loop {
            let mut byte = [0];
            self.read(from.wrapping_add(text.len() as u64), &mut byte).await?;
            match byte {
                [0] => return Ok(text),
                _ if text.len() == MOST_TEXT => return Err(Errno::TOO_LONG),
                [byte] => {
                    text.try_reserve(1).map_err(|_| Errno::NO_MEMORY)?;
                    text.push(byte);
                }
            }
        }
    }
}

impl Task {
    /// The thread's memory.
    pub(crate) fn memory(&self) -> &Memory {
        &self.thread.memory
    }
}
