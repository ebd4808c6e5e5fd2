//! What a kernel supplies for pages that have another place than memory.

use core::fmt;
use core::future::Future;
use core::ops::Range;

/// Why a pager did not do what it was asked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PagerError {
    /// The device or file system failed (POSIX: EIO).
    Failed,
    /// There is no room for what is to be written back (ENOSPC).
    NoSpace,
    /// The pager's task ended before it answered (EIO).
    Stopped,
}

impl fmt::Display for PagerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PagerError::Failed => "the pager failed",
            PagerError::NoSpace => "the pager has no room for the page",
            PagerError::Stopped => "the pager's task ended before it answered",
        })
    }
}

impl core::error::Error for PagerError {}

/// The place that pages of objects come from and go to: a file system's files, say.
///
/// [`PagerQueue::serve`](super::PagerQueue::serve) asks it, one request after the other. `key` is what
/// [`MemoryObject::paged`](super::MemoryObject::paged) was given, and offsets are in bytes. It may allocate
/// and wait as long as it likes; it must not access memory that it serves.
pub trait Pager {
    /// Reads what the file `key` has at `offset`, a multiple of 4096, to `page`: 4096 bytes, zero before.
    ///
    /// # Errors
    ///
    /// [`PagerError`]: the accesses that wait for the page fail (SIGBUS).
    fn read_in(&self, key: u64, offset: u64, page: &mut [u8])
    -> impl Future<Output = Result<(), PagerError>>;

    /// Writes `page` to the file `key` at `offset`: up to 4096 bytes, none beyond the object's size. The
    /// object may have been cut meanwhile; what a file has beyond its end is not read.
    ///
    /// # Errors
    ///
    /// [`PagerError`]: the page stays dirty.
    fn write_back(&self, key: u64, offset: u64, page: &[u8]) -> impl Future<Output = Result<(), PagerError>>;

    /// Gives up what the file `key` has in `range`, which begins and ends at multiples of 4096: later reads
    /// find zeros.
    ///
    /// # Errors
    ///
    /// [`PagerError`].
    fn discard(&self, key: u64, range: Range<u64>) -> impl Future<Output = Result<(), PagerError>>;
}
