//! Page faults: the access, the outcome of the handling, and the reasons of a refusal.

use core::fmt;

use topomem_numa::frames::AllocError;
use topomem_shootdown::{PageSize, VirtAddr};

use crate::object::PageWait;
use crate::page_table::Access;
use crate::region::record::FaultClass;

/// The kind of a faulting access.
///
/// ```
/// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
/// # booted::run(|service, pin| {
/// use topomem::region::{FaultAccess, MapRequest, PageFault};
///
/// let space = service.create_space(pin)?;
/// let start = space.mmap(pin, &MapRequest::anonymous(8192))?;
/// space.on_page_fault(pin, PageFault::new(start, FaultAccess::Read))?; // maps the frame of zeros
/// assert_eq!(space.mapped_pages(), 1);
/// # Ok(())
/// # }).unwrap();
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FaultAccess {
    /// A read.
    Read,
    /// A write.
    Write,
    /// An instruction fetch.
    Execute,
}

/// An access refused by the hardware.
///
/// ```
/// use topomem::VirtAddr;
/// use topomem::region::{FaultAccess, PageFault};
///
/// // In the page-fault handler, from CR2 and the error code:
/// let (address, error) = (VirtAddr::new_truncate(0x40_0123), 0b111_u64);
/// let access = if error & 2 != 0 { FaultAccess::Write } else { FaultAccess::Read };
/// let fault = PageFault::new(address, access);
/// let fault = if error & 1 != 0 { fault.not_permitted() } else { fault };
/// # let _ = fault;
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageFault {
    pub(super) address: VirtAddr,
    pub(super) access: FaultAccess,
    pub(super) cause: Cause,
}

/// The hardware's finding at the address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// No translation.
    NotPresent,
    /// A translation without permission for the access.
    NotPermitted,
    /// Unknown. The page has been awaited.
    Awaited,
}

impl PageFault {
    /// Returns the fault of an access to the byte at `address`.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// use topomem::region::{FaultAccess, MapRequest, PageFault};
    ///
    /// let space = service.create_space(pin)?;
    /// let start = space.mmap(pin, &MapRequest::anonymous(8192))?;
    /// space.on_page_fault(pin, PageFault::new(start, FaultAccess::Write))?;
    /// assert_eq!(space.mapped_pages(), 1);
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    #[must_use]
    pub const fn new(address: VirtAddr, access: FaultAccess) -> PageFault {
        PageFault { address, access, cause: Cause::NotPresent }
    }

    /// Marks the fault as caused by a translation without permission for the access (bit 0 of the
    /// error code of x86). The result is the same, and cheaper if the mark is right.
    #[must_use]
    pub const fn not_permitted(self) -> PageFault {
        PageFault { cause: Cause::NotPermitted, ..self }
    }

    /// Marks the fault as repeated after a wait for [`FaultError::Waits`]. The fault then counts as
    /// [major](crate::AddressSpace::major_faults), not as minor.
    #[must_use]
    pub const fn after_wait(self) -> PageFault {
        PageFault { cause: Cause::Awaited, ..self }
    }

    pub(super) fn class(&self) -> FaultClass {
        match self.cause {
            Cause::Awaited => FaultClass::Major,
            Cause::NotPresent | Cause::NotPermitted => FaultClass::Minor,
        }
    }
}

