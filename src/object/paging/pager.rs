//! Pagers, supplied by a kernel for pages with a place outside memory.

use core::fmt;
use core::future::Future;
use core::ops::Range;

/// The reason why a pager failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PagerError {
    /// The device or file system failed (POSIX: EIO).
    Failed,
    /// No room for the page to write back (ENOSPC).
    NoSpace,
    /// The pager's task ended before its answer (EIO).
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

/// The place of objects' pages outside memory: a file system's files, for example.
///
/// [`PagerQueue::serve`](crate::object::PagerQueue::serve) calls the pager, one request after the other.
/// `key` comes from [`MemoryObject::paged`](crate::object::MemoryObject::paged), and offsets are in bytes.
/// The pager may allocate and wait as long as it likes. It must not access memory it serves.
///
/// ```
/// use core::ops::Range;
/// use topomem::object::{Pager, PagerError};
///
/// /// A pager without a device: pages are zero, and nothing can be written.
/// struct Nothing;
///
/// impl Pager for Nothing {
///     async fn read_in(&self, _key: u64, _offset: u64, _page: &mut [u8]) -> Result<(), PagerError> {
///         Ok(())
///     }
///     async fn write_back(&self, _key: u64, _offset: u64, _page: &[u8]) -> Result<(), PagerError> {
///         Err(PagerError::NoSpace)
///     }
///     async fn discard(&self, _key: u64, _range: Range<u64>) -> Result<(), PagerError> {
///         Ok(())
///     }
/// }
/// ```
pub trait Pager {
    /// Reads 4096 bytes of the file `key` at `offset`, a multiple of 4096, into `page`, which is
    /// zero before.
    ///
    /// # Errors
    ///
    /// Returns [`PagerError`] if the page cannot be read. The accesses waiting for the page then
    /// fail (SIGBUS).
    fn read_in(&self, key: u64, offset: u64, page: &mut [u8])
    -> impl Future<Output = Result<(), PagerError>>;

    /// Writes `page` to the file `key` at `offset`: up to 4096 bytes, none beyond the object's
    /// size. The object may have been shortened meanwhile; bytes of a file beyond its end are never
    /// read.
    ///
    /// # Errors
    ///
    /// Returns [`PagerError`] if the page cannot be written. The page then stays dirty.
    fn write_back(&self, key: u64, offset: u64, page: &[u8]) -> impl Future<Output = Result<(), PagerError>>;

    /// Discards the bytes of the file `key` in `range`, whose ends are multiples of 4096: later
    /// reads find zeros.
    ///
    /// # Errors
    ///
    /// Returns [`PagerError`] if the bytes cannot be discarded.
    fn discard(&self, key: u64, range: Range<u64>) -> impl Future<Output = Result<(), PagerError>>;
}
