//! A process's open files, by descriptor.

extern crate alloc;

use alloc::vec::Vec;

use super::{Console, Content, Mode, OpenFile};
use crate::process::{OutOfMemory, Shared};
use crate::syscall::Errno;

/// Files that a process may have open.
const MOST: usize = 256;
/// The least descriptor where any will do.
pub const LEAST_FREE: u32 = 0;

/// The table.
#[derive(Debug)]
pub struct Descriptors(Vec<Option<Shared<OpenFile>>>);

impl Descriptors {
    /// Standard input, output and error, all of them `console`.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`].
    pub fn standard(console: &Shared<Console>) -> Result<Descriptors, OutOfMemory> {
        let file = Shared::new(OpenFile::new(Content::Console(console.clone()), Mode::ReadWrite))?;
        let mut files = Vec::new();
        files.try_reserve_exact(3).map_err(|_| OutOfMemory)?;
        files.extend([Some(file.clone()), Some(file.clone()), Some(file)]);
        Ok(Descriptors(files))
    }

    /// A table with the same open files.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`].
    pub fn try_clone(&self) -> Result<Descriptors, OutOfMemory> {
        let mut files = Vec::new();
        files.try_reserve_exact(self.0.len()).map_err(|_| OutOfMemory)?;
        files.extend(self.0.iter().cloned());
        Ok(Descriptors(files))
    }

    /// The file of `descriptor`.
    ///
    /// # Errors
    ///
    /// [`Errno::BAD_FILE`].
    pub fn get(&self, descriptor: u32) -> Result<Shared<OpenFile>, Errno> {
        self.0.get(descriptor as usize).and_then(Clone::clone).ok_or(Errno::BAD_FILE)
    }

    /// Gives `file` the least free descriptor that is no less than `least`.
    ///
    /// # Errors
    ///
    /// [`Errno::TOO_MANY_FILES`], [`Errno::NO_MEMORY`].
    pub fn add(&mut self, file: Shared<OpenFile>, least: u32) -> Result<u32, Errno> {
        let least = least as usize;
        let free = (least..MOST).find(|&number| self.0.get(number).is_none_or(Option::is_none));
        let number = free.ok_or(Errno::TOO_MANY_FILES)?;
        self.put(number, file)?;
        Ok(number as u32)
    }

    /// Gives `file` the descriptor `number`, whatever that was.
    ///
    /// # Errors
    ///
    /// [`Errno::BAD_FILE`] if there can be no such descriptor, [`Errno::NO_MEMORY`].
    pub fn set(&mut self, number: u32, file: Shared<OpenFile>) -> Result<(), Errno> {
        if number as usize >= MOST {
            return Err(Errno::BAD_FILE);
        }
        self.put(number as usize, file)
    }

    fn put(&mut self, number: usize, file: Shared<OpenFile>) -> Result<(), Errno> {
        if number >= self.0.len() {
            let more = number + 1 - self.0.len();
            self.0.try_reserve(more).map_err(|_| Errno::NO_MEMORY)?;
            self.0.resize(number + 1, None);
        }
        self.0[number] = Some(file);
        Ok(())
    }

    /// Closes `descriptor`.
    ///
    /// # Errors
    ///
    /// [`Errno::BAD_FILE`].
    pub fn close(&mut self, descriptor: u32) -> Result<(), Errno> {
        let file = self.0.get_mut(descriptor as usize).and_then(Option::take);
        file.map(drop).ok_or(Errno::BAD_FILE)
    }

    /// Closes all.
    pub fn close_all(&mut self) {
        self.0 = Vec::new();
    }
}