/// The handling of a fault: the access may be repeated.
///
/// ```
/// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
/// # booted::run(|service, pin| {
/// use topomem::region::{FaultAccess, MapRequest, PageFault};
///
/// let space = service.create_space(pin)?;
/// let start = space.mmap(pin, &MapRequest::anonymous(8192))?;
/// let resolved = space.on_page_fault(pin, PageFault::new(start, FaultAccess::Write))?;
/// println!("{resolved:?}"); // the program makes the access again
/// # Ok(())
/// # }).unwrap();
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Resolved {
    /// The page is mapped to a frame of zeros.
    Zeroed,
    /// A page of this size around the address is mapped to frames of zeros.
    ZeroedLarge(PageSize),
    /// The page is mapped for reading to the frame of zeros shared by all spaces.
    ZeroPage,
    /// The page has got a copy of its shared frame.
    Copied,
    /// The page's formerly shared frame belongs to the space alone by now, and is writable.
    Reused,
    /// The page is mapped to a page of a memory object, whose frame may be shared.
    ObjectPage,
    /// The page has got a copy of a page of a memory object, without having been mapped to the
    /// object before.
    PrivateCopy,
    /// The mapped page of a memory object has become writable.
    MadeWritable,
    /// The access was permitted at the look: another CPU had handled its fault, or this CPU's
    /// translation was out of date.
    Spurious,
}

impl Resolved {
    /// Returns whether nothing was mapped before.
    pub(super) fn maps(self) -> bool {
        matches!(
            self,
            Resolved::Zeroed
                | Resolved::ZeroedLarge(_)
                | Resolved::ZeroPage
                | Resolved::ObjectPage
                | Resolved::PrivateCopy
        )
    }
}

/// The reason why an access is not permitted, or not yet.
///
/// ```
/// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
/// # booted::run(|service, pin| {
/// use topomem::VirtAddr;
/// use topomem::region::{FaultAccess, FaultError, PageFault};
///
/// let space = service.create_space(pin)?;
/// let wild = PageFault::new(VirtAddr::new(0x1000)?, FaultAccess::Read);
/// assert!(space.on_page_fault(pin, wild).is_err()); // SIGSEGV
/// # let _: Option<FaultError> = None;
/// # Ok(())
/// # }).unwrap();
/// ```
#[derive(Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FaultError {
    /// The page belongs to no region (POSIX: SIGSEGV, SEGV_MAPERR).
    NotMapped,
    /// The page's region does not permit the access (SIGSEGV, SEGV_ACCERR).
    Denied,
    /// The page's region permits the access, but the page is a guard (SIGSEGV; Linux says
    /// SEGV_MAPERR).
    Guarded,
    /// No frame for the page, or for page tables.
    OutOfFrames(AllocError),
    /// No page of the size requested for the region (SIGBUS).
    NoLargePage(PageSize, AllocError),
    /// The page lies beyond the end of its memory object (SIGBUS, BUS_ADRERR).
    BeyondEnd,
    /// The page has to be read in by a pager. If the future resolves to `Ok`, the access, or the
    /// call, is to be repeated ([`PageFault::after_wait`]). If it resolves to an error, the pager
    /// failed: SIGBUS.
    Waits(PageWait),
    /// The page's frame has the greatest countable number of holders (SIGBUS).
    TooManySharers,
}

impl fmt::Display for FaultError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FaultError::NotMapped => f.write_str("the page belongs to no region"),
            FaultError::Denied => f.write_str("the page's region does not permit such an access"),
            FaultError::Guarded => f.write_str("the page is a guard"),
            FaultError::OutOfFrames(error) => error.fmt(f),
            FaultError::NoLargePage(size, error) => write!(f, "no page of {} bytes: {error}", size.bytes()),
            FaultError::BeyondEnd => f.write_str("the page lies beyond the end of its object"),
            FaultError::Waits(_) => f.write_str("the page has to be read in"),
            FaultError::TooManySharers => f.write_str("the page's frame is shared by too many"),
        }
    }
}

impl core::error::Error for FaultError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            FaultError::OutOfFrames(error) => Some(error),
            FaultError::NoLargePage(_, error) => Some(error),
            _ => None,
        }
    }
}

/// Returns whether `access` permits the attempted access. Writable or executable pages are
/// readable.
#[inline]
pub(in crate::region) fn permits(access: Access, tried: FaultAccess) -> bool {
    match tried {
        FaultAccess::Read => access.reads(),
        FaultAccess::Write => access.writes(),
        FaultAccess::Execute => access.executes(),
    }
}
