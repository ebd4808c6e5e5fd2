//! Errors of operations on objects.

use core::fmt;

use topomem_numa::frames::AllocError;

use super::paging::pager::PagerError;
use super::paging::wait::PageWait;

/// The reason why an operation on an object failed, or stopped before its end.
///
/// ```
/// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
/// # booted::run(|service, pin| {
/// use topomem::object::{MemoryObject, ObjectError};
///
/// let object = MemoryObject::anonymous(service, pin, 4096)?;
/// assert_eq!(object.set_size(pin, u64::MAX), Err(ObjectError::TooLarge));
/// # Ok(())
/// # }).unwrap();
/// ```
#[derive(Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ObjectError {
    /// A page has to be read in: wait, and try again.
    Waits(PageWait),
    /// The pager failed (POSIX: EIO, ENOSPC).
    Pager(PagerError),
    /// No frame for a page, or for the search and the removal of pages (ENOMEM).
    OutOfFrames(AllocError),
    /// The page lies beyond the object's end (SIGBUS).
    BeyondEnd,
    /// The length exceeds the limit of objects (EFBIG).
    TooLarge,
}

impl fmt::Display for ObjectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ObjectError::Waits(_) => f.write_str("the page has to be read in"),
            ObjectError::Pager(error) => error.fmt(f),
            ObjectError::OutOfFrames(error) => error.fmt(f),
            ObjectError::BeyondEnd => f.write_str("the page lies beyond the object's end"),
            ObjectError::TooLarge => f.write_str("no object is so long"),
        }
    }
}

impl core::error::Error for ObjectError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            ObjectError::Pager(error) => Some(error),
            ObjectError::OutOfFrames(error) => Some(error),
            _ => None,
        }
    }
}
