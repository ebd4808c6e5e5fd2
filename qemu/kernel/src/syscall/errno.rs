//! Linux's error numbers.

use linux_raw_sys::errno;
use topomem::object::ObjectError;
use topomem::region::{
    AssignError, CollapseError, MadviseError, MmapError, MoveError, MprotectError, MremapError, MunmapError,
};
use topomem_exec::StackError;

use crate::arch::user::UserFault;
use crate::process::{Interrupted, OutOfMemory, StartError};

/// Why a system call failed, as programs are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Errno(u32);

macro_rules! numbers {
    ($($name:ident = $number:ident,)*) => {
        #[allow(missing_docs, reason = "Linux's names")]
        impl Errno {
            $(pub(crate) const $name: Errno = Errno(errno::$number);)*
        }
    };
}

numbers! {
    ACCESS = EACCES,
    AGAIN = EAGAIN,
    BAD_FILE = EBADF,
    BUSY = EBUSY,
    CHILD = ECHILD,
    EXISTS = EEXIST,
    FAULT = EFAULT,
    FILE_TOO_BIG = EFBIG,
    FOLDER = EISDIR,
    INPUT_OUTPUT = EIO,
    INTERRUPTED = EINTR,
    INVALID = EINVAL,
    NO_DEVICE = ENODEV,
    NO_ENTRY = ENOENT,
    NO_EXECUTABLE = ENOEXEC,
    NO_MEMORY = ENOMEM,
    NO_PROCESS = ESRCH,
    NO_SYSTEM_CALL = ENOSYS,
    NO_TERMINAL = ENOTTY,
    NOT_PERMITTED = EPERM,
    OUT_OF_RANGE = ERANGE,
    OVERFLOW = EOVERFLOW,
    PIPE = EPIPE,
    READ_ONLY = EROFS,
    SEEK = ESPIPE,
    TIMED_OUT = ETIMEDOUT,
    TOO_LONG = ENAMETOOLONG,
    TOO_MANY_ARGUMENTS = E2BIG,
    TOO_MANY_FILES = EMFILE,
}

impl Errno {
    /// What the system call's register holds.
    pub(crate) fn value(self) -> u64 {
        u64::from(self.0).wrapping_neg()
    }
}

impl From<OutOfMemory> for Errno {
    fn from(_: OutOfMemory) -> Errno {
        Errno::NO_MEMORY
    }
}

impl From<Interrupted> for Errno {
    fn from(_: Interrupted) -> Errno {
        Errno::INTERRUPTED
    }
}

impl From<StartError> for Errno {
    fn from(error: StartError) -> Errno {
        match error {
            StartError::Image(_) => Errno::NO_EXECUTABLE,
            StartError::Stack(StackError::TooLong) => Errno::TOO_MANY_ARGUMENTS,
            StartError::Memory(error) => error,
            StartError::Stack(StackError::OutOfMemory) | StartError::Spawn(_) => Errno::NO_MEMORY,
        }
    }
}

impl From<UserFault> for Errno {
    fn from(_: UserFault) -> Errno {
        Errno::FAULT
    }
}

impl From<ObjectError> for Errno {
    fn from(error: ObjectError) -> Errno {
        match error {
            ObjectError::Pager(_) => Errno::INPUT_OUTPUT,
            ObjectError::TooLarge => Errno::FILE_TOO_BIG,
            _ => Errno::NO_MEMORY,
        }
    }
}

impl From<MmapError> for Errno {
    fn from(error: MmapError) -> Errno {
        match error {
            MmapError::Empty | MmapError::Misaligned(_) | MmapError::Unsupported(_) => Errno::INVALID,
            MmapError::MisalignedOffset(_) => Errno::INVALID,
            MmapError::OffsetOverflow => Errno::OVERFLOW,
            MmapError::Occupied(_) => Errno::EXISTS,
            MmapError::Denied | MmapError::WriteExecute => Errno::ACCESS,
            _ => Errno::NO_MEMORY,
        }
    }
}

impl From<MunmapError> for Errno {
    fn from(error: MunmapError) -> Errno {
        match error {
            MunmapError::OutOfFrames(_) => Errno::NO_MEMORY,
            _ => Errno::INVALID,
        }
    }
}

impl From<MprotectError> for Errno {
    fn from(error: MprotectError) -> Errno {
        match error {
            MprotectError::Misaligned(_) => Errno::INVALID,
            MprotectError::Denied(_) | MprotectError::WriteExecute(_) => Errno::ACCESS,
            _ => Errno::NO_MEMORY,
        }
    }
}

impl From<MremapError> for Errno {
    fn from(error: MremapError) -> Errno {
        match error {
            MremapError::Misaligned(_) | MremapError::Empty | MremapError::Overlap => Errno::INVALID,
            MremapError::NoRegion(_) => Errno::FAULT,
            _ => Errno::NO_MEMORY,
        }
    }
}

impl From<CollapseError> for Errno {
    fn from(error: CollapseError) -> Errno {
        match error {
            CollapseError::Misaligned(_) | CollapseError::Unfit(_) => Errno::INVALID,
            CollapseError::Busy(_) => Errno::AGAIN,
            _ => Errno::NO_MEMORY,
        }
    }
}

impl From<MadviseError> for Errno {
    fn from(error: MadviseError) -> Errno {
        match error {
            MadviseError::Misaligned(_) | MadviseError::Denied(_) => Errno::INVALID,
            MadviseError::Guarded(_) => Errno::FAULT,
            _ => Errno::NO_MEMORY,
        }
    }
}

impl From<AssignError> for Errno {
    fn from(error: AssignError) -> Errno {
        match error {
            AssignError::Misaligned(_) => Errno::INVALID,
            AssignError::OutsideSpace | AssignError::NoRegion => Errno::FAULT,
            _ => Errno::NO_MEMORY,
        }
    }
}

impl From<MoveError> for Errno {
    fn from(error: MoveError) -> Errno {
        match error {
            MoveError::NotPresent => Errno::NO_ENTRY,
            MoveError::Shared => Errno::ACCESS,
            MoveError::Busy => Errno::BUSY,
            MoveError::OutOfFrames(_) => Errno::NO_MEMORY,
            _ => Errno::FAULT,
        }
    }
}
