//! An open file: what is in it, and where the next access is.

use spin::mutex::SpinMutex;
use topomem::object::MemoryObject;

use super::{Console, MemoryFile};
use crate::memory::platform::Kernel;
use crate::per_cpu::Polling;
use crate::process::Shared;
use crate::syscall::Errno;

/// What a file leads to.
#[derive(Debug)]
pub enum Content {
    /// A program's output; there is no input.
    Console(Shared<Console>),
    /// A file of the RAM disk.
    Disk(MemoryObject<Kernel>),
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

    /// Returns what mappings show; `None` for what cannot be mapped.
    pub fn object(&self) -> Option<&MemoryObject<Kernel>> {
        match &self.content {
            Content::Console(_) => None,
            Content::Disk(object) => Some(object),
            Content::Memory(file) => Some(file.object()),
        }
    }

    /// Returns how many bytes it has; `None` for what has no such number.
    pub fn size(&self) -> Option<u64> {
        self.object().map(MemoryObject::size)
    }

    /// Moves the file's own offset by `bytes`, up to `end`. Returns where it was.
    ///
    /// It is moved before the bytes are copied: so several threads that read or write get different ones.
    fn claim(&self, bytes: usize, end: u64) -> u64 {
        let mut offset = self.offset.lock();
        let at = *offset;
        *offset = at.saturating_add(bytes as u64).min(end.max(at));
        at
    }

    /// Copies what is at `offset`, or at the file's own, to `to`. Returns how much that is.
    ///
    /// # Errors
    ///
    /// [`Errno::SEEK`] for an offset in what has none, [`Errno::BAD_FILE`] if it is not open to be read,
    /// [`Errno::NO_MEMORY`], [`Errno::INPUT_OUTPUT`].
    pub async fn read(&self, offset: Option<u64>, to: &mut [u8]) -> Result<usize, Errno> {
        if !self.mode.reads() {
            return Err(Errno::BAD_FILE);
        }
        let Some(object) = self.object() else {
            return if offset.is_some() { Err(Errno::SEEK) } else { Ok(0) };
        };
        let at = offset.unwrap_or_else(|| self.claim(to.len(), object.size()));
        let mut done = 0;
        while done < to.len() {
            match object.read(at + done as u64, &mut to[done..]).await? {
                0 => break,
                read => done += read,
            }
        }
        Ok(done)
    }

    /// Copies `from` to `offset`, or to the file's own.
    ///
    /// # Errors
    ///
    /// [`Errno::SEEK`], [`Errno::BAD_FILE`] if it is not open to be written, and as [`MemoryFile::write`].
    pub async fn write(&self, offset: Option<u64>, from: &[u8]) -> Result<(), Errno> {
        if !self.mode.writes() {
            return Err(Errno::BAD_FILE);
        }
        match (&self.content, offset) {
            (Content::Console(_), Some(_)) => Err(Errno::SEEK),
            (Content::Console(console), None) => {
                console.write(from);
                Ok(())
            }
            (Content::Disk(_), _) => Err(Errno::BAD_FILE),
            (Content::Memory(file), offset) => {
                let at = offset.unwrap_or_else(|| self.claim(from.len(), u64::MAX));
                file.write(at, from).await
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
