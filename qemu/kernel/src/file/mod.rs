//! What programs open: the console, files of the RAM disk, files in memory, with names or without, pipes, and what
//! the kernel tells.

mod console;
mod descriptors;
mod disk;
mod memory_file;
mod named;
mod open;
mod pipe;
mod proc;

pub(crate) use console::{Console, Records};
pub(crate) use descriptors::{Descriptors, LEAST_FREE, OnExec};
pub(crate) use disk::{find, forget_disk_files, open_disk_file, set_ram_disk};
pub(crate) use memory_file::MemoryFile;
pub(crate) use named::{Creation, open_named, remove_named};
pub(crate) use open::{Content, Mode, OpenFile, Whence};
pub(crate) use pipe::{Blocking, pipe, pipes_changed};
pub(crate) use proc::{OWN_PROGRAM, content};
