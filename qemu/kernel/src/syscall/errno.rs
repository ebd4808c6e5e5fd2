//! Linux's error numbers.

use linux_raw_sys::errno;
use topomem::frames::AllocError;
use topomem::{MapError, ProtectError, RemapError, UnmapError};

use crate::arch::user::UserFault;
use crate::process::OutOfMemory;

/// Why a system call failed, as programs are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Errno(u32);

macro_rules! numbers {
    ($($name:ident = $number:ident,)*) => {
        #[allow(missing_docs, reason = "Linux's names")]
        impl Errno {
            $(pub const $name: Errno = Errno(errno::$number);)*
        }
    };
}

numbers! {
    ACCESS = EACCES,
    AGAIN = EAGAIN,
    BAD_FILE = EBADF,
    CHILD = ECHILD,
    EXISTS = EEXIST,
    FAULT = EFAULT,
    FILE_TOO_BIG = EFBIG,
    INTERRUPTED = EINTR,
    INVALID = EINVAL,
    NO_DEVICE = ENODEV,
    NO_ENTRY = ENOENT,
    NO_MEMORY = ENOMEM,
    NO_PROCESS = ESRCH,
    NO_SYSTEM_CALL = ENOSYS,
    NO_TERMINAL = ENOTTY,
    NOT_PERMITTED = EPERM,
    READ_ONLY = EROFS,
    SEEK = ESPIPE,
    TIMED_OUT = ETIMEDOUT,
    TOO_LONG = ENAMETOOLONG,
    TOO_MANY_FILES = EMFILE,
}

impl Errno {
    /// What the system call's register holds.
    pub fn value(self) -> u64 {
        u64::from(self.0).wrapping_neg()
    }
}

impl From<OutOfMemory> for Errno {
    fn from(_: OutOfMemory) -> Errno {
        Errno::NO_MEMORY
    }
}

impl From<UserFault> for Errno {
    fn from(_: UserFault) -> Errno {
        Errno::FAULT
    }
}

impl From<AllocError> for Errno {
    fn from(_: AllocError) -> Errno {
        Errno::NO_MEMORY
    }
}

impl From<MapError> for Errno {
    fn from(error: MapError) -> Errno {
        match error {
            MapError::AlreadyMapped { .. } => Errno::EXISTS,
            MapError::OutsideSpace(_) | MapError::OutOfFrames(_) => Errno::NO_MEMORY,
            _ => Errno::INVALID,
        }
    }
}

impl From<UnmapError> for Errno {
    fn from(error: UnmapError) -> Errno {
        match error {
            UnmapError::OutsideSpace(_) => Errno::INVALID,
            UnmapError::OutOfFrames(_) => Errno::NO_MEMORY,
        }
    }
}

impl From<RemapError> for Errno {
    fn from(_: RemapError) -> Errno {
        Errno::NO_MEMORY
    }
}

impl From<ProtectError> for Errno {
    fn from(error: ProtectError) -> Errno {
        match error {
            ProtectError::OutsideSpace(_) | ProtectError::OutOfFrames(_) => Errno::NO_MEMORY,
            ProtectError::WrongPrivilege => Errno::ACCESS,
        }
    }
}
