//! What a mapping permits. Writable and executable at once cannot be expressed without a
//! capability.

use core::fmt;

/// What may be done with a page: nothing; or read, and with that write, or execute, or neither.
///
/// There is no constructor for "write and execute" but [`Access::write_execute`], which asks
/// for a capability:
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
    /// The bits of what may be done. The other two come with the first only.
    pub(crate) const READ_BIT: u8 = 1 << 0;
    pub(crate) const WRITE_BIT: u8 = 1 << 1;
    pub(crate) const EXECUTE_BIT: u8 = 1 << 2;
    /// All three.
    pub(crate) const ALL_BITS: u8 = Access::READ_BIT | Access::WRITE_BIT | Access::EXECUTE_BIT;

    /// Nothing: the page keeps its contents, and no CPU finds them, in whatever mode.
    pub const NONE: Access = Access(0);
    /// Read only.
    pub const READ: Access = Access(Access::READ_BIT);
    /// Read and write.
    pub const WRITE: Access = Access(Access::READ_BIT | Access::WRITE_BIT);
    /// Read and execute.
    pub const EXECUTE: Access = Access(Access::READ_BIT | Access::EXECUTE_BIT);

    /// Read, write and execute: for who holds the capability.
    #[must_use]
    pub const fn write_execute(_: &WriteExecute) -> Access {
        Access(Access::WRITE.0 | Access::EXECUTE.0)
    }

    /// May it be read?
    #[must_use]
    pub const fn reads(self) -> bool {
        self.0 & Access::READ_BIT != 0
    }

    /// May it be written?
    #[must_use]
    pub const fn writes(self) -> bool {
        self.0 & Access::WRITE_BIT != 0
    }

    /// May it be executed?
    #[must_use]
    pub const fn executes(self) -> bool {
        self.0 & Access::EXECUTE_BIT != 0
    }

    /// Is everything permitted that `other` permits?
    #[inline]
    pub(crate) const fn includes(self, other: Access) -> bool {
        other.0 & !self.0 == 0
    }

    /// The same, but for writes.
    #[inline]
    pub(crate) const fn without_writes(self) -> Access {
        Access(self.0 & !Access::WRITE_BIT)
    }

    /// The bits.
    #[inline]
    pub(crate) const fn bits(self) -> u8 {
        self.0
    }

    /// The access that has the bits `bits`, which [`Access::bits`] returned; other bits are not looked at.
    #[inline]
    pub(crate) const fn of_bits(bits: u8) -> Access {
        Access(bits & Access::ALL_BITS)
    }

    /// What the two bits of an entry that is present say, whoever wrote them.
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
#[derive(Debug)]
pub struct WriteExecute(());

impl WriteExecute {
    /// # Safety
    ///
    /// Whoever can write such a page decides what the CPU executes: the caller vouches for
    /// every use made of the capability.
    #[must_use]
    pub const unsafe fn new() -> WriteExecute {
        WriteExecute(())
    }
}

/// Who may use a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Privilege {
    /// The kernel only.
    Kernel,
    /// User mode too.
    User,
}

/// How a page is cached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cache {
    /// Ordinary memory.
    WriteBack,
    /// Reads are cached, writes go through.
    WriteThrough,
    /// Not cached; writes gather in a buffer and may reach the device together and late: frame
    /// buffers. Without [`X64::PAT`](super::x64::X64::PAT) in each CPU's IA32_PAT it is [`Cache::Uncached`],
    /// or what the MTRRs say.
    WriteCombining,
    /// Device memory: every access reaches the device.
    Uncached,
}

/// What a mapping permits, to whom, and how it is cached.
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
    pub const KERNEL_DATA: Protection = Protection::kernel(Access::WRITE);
    /// The kernel's constants.
    pub const KERNEL_READ_ONLY: Protection = Protection::kernel(Access::READ);
    /// A program's code.
    pub const USER_CODE: Protection = Protection::user(Access::EXECUTE);
    /// A program's writable data.
    pub const USER_DATA: Protection = Protection::user(Access::WRITE);
    /// A program's constants.
    pub const USER_READ_ONLY: Protection = Protection::user(Access::READ);
    /// Device registers, for the kernel.
    pub const DEVICE: Protection = Protection::kernel(Access::WRITE).cached(Cache::Uncached);
    /// A frame buffer, for the kernel.
    pub const FRAME_BUFFER: Protection = Protection::kernel(Access::WRITE).cached(Cache::WriteCombining);

    /// For the kernel only, ordinary memory.
    #[must_use]
    pub const fn kernel(access: Access) -> Protection {
        Protection { access, privilege: Privilege::Kernel, cache: Cache::WriteBack }
    }

    /// For user mode too, ordinary memory.
    #[must_use]
    pub const fn user(access: Access) -> Protection {
        Protection { access, privilege: Privilege::User, cache: Cache::WriteBack }
    }

    /// The same, cached so. All mappings of a frame must be cached alike: processors don't keep
    /// two memory types of one address coherent (Intel SDM vol. 3, 13.12.4).
    #[must_use]
    pub const fn cached(self, cache: Cache) -> Protection {
        Protection { cache, ..self }
    }

    /// What may be done.
    #[must_use]
    pub const fn access(self) -> Access {
        self.access
    }

    /// By whom.
    #[must_use]
    pub const fn privilege(self) -> Privilege {
        self.privilege
    }

    /// How it is cached.
    #[must_use]
    pub const fn cache(self) -> Cache {
        self.cache
    }

    /// The same for another access.
    #[must_use]
    pub const fn with_access(self, access: Access) -> Protection {
        Protection { access, ..self }
    }

    pub(crate) const fn of(access: Access, privilege: Privilege, cache: Cache) -> Protection {
        Protection { access, privilege, cache }
    }
}
