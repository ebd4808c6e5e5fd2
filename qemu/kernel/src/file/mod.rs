//! What programs open: the console, files of the RAM disk, and files in memory, with names or without.

mod console;
mod descriptors;
mod disk;
mod memory_file;
mod named;
mod open;

pub use console::{Console, Records};
pub use descriptors::{Descriptors, LEAST_FREE};
pub use disk::{are_disk_files_used, find, forget_disk_files, is_disk_file, open_disk_file, set_ram_disk};
pub use memory_file::MemoryFile;
pub use named::{Creation, open_named, remove_named};
pub use open::{Content, Mode, OpenFile, Whence};
