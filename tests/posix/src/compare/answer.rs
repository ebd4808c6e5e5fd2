//! What systems answer.

use std::fmt;

use crate::log::operation::{OFFSETS, Protection};

/// An error number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Errno(pub i32);

macro_rules! error_numbers {
    ($($name:ident = $number:literal),* $(,)?) => {
        impl Errno {
            $(#[doc = concat!("`", stringify!($name), "`")] pub const $name: Errno = Errno($number);)*
        }

        impl fmt::Debug for Errno {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match *self {
                    $(Errno::$name => f.write_str(stringify!($name)),)*
                    Errno(number) => write!(f, "error {number}"),
                }
            }
        }
    };
}

error_numbers! {
    EPERM = 1, EIO = 5, EBADF = 9, EAGAIN = 11, ENOMEM = 12, EACCES = 13, EFAULT = 14, EBUSY = 16, EEXIST = 17,
    ENODEV = 19, EINVAL = 22, ENOSYS = 38, EOVERFLOW = 75, EOPNOTSUPP = 95,
}

impl Errno {
    /// What no system answers: the model's answer if the system chose an address that it must not choose.
    pub const BAD_CHOICE: Errno = Errno(-1);
}

/// Why an access did not go through: the signal and its code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// `SIGSEGV` with `SEGV_MAPERR`: nothing is mapped there.
    Unmapped,
    /// `SIGSEGV` with `SEGV_ACCERR` (or `SEGV_PKUERR`): the mapping does not permit the access.
    Denied,
    /// `SIGBUS` with `BUS_ADRERR`: the page is beyond the end of the object.
    BeyondEnd,
    /// Any other signal.
    Other {
        /// Its number.
        signal: i32,
        /// Its code.
        code: i32,
    },
    /// A signal whose address is not the accessed one.
    WrongAddress,
}

/// The contents of a page.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct View {
    /// The bytes at [`OFFSETS`].
    pub samples: [u8; OFFSETS.len()],
    /// All other bytes, of which there must be none but zeros.
    pub rest: Rest,
}

/// What a page holds besides its samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rest {
    /// Zeros alone.
    Zero,
    /// Some other byte.
    Dirty,
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x?}", self.samples)?;
        match self.rest {
            Rest::Zero => Ok(()),
            Rest::Dirty => f.write_str(" and bytes that were never written"),
        }
    }
}

/// What a listed mapping shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Shows {
    /// Private anonymous memory.
    Nothing,
    /// Shared anonymous memory, from this byte on.
    SharedMemory(u64),
    /// The first file, from this byte on.
    First(u64),
    /// The second file, from this byte on.
    Second(u64),
    /// Something else.
    Foreign,
}

impl Shows {
    /// Returns what a mapping that follows `length` bytes of this one shows if both are one.
    #[must_use]
    pub fn after(self, length: u64) -> Shows {
        match self {
            Shows::SharedMemory(offset) => Shows::SharedMemory(offset + length),
            Shows::First(offset) => Shows::First(offset + length),
            Shows::Second(offset) => Shows::Second(offset + length),
            other => other,
        }
    }
}

/// A run of pages in the list of mappings.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Listed {
    /// The first byte's address.
    pub start: u64,
    /// The address after the last byte.
    pub end: u64,
    /// Accesses.
    pub protection: Protection,
    /// Whether writes are seen by others.
    pub shared: bool,
    /// What is seen there.
    pub shows: Shows,
}

impl fmt::Debug for Listed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Listed { start, end, protection, shared, shows } = self;
        let kind = if *shared { 's' } else { 'p' };
        write!(f, "{start:#x}..{end:#x} {protection:?} {kind} {shows:?}")
    }
}

impl Listed {
    /// Joins `next` to this run if both are one mapping for all that a program can tell.
    pub fn join(&mut self, next: &Listed) -> bool {
        let is_alike = self.protection == next.protection && self.shared == next.shared;
        let follows = self.end == next.start && self.shows.after(self.end - self.start) == next.shows;
        if is_alike && follows {
            self.end = next.end;
        }
        is_alike && follows
    }
}

/// One answer of a system. Most operations have one; an inspection has many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Answer {
    /// Of a call.
    Returned(Result<u64, Errno>),
    /// Of an access: the byte that was read, or 0.
    Touched(Result<u8, Fault>),
    /// A run of the list of mappings.
    Mapping(Listed),
    /// A page of the list.
    Page {
        /// Its address.
        address: u64,
        /// Its contents, or why it cannot be read.
        view: Result<View, Fault>,
    },
    /// Of a fork or an exit.
    Done,
}
