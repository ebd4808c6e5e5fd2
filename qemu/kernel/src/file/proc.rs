//! Files of `/proc`: what the kernel tells a program about itself and the machine, written when one is opened.

extern crate alloc;

use alloc::vec::Vec;
use core::fmt::{self, Write};

use crate::memory::platform::pin;
use crate::memory::service::SERVICE;
use crate::process::{Process, Task};
use crate::syscall::Errno;

/// The program of the asking process, as a link leads there.
pub(crate) const OWN_PROGRAM: &[u8] = b"/proc/self/exe";

/// Returns the content of the file at `path` for the process of `task`; `None` if there is no such file.
///
/// # Errors
///
/// [`Errno::NO_MEMORY`].
pub(crate) fn content(task: &Task, path: &[u8]) -> Result<Option<Vec<u8>>, Errno> {
    let mut text = Text(Vec::new());
    let space = task.memory().space();
    let pin = pin();
    let written = match path {
        b"/proc/meminfo" => write!(text, "{}", SERVICE.meminfo()),
        b"/proc/self/maps" => write!(text, "{}", space.maps(&pin)),
        b"/proc/self/smaps" => write!(text, "{}", space.smaps(&pin)),
        b"/proc/self/numa_maps" => write!(text, "{}", space.numa_maps(&pin)),
        b"/proc/self/status" => write_status(task, &mut text),
        _ => return Ok(None),
    };
    written.map_err(|fmt::Error| Errno::NO_MEMORY)?;
    Ok(Some(text.0))
}

/// Writes what a process is, and what its memory comes to.
fn write_status(task: &Task, to: &mut Text) -> fmt::Result {
    let process: &Process = &task.thread.process;
    let usage = task.memory().space().usage(&pin());
    to.write_str("Name:\t")?;
    for chunk in task.memory().program().utf8_chunks() {
        to.write_str(chunk.valid())?;
    }
    writeln!(to, "\nTgid:\t{0}\nPid:\t{0}\nPPid:\t{1}", process.id, process.parent)?;
    writeln!(to, "Uid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0")?;
    for (name, pages) in [
        ("VmSize:", usage.total),
        ("VmRSS:", usage.private + usage.shared),
        ("RssAnon:", usage.private),
        ("RssShmem:", usage.shared),
    ] {
        writeln!(to, "{name}\t{:8} kB", pages * 4)?;
    }
    writeln!(to, "Threads:\t{}", process.thread_count())
}

/// Text that is written into memory.
struct Text(Vec<u8>);

impl Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.try_reserve(text.len()).map_err(|_| fmt::Error)?;
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}
