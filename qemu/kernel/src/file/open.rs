//! An open file: what is in it, and where the next access is.

extern crate alloc;

use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

use spin::mutex::SpinMutex;
use topomem::object::MemoryObject;

use super::pipe::{Blocking, PipeReader, PipeWriter};
use super::{Console, MemoryFile};
use crate::memory::platform::Kernel;
use crate::per_cpu::Polling;
use crate::process::Shared;
use crate::syscall::Errno;

/// What a file leads to.
#[derive(Debug)]
pub(crate) enum Content {
    /// A program's output; there is no input.
    Console(Shared<Console>),
    /// A file of the RAM disk.
    Disk(MemoryObject<Kernel>),
    /// The folder of the RAM disk.
    Folder,
    /// A file in memory.
    Memory(Shared<MemoryFile>),
    /// Nothing, which may be written to.
    Null,
    /// What the kernel has told.
    Text(Vec<u8>),
    /// The end of a pipe that is read.
    PipeReader(PipeReader),
    /// The end of a pipe that is written.
    PipeWriter(PipeWriter),
}

/// What can be done with a file without waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Readiness {
    /// It can be read.
    pub reads: bool,
    /// It can be written.
    pub writes: bool,
    /// Its other end is gone.
    pub hung_up: bool,
}

/// What a file is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// To be read.
    Read,
    /// To be written.
    Write,
    /// Both.
    ReadWrite,
}

impl Mode {
    /// Tells whether the file may be read.
    pub(crate) fn reads(self) -> bool {
        self != Mode::Write
    }

    /// Tells whether the file may be written.
    pub(crate) fn writes(self) -> bool {
        self != Mode::Read
    }
}

/// Where an offset counts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whence {
    /// The start.
    Start,
    /// Where the next access is.
    Current,
    /// The end.
    End,
}

/// An open file; duplicates of a descriptor share it.
#[derive(Debug)]
pub(crate) struct OpenFile {
    /// What is in it.
    pub content: Content,
    /// What it was opened for.
    pub mode: Mode,
    offset: SpinMutex<u64, Polling>,
    /// Does what would have to wait for another program fail?
    is_impatient: AtomicBool,
}

impl OpenFile {
    /// A file open at its start.
    pub(crate) const fn new(content: Content, mode: Mode) -> OpenFile {
        OpenFile { content, mode, offset: SpinMutex::new(0), is_impatient: AtomicBool::new(false) }
    }

    /// Says whether what would have to wait for another program waits.
    pub(crate) fn set_blocking(&self, blocking: Blocking) {
        // Relaxed here and below: nothing else depends on it.
        self.is_impatient.store(blocking == Blocking::Fail, Ordering::Relaxed);
    }

    /// Returns whether what would have to wait for another program waits.
    pub(crate) fn blocking(&self) -> Blocking {
        if self.is_impatient.load(Ordering::Relaxed) { Blocking::Fail } else { Blocking::Wait }
    }

    /// Tells whether a program may have to wait for another one here.
    pub(crate) fn is_pipe(&self) -> bool {
        matches!(self.content, Content::PipeReader(_) | Content::PipeWriter(_))
    }

    /// Returns what can be done with it without waiting.
    pub(crate) fn readiness(&self) -> Readiness {
        match &self.content {
            Content::PipeReader(end) => {
                let (reads, hung_up) = end.look();
                Readiness { reads, writes: false, hung_up }
            }
            Content::PipeWriter(end) => {
                let (writes, hung_up) = end.look();
                Readiness { reads: false, writes, hung_up }
            }
            _ => Readiness { reads: true, writes: true, hung_up: false },
        }
    }

    /// Returns what mappings show; `None` for what cannot be mapped.
    pub(crate) fn object(&self) -> Option<&MemoryObject<Kernel>> {
        match &self.content {
            Content::Console(_)
            | Content::Folder
            | Content::Null
            | Content::Text(_)
            | Content::PipeReader(_)
            | Content::PipeWriter(_) => None,
            Content::Disk(object) => Some(object),
            Content::Memory(file) => Some(file.object()),
        }
    }

    /// Returns how many bytes it has; `None` for what has no such number.
    pub(crate) fn size(&self) -> Option<u64> {
        match &self.content {
            Content::Text(text) => Some(text.len() as u64),
            _ => self.object().map(MemoryObject::size),
        }
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
    /// [`Errno::FOLDER`],
    /// [`Errno::AGAIN`] if it would have to wait and must not, [`Errno::NO_MEMORY`], [`Errno::INPUT_OUTPUT`].
    pub(crate) async fn read(&self, offset: Option<u64>, to: &mut [u8]) -> Result<usize, Errno> {
        if !self.mode.reads() {
            return Err(Errno::BAD_FILE);
        }
        let object = match &self.content {
            Content::Text(text) => {
                let at = offset.unwrap_or_else(|| self.claim(to.len(), text.len() as u64));
                let rest = usize::try_from(at).ok().and_then(|at| text.get(at..)).unwrap_or_default();
                let count = rest.len().min(to.len());
                to[..count].copy_from_slice(&rest[..count]);
                return Ok(count);
            }
            Content::Null => return Ok(0),
            Content::Folder => return Err(Errno::FOLDER),
            Content::Console(_) | Content::PipeReader(_) | Content::PipeWriter(_) if offset.is_some() => {
                return Err(Errno::SEEK);
            }
            Content::Console(_) => return Ok(0),
            Content::PipeReader(end) => return end.read(to, self.blocking()).await,
            Content::PipeWriter(_) => return Err(Errno::BAD_FILE),
            Content::Disk(object) => object,
            Content::Memory(file) => file.object(),
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
    /// [`Errno::SEEK`], [`Errno::BAD_FILE`] if it is not open to be written, and as [`MemoryFile::write`] and
    /// [`PipeWriter::write`].
    pub(crate) async fn write(&self, offset: Option<u64>, from: &[u8]) -> Result<(), Errno> {
        if !self.mode.writes() {
            return Err(Errno::BAD_FILE);
        }
        match (&self.content, offset) {
            (Content::Console(_) | Content::PipeWriter(_), Some(_)) => Err(Errno::SEEK),
            (Content::PipeWriter(end), None) => end.write(from, self.blocking()).await,
            (Content::Console(console), None) => {
                console.write(from);
                Ok(())
            }
            (Content::Null, _) => Ok(()),
            (Content::Disk(_) | Content::Folder | Content::Text(_) | Content::PipeReader(_), _) => {
                Err(Errno::BAD_FILE)
            }
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
    pub(crate) fn seek(&self, by: i64, whence: Whence) -> Result<u64, Errno> {
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
