//! What a mapping permits. Writable and executable at once cannot be expressed without a
//! capability.

/// What may be done with a page: nothing; or read, and with that write, or execute, or neither.
///
/// There is no constructor for "write and execute" but [`Access::write_execute`], which asks
/// for a capability:
///
/// ```compile_fail,E0451
/// let everything = topomem::Access { read: true, write: true, execute: true };
/// ```
///
/// ```
/// use topomem::Access;
///
/// assert!(Access::WRITE.writes() && !Access::WRITE.executes());
/// assert!(Access::EXECUTE.executes() && !Access::EXECUTE.writes());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Access {
    read: bool,
    write: bool,
    execute: bool,
}

impl Access {
    /// Nothing: the page keeps its contents, and no CPU finds them, in whatever mode.
    pub const NONE: Access = Access { read: false, write: false, execute: false };
    /// Read only.
    pub const READ: Access = Access { read: true, write: false, execute: false };
    /// Read and write.
    pub const WRITE: Access = Access { read: true, write: true, execute: false };
    /// Read and execute.
    pub const EXECUTE: Access = Access { read: true, write: false, execute: true };

    /// Read, write and execute: for who holds the capability.
    #[must_use]
    pub const fn write_execute(_: &WriteExecute) -> Access {
        Access { read: true, write: true, execute: true }
    }

    /// May it be read?
    #[must_use]
    pub const fn reads(self) -> bool {
        self.read
    }

    /// May it be written?
    #[must_use]
    pub const fn writes(self) -> bool {
        self.write
    }

    /// May it be executed?
    #[must_use]
    pub const fn executes(self) -> bool {
        self.execute
    }

    /// Is everything permitted that `other` permits?
    #[inline]
    pub(crate) const fn includes(self, other: Access) -> bool {
        (self.read | !other.read) & (self.write | !other.write) & (self.execute | !other.execute)
    }

    /// What the two bits of an entry that is present say, whoever wrote them.
    pub(crate) const fn from_bits(write: bool, execute: bool) -> Access {
        Access { read: true, write, execute }
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
    /// buffers. Without [`X64::PAT`](super::X64::PAT) in each CPU's IA32_PAT it is [`Cache::Uncached`],
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
