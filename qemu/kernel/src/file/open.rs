//! An open file: what is in it, and where the next access is.

use spin::mutex::SpinMutex;

use super::{Console, MemoryFile};
use crate::per_cpu::Polling;
use crate::process::Shared;
use crate::syscall::Errno;

/// What a file leads to.
#[derive(Debug)]
pub enum Content {
    /// A program's output; there is no input.
    Console(Shared<Console>),
    /// A file of the RAM disk.
    RamDisk(&'static [u8]),
    /// A file in memory.
    Memory(Shared<MemoryFile>),
}

/// What a file is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// To be read.
    Read,
    /// To be written.
    Write,
    /// Both.
    ReadWrite,
}

impl Mode {
    /// Tells whether the file may be read.
    pub fn reads(self) -> bool {
        self != Mode::Write
    }

    /// Tells whether the file may be written.
    pub fn writes(self) -> bool {
        self != Mode::Read
    }
}

/// Where an offset counts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whence {
    /// The start.
    Start,
    /// Where the next access is.
    Current,
    /// The end.
    End,
}

/// An open file; duplicates of a descriptor share it.
#[derive(Debug)]
pub struct OpenFile {
    /// What is in it.
    pub content: Content,
    /// What it was opened for.
    pub mode: Mode,
    offset: SpinMutex<u64, Polling>,
}

impl OpenFile {
    /// A file open at its start.
    pub const fn new(content: Content, mode: Mode) -> OpenFile {
        OpenFile { content, mode, offset: SpinMutex::new(0) }
    }

    /// Its bytes; `None` for what has no such number.
    pub fn size(&self) -> Option<u64> {
        match &self.content {
            Content::Console(_) => None,
            Content::RamDisk(bytes) => Some(bytes.len() as u64),
            Content::Memory(file) => Some(file.size()),
        }
    }

    /// Copies what is at `offset`, or at the file's own, to `to`; how much that is.
    ///
    /// # Errors
    ///
    /// [`Errno::SEEK`] for an offset in what has none, [`Errno::BAD_FILE`] if it is not open to be read.
    pub fn read(&self, offset: Option<u64>, to: &mut [u8]) -> Result<usize, Errno> {
        if !self.mode.reads() {
            return Err(Errno::BAD_FILE);
        }
        let read = |offset, to: &mut [u8]| match &self.content {
            Content::Console(_) => 0,
            Content::RamDisk(bytes) => read_slice(bytes, offset, to),
            Content::Memory(file) => file.read(offset, to),
        };
        match (offset, &self.content) {
            (Some(_), Content::Console(_)) => Err(Errno::SEEK),
            (Some(offset), _) => Ok(read(offset, to)),
            (None, _) => {
                let mut offset = self.offset.lock();
                let count = read(*offset, to);
                *offset += count as u64;
                Ok(count)
            }
        }
    }

    /// Copies `from` to `offset`, or to the file's own.
    ///
    /// # Errors
    ///
    /// [`Errno::SEEK`], [`Errno::BAD_FILE`] if it is not open to be written, and as [`MemoryFile::write`].
    pub fn write(&self, offset: Option<u64>, from: &[u8]) -> Result<(), Errno> {
        if !self.mode.writes() {
            return Err(Errno::BAD_FILE);
        }
        match (&self.content, offset) {
            (Content::Console(_), Some(_)) => Err(Errno::SEEK),
            (Content::Console(console), None) => {
                console.write(from);
                Ok(())
            }
            (Content::RamDisk(_), _) => Err(Errno::BAD_FILE),
            (Content::Memory(file), Some(offset)) => file.write(offset, from),
            (Content::Memory(file), None) => {
                let mut offset = self.offset.lock();
                file.write(*offset, from)?;
                *offset += from.len() as u64;
                Ok(())
            }
        }
    }

    /// Moves the file's own offset; where that is then.
    ///
    /// # Errors
    ///
    /// [`Errno::SEEK`], [`Errno::INVALID`].
    pub fn seek(&self, by: i64, whence: Whence) -> Result<u64, Errno> {
        let size = self.size().ok_or(Errno::SEEK)?;
        let mut offset = self.offset.lock();
        let base = match whence {
            Whence::Start => 0,
            Whence::Current => *offset,
            Whence::End => size,
        };
        let moved = base.checked_add_signed(by).filter(|&moved| i64::try_from(moved).is_ok());
        *offset = moved.ok_or(Errno::INVALID)?;
        Ok(*offset)
    }
}

/// Copies what of `bytes` is at `offset` to `to`; how much that is.
pub(super) fn read_slice(bytes: &[u8], offset: u64, to: &mut [u8]) -> usize {
    let rest = usize::try_from(offset).ok().and_then(|offset| bytes.get(offset..)).unwrap_or_default();
    let count = rest.len().min(to.len());
    to[..count].copy_from_slice(&rest[..count]);
    count
}
