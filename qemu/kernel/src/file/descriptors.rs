//! A process's open files, by descriptor.

extern crate alloc;

use alloc::vec::Vec;

use super::{Console, Content, Mode, OpenFile};
use crate::process::{OutOfMemory, Shared};
use crate::syscall::Errno;

/// Files that a process may have open.
const MOST: usize = 256;
/// The least descriptor where any will do.
pub(crate) const LEAST_FREE: u32 = 0;

/// What becomes of a descriptor when another program takes the place of the process's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnExec {
    /// It stays.
    Keep,
    /// It is closed.
    Close,
}

#[derive(Debug, Clone)]
struct Entry {
    file: Shared<OpenFile>,
    on_exec: OnExec,
}

/// The table.
#[derive(Debug)]
pub(crate) struct Descriptors(Vec<Option<Entry>>);

impl Descriptors {
    /// Standard input, output and error, all of them `console`.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`].
    pub(crate) fn standard(console: &Shared<Console>) -> Result<Descriptors, OutOfMemory> {
        let file = Shared::new(OpenFile::new(Content::Console(console.clone()), Mode::ReadWrite))?;
        let entry = Entry { file, on_exec: OnExec::Keep };
        let mut files = Vec::new();
        files.try_reserve_exact(3).map_err(|_| OutOfMemory)?;
        files.extend([Some(entry.clone()), Some(entry.clone()), Some(entry)]);
        Ok(Descriptors(files))
    }

    /// A table with the same open files.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`].
    pub(crate) fn try_clone(&self) -> Result<Descriptors, OutOfMemory> {
        let mut files = Vec::new();
        files.try_reserve_exact(self.0.len()).map_err(|_| OutOfMemory)?;
        files.extend(self.0.iter().cloned());
        Ok(Descriptors(files))
    }

    fn entry(&self, descriptor: u32) -> Result<&Entry, Errno> {
        self.0.get(descriptor as usize).and_then(Option::as_ref).ok_or(Errno::BAD_FILE)
    }

    /// The file of `descriptor`.
    ///
    /// # Errors
    ///
    /// [`Errno::BAD_FILE`].
    pub(crate) fn get(&self, descriptor: u32) -> Result<Shared<OpenFile>, Errno> {
        Ok(self.entry(descriptor)?.file.clone())
    }

    /// Gives `file` the least free descriptor that is no less than `least`.
    ///
    /// # Errors
    ///
    /// [`Errno::TOO_MANY_FILES`], [`Errno::NO_MEMORY`].
    pub(crate) fn add(&mut self, file: Shared<OpenFile>, least: u32, on_exec: OnExec) -> Result<u32, Errno> {
        let least = least as usize;
        let free = (least..MOST).find(|&number| self.0.get(number).is_none_or(Option::is_none));
        let number = free.ok_or(Errno::TOO_MANY_FILES)?;
        self.put(number, Entry { file, on_exec })?;
        Ok(number as u32)
    }

    /// Gives `file` the descriptor `number`. Returns the file that this was, to be dropped without the table's
    /// lock.
    ///
    /// # Errors
    ///
    /// [`Errno::BAD_FILE`] if there can be no such descriptor, [`Errno::NO_MEMORY`].
    pub(crate) fn set(
        &mut self,
        number: u32,
        file: Shared<OpenFile>,
        on_exec: OnExec,
    ) -> Result<Option<Shared<OpenFile>>, Errno> {
        if number as usize >= MOST {
            return Err(Errno::BAD_FILE);
        }
        self.put(number as usize, Entry { file, on_exec })
    }

    fn put(&mut self, number: usize, entry: Entry) -> Result<Option<Shared<OpenFile>>, Errno> {
        if number >= self.0.len() {
            let more = number + 1 - self.0.len();
            self.0.try_reserve(more).map_err(|_| Errno::NO_MEMORY)?;
            self.0.resize(number + 1, None);
        }
        Ok(self.0[number].replace(entry).map(|former| former.file))
    }

    /// Says what becomes of `descriptor` with another program.
    ///
    /// # Errors
    ///
    /// [`Errno::BAD_FILE`].
    pub(crate) fn set_on_exec(&mut self, descriptor: u32, on_exec: OnExec) -> Result<(), Errno> {
        let entry = self.0.get_mut(descriptor as usize).and_then(Option::as_mut).ok_or(Errno::BAD_FILE)?;
        entry.on_exec = on_exec;
        Ok(())
    }

    /// Returns what becomes of `descriptor` with another program.
    ///
    /// # Errors
    ///
    /// [`Errno::BAD_FILE`].
    pub(crate) fn on_exec(&self, descriptor: u32) -> Result<OnExec, Errno> {
        Ok(self.entry(descriptor)?.on_exec)
    }

    /// Closes `descriptor`. Returns its file, to be dropped without the table's lock.
    ///
    /// # Errors
    ///
    /// [`Errno::BAD_FILE`].
    pub(crate) fn close(&mut self, descriptor: u32) -> Result<Shared<OpenFile>, Errno> {
        let entry = self.0.get_mut(descriptor as usize).and_then(Option::take);
        entry.map(|entry| entry.file).ok_or(Errno::BAD_FILE)
    }

    /// Closes what another program does not get, one by one: returns a file, to be dropped without the table's
    /// lock, until there is none.
    pub(crate) fn close_for_exec(&mut self) -> Option<Shared<OpenFile>> {
        let closes =
            |entry: &Option<Entry>| entry.as_ref().is_some_and(|entry| entry.on_exec == OnExec::Close);
        let entry = self.0.iter_mut().find(|entry| closes(entry))?;
        entry.take().map(|entry| entry.file)
    }

    /// Closes all. Returns what was open, to be dropped without the table's lock.
    pub(crate) fn close_all(&mut self) -> Descriptors {
        Descriptors(core::mem::take(&mut self.0))
    }
}
