//! Permissions of a mapping. Writable and executable at once cannot be expressed without a
//! capability.

use core::fmt;

/// The permitted accesses to a page: nothing, or reads, and in addition writes, execution, or
/// neither.
///
/// [`Access::write_execute`] is the only constructor for "write and execute", and requires a
/// capability:
///
/// ```compile_fail,E0423
/// let everything = topomem::Access(7);
/// ```
///
/// ```
/// use topomem::Access;
///
/// assert!(Access::WRITE.writes() && !Access::WRITE.executes());
/// assert!(Access::EXECUTE.executes() && !Access::EXECUTE.writes());
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Access(u8);

impl Access {
    /// The bits of the permitted accesses. The write and execute bits occur only with the read bit.
    pub(crate) const READ_BIT: u8 = 1 << 0;
    pub(crate) const WRITE_BIT: u8 = 1 << 1;
    pub(crate) const EXECUTE_BIT: u8 = 1 << 2;
    /// All three bits.
    pub(crate) const ALL_BITS: u8 = Access::READ_BIT | Access::WRITE_BIT | Access::EXECUTE_BIT;

    /// No access: the page keeps its contents, invisible to every CPU in every mode.
    pub const NONE: Access = Access(0);
    /// Read only.
    ///
    /// ```
    /// use topomem::Access;
    ///
    /// assert!(Access::READ.reads() && !Access::READ.writes());
    /// ```
    pub const READ: Access = Access(Access::READ_BIT);
    /// Read and write.
    pub const WRITE: Access = Access(Access::READ_BIT | Access::WRITE_BIT);
    /// Read and execute.
    pub const EXECUTE: Access = Access(Access::READ_BIT | Access::EXECUTE_BIT);

    /// Permits reads, writes and execution, for a holder of the capability.
    ///
    /// ```
    /// use topomem::{Access, WriteExecute};
    ///
    /// // SAFETY: the example maps no page.
    /// let capability = unsafe { WriteExecute::new() };
    /// assert!(Access::write_execute(&capability).writes());
    /// ```
    #[must_use]
    pub const fn write_execute(_: &WriteExecute) -> Access {
        Access(Access::WRITE.0 | Access::EXECUTE.0)
    }

    /// Returns whether reads are permitted.
    ///
    /// ```
    /// use topomem::Access;
    ///
    /// assert!(Access::READ.reads() && !Access::NONE.reads());
    /// ```
    #[must_use]
    pub const fn reads(self) -> bool {
        self.0 & Access::READ_BIT != 0
    }

    /// Returns whether writes are permitted.
    ///
    /// ```
    /// use topomem::Access;
    ///
    /// assert!(Access::WRITE.writes() && !Access::READ.writes());
    /// ```
    #[must_use]
    pub const fn writes(self) -> bool {
        self.0 & Access::WRITE_BIT != 0
    }

    /// Returns whether execution is permitted.
    ///
    /// ```
    /// use topomem::Access;
    ///
    /// assert!(Access::EXECUTE.executes() && !Access::WRITE.executes());
    /// ```
    #[must_use]
    pub const fn executes(self) -> bool {
        self.0 & Access::EXECUTE_BIT != 0
    }

    /// Returns whether every access permitted by `other` is permitted.
    #[inline]
    pub(crate) const fn includes(self, other: Access) -> bool {
        other.0 & !self.0 == 0
    }

    /// Returns the access without writes.
    #[inline]
    pub(crate) const fn without_writes(self) -> Access {
        Access(self.0 & !Access::WRITE_BIT)
    }

    /// Returns the bits.
    #[inline]
    pub(crate) const fn bits(self) -> u8 {
        self.0
    }

    /// Returns the access with the bits `bits`, a value of [`Access::bits`]. Further bits are
    /// ignored.
    #[inline]
    pub(crate) const fn of_bits(bits: u8) -> Access {
        Access(bits & Access::ALL_BITS)
    }

    /// Returns the access for the two bits of a present entry, by any writer.
    #[inline]
    pub(crate) const fn from_bits(write: bool, execute: bool) -> Access {
        let write = if write { Access::WRITE_BIT } else { 0 };
        let execute = if execute { Access::EXECUTE_BIT } else { 0 };
        Access(Access::READ_BIT | write | execute)
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access")
            .field("read", &self.reads())
            .field("write", &self.writes())
            .field("execute", &self.executes())
            .finish()
    }
}

/// The capability to map pages writable and executable at once.
///
/// ```
/// use topomem::WriteExecute;
///
/// // SAFETY: the pages hold a just-in-time compiler's code, which it vouches for.
/// let capability = unsafe { WriteExecute::new() };
/// # let _ = capability;
/// ```
#[derive(Debug)]
pub struct WriteExecute(());

impl WriteExecute {
    /// Creates the capability.
    ///
    /// # Safety
    ///
    /// A writer of such a page decides on the code executed by the CPU: the caller vouches for
    /// every use of the capability.
    #[must_use]
    pub const unsafe fn new() -> WriteExecute {
        WriteExecute(())
    }
}

/// The modes allowed to use a page.
///
/// ```
/// use topomem::{Privilege, Protection};
///
/// assert_eq!(Protection::USER_DATA.privilege(), Privilege::User);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Privilege {
    /// Kernel mode only.
    Kernel,
    /// User mode, too.
    User,
}

