//! The files that every log can use.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;

use crate::log::operation::Descriptor;

/// The open files of one run.
pub(super) struct Files {
    first: File,
    first_read_only: File,
    first_write_only: File,
    second: File,
    pipe: OwnedFd,
    _pipe_end: OwnedFd,
    directory: File,
    pub(super) first_inode: u64,
    pub(super) second_inode: u64,
}

impl Files {
    /// Creates empty files.
    pub(super) fn create() -> io::Result<Files> {
        let first = memory_file()?;
        let second = memory_file()?;
        let path = format!("/proc/self/fd/{}", first.as_raw_fd());
        let mut ends = [0; 2];
        // SAFETY: `pipe2` writes two descriptors, which nobody else owns.
        let (pipe, pipe_end) = unsafe {
            if libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) != 0 {
                return Err(io::Error::last_os_error());
            }
            (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1]))
        };
        Ok(Files {
            first_read_only: File::open(&path)?,
            first_write_only: File::options().write(true).open(&path)?,
            pipe,
            _pipe_end: pipe_end,
            directory: File::open("/")?,
            first_inode: first.metadata()?.ino(),
            second_inode: second.metadata()?.ino(),
            first,
            second,
        })
    }

    /// Returns the number of a descriptor.
    pub(super) fn number(&self, file: Descriptor) -> RawFd {
        match file {
            Descriptor::First => self.first.as_raw_fd(),
            Descriptor::FirstReadOnly => self.first_read_only.as_raw_fd(),
            Descriptor::FirstWriteOnly => self.first_write_only.as_raw_fd(),
            Descriptor::Second => self.second.as_raw_fd(),
            Descriptor::Pipe => self.pipe.as_raw_fd(),
            Descriptor::Directory => self.directory.as_raw_fd(),
            Descriptor::Closed => 1 << 20,
        }
    }
}

fn memory_file() -> io::Result<File> {
    // SAFETY: the name is terminated by a zero; the new descriptor has no other owner.
    unsafe {
        let fd = libc::memfd_create(c"topomem-posix".as_ptr(), libc::MFD_CLOEXEC);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(File::from_raw_fd(fd)) }
    }
}
