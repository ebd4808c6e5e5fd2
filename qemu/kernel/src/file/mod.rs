//! What programs open: the console, files of the RAM disk, and files in memory, with names or without.

mod console;
mod descriptors;
mod memory_file;
mod named;
mod open;

pub use console::{Console, Records};
pub use descriptors::{Descriptors, LEAST_FREE};
pub use memory_file::MemoryFile;
pub use named::{Creation, open_named, remove_named};
pub use open::{Content, Mode, OpenFile, Whence};

use spin::Once;
use topomem_exec::Archive;

/// The RAM disk; set once, before programs run.
static RAM_DISK: Once<Archive<'static>> = Once::new();

/// Makes the files in `bytes` those that programs find.
pub fn set_ram_disk(bytes: &'static [u8]) {
    RAM_DISK.call_once(|| Archive::new(bytes));
}

/// The content of the RAM disk's file at `path`.
pub fn find(path: &[u8]) -> Option<&'static [u8]> {
    Some(RAM_DISK.get()?.find(path)?.content)
}