/// The caching of a page.
///
/// ```
/// use topomem::{Cache, Protection};
///
/// assert_eq!(Protection::DEVICE.cache(), Cache::Uncached);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cache {
    /// Ordinary memory.
    WriteBack,
    /// Reads are cached, writes go through to memory.
    WriteThrough,
    /// Not cached. Writes gather in a buffer and may reach the device together and late: frame
    /// buffers. Without [`X64::PAT`](super::x64::X64::PAT) in each CPU's IA32_PAT, the type is
    /// [`Cache::Uncached`], or as set by the MTRRs.
    WriteCombining,
    /// Device memory: every access reaches the device.
    Uncached,
}

/// The permissions of a mapping, the modes they apply to, and its caching.
///
/// ```
/// use topomem::page_table::{Cache, Privilege, Protection};
///
/// assert_eq!(Protection::USER_DATA.privilege(), Privilege::User);
/// assert!(Protection::USER_DATA.access().writes());
/// assert_eq!(Protection::DEVICE.cache(), Cache::Uncached);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Protection {
    access: Access,
    privilege: Privilege,
    cache: Cache,
}

impl Protection {
    /// The kernel's code.
    pub const KERNEL_CODE: Protection = Protection::kernel(Access::EXECUTE);
    /// The kernel's writable data.
    ///
    /// ```
    /// use topomem::Protection;
    ///
    /// assert!(Protection::KERNEL_DATA.access().writes());
    /// assert!(!Protection::KERNEL_DATA.access().executes());
    /// ```
    pub const KERNEL_DATA: Protection = Protection::kernel(Access::WRITE);
    /// The kernel's constants.
    pub const KERNEL_READ_ONLY: Protection = Protection::kernel(Access::READ);
    /// A program's code.
    ///
    /// ```
    /// use topomem::Protection;
    ///
    /// assert!(Protection::USER_CODE.access().executes());
    /// assert!(!Protection::USER_CODE.access().writes());
    /// ```
    pub const USER_CODE: Protection = Protection::user(Access::EXECUTE);
    /// A program's writable data.
    pub const USER_DATA: Protection = Protection::user(Access::WRITE);
    /// A program's constants.
    pub const USER_READ_ONLY: Protection = Protection::user(Access::READ);
    /// Device registers, for the kernel.
    pub const DEVICE: Protection = Protection::kernel(Access::WRITE).cached(Cache::Uncached);
    /// A frame buffer, for the kernel.
    pub const FRAME_BUFFER: Protection = Protection::kernel(Access::WRITE).cached(Cache::WriteCombining);

    /// Returns a protection of ordinary memory for kernel mode only.
    ///
    /// ```
    /// use topomem::{Access, Protection};
    ///
    /// assert_eq!(Protection::kernel(Access::WRITE), Protection::KERNEL_DATA);
    /// ```
    #[must_use]
    pub const fn kernel(access: Access) -> Protection {
        Protection { access, privilege: Privilege::Kernel, cache: Cache::WriteBack }
    }

    /// Returns a protection of ordinary memory for user mode, too.
    ///
    /// ```
    /// use topomem::{Access, Protection};
    ///
    /// assert_eq!(Protection::user(Access::EXECUTE), Protection::USER_CODE);
    /// ```
    #[must_use]
    pub const fn user(access: Access) -> Protection {
        Protection { access, privilege: Privilege::User, cache: Cache::WriteBack }
    }

    /// Sets the caching. All mappings of a frame must have the same caching: processors don't keep
    /// two memory types of an address coherent (Intel SDM vol. 3, 13.12.4).
    ///
    /// ```
    /// use topomem::{Cache, Protection};
    ///
    /// let screen = Protection::KERNEL_DATA.cached(Cache::WriteCombining);
    /// assert_eq!(screen, Protection::FRAME_BUFFER);
    /// ```
    #[must_use]
    pub const fn cached(self, cache: Cache) -> Protection {
        Protection { cache, ..self }
    }

    /// Returns the permitted accesses.
    ///
    /// ```
    /// use topomem::{Access, Protection};
    ///
    /// assert_eq!(Protection::KERNEL_CODE.access(), Access::EXECUTE);
    /// ```
    #[must_use]
    pub const fn access(self) -> Access {
        self.access
    }

    /// Returns the modes allowed.
    ///
    /// ```
    /// use topomem::{Privilege, Protection};
    ///
    /// assert_eq!(Protection::KERNEL_CODE.privilege(), Privilege::Kernel);
    /// ```
    #[must_use]
    pub const fn privilege(self) -> Privilege {
        self.privilege
    }

    /// Returns the caching.
    ///
    /// ```
    /// use topomem::{Cache, Protection};
    ///
    /// assert_eq!(Protection::FRAME_BUFFER.cache(), Cache::WriteCombining);
    /// ```
    #[must_use]
    pub const fn cache(self) -> Cache {
        self.cache
    }

    /// Returns the protection with another access.
    ///
    /// ```
    /// use topomem::{Access, Protection};
    ///
    /// assert_eq!(Protection::USER_DATA.with_access(Access::READ), Protection::USER_READ_ONLY);
    /// ```
    #[must_use]
    pub const fn with_access(self, access: Access) -> Protection {
        Protection { access, ..self }
    }

    pub(crate) const fn of(access: Access, privilege: Privilege, cache: Cache) -> Protection {
        Protection { access, privilege, cache }
    }
}
