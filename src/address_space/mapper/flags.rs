//! The `x86_64` crate's entry flags, and their equivalents.

use core::fmt;

use topomem_shootdown::PageSize;
use x86_64::structures::paging::PageTableFlags;

use super::super::Translation;
use super::super::layout::SpaceKind;
use crate::page_table::{Access, Cache, Privilege, Protection, Reach};

/// The reason why flags are not a valid [`Protection`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FlagsError {
    /// `PRESENT` is missing. Entries are either mappings or empty.
    NotPresent,
    /// `WRITABLE` without `NO_EXECUTE`.
    WriteExecute,
    /// `GLOBAL` in a user space.
    Global,
    /// The table flags would narrow the permissions of the page's own flags. Tables permit
    /// everything; only a page's own entry decides.
    NarrowTables(PageTableFlags),
    /// Flags without a meaning: software bits (topomem has its own), and bit 7 of a 4 KiB page (its
    /// memory type).
    Unknown(PageTableFlags),
}

impl fmt::Display for FlagsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FlagsError::NotPresent => f.write_str("the flags lack PRESENT"),
            FlagsError::WriteExecute => f.write_str("the flags permit writing and executing at once"),
            FlagsError::Global => f.write_str("a page of a user space cannot be global"),
            FlagsError::NarrowTables(flags) => write!(f, "tables cannot be narrowed to {flags:?}"),
            FlagsError::Unknown(flags) => write!(f, "the flags {flags:?} have no meaning here"),
        }
    }
}

impl core::error::Error for FlagsError {}

/// Returns the flags of a translation.
pub(super) fn flags_of(found: &Translation) -> PageTableFlags {
    let protection = found.leaf.protection;
    let mut flags = PageTableFlags::PRESENT;
    flags.set(PageTableFlags::WRITABLE, protection.access().writes());
    flags.set(PageTableFlags::NO_EXECUTE, !protection.access().executes());
    flags.set(PageTableFlags::USER_ACCESSIBLE, protection.privilege() == Privilege::User);
    flags.set(PageTableFlags::GLOBAL, found.leaf.reach == Reach::Global);
    flags.set(PageTableFlags::HUGE_PAGE, found.size > PageSize::Size4KiB);
    let (no_cache, write_through) = match protection.cache() {
        Cache::WriteBack => (false, false),
        Cache::WriteThrough => (false, true),
        Cache::WriteCombining => (true, false),
        Cache::Uncached => (true, true),
    };
    flags.set(PageTableFlags::NO_CACHE, no_cache);
    flags.set(PageTableFlags::WRITE_THROUGH, write_through);
    flags
}

/// Returns the protection of `flags` for a page of `size` in a space of `kind`. The inverse of
/// [`flags_of`], except for `NO_CACHE` alone, which means uncached instead of write combining.
///
/// `ACCESSED` and `DIRTY` belong to the hardware, and are ignored.
pub(super) fn protection_of(
    flags: PageTableFlags,
    size: PageSize,
    kind: SpaceKind,
) -> Result<Protection, FlagsError> {
    let mut known = PageTableFlags::PRESENT
        | PageTableFlags::WRITABLE
        | PageTableFlags::USER_ACCESSIBLE
        | PageTableFlags::WRITE_THROUGH
        | PageTableFlags::NO_CACHE
        | PageTableFlags::ACCESSED
        | PageTableFlags::DIRTY
        | PageTableFlags::GLOBAL
        | PageTableFlags::NO_EXECUTE;
    known.set(PageTableFlags::HUGE_PAGE, size > PageSize::Size4KiB);
    let unknown = flags.difference(known);
    if !unknown.is_empty() {
        return Err(FlagsError::Unknown(unknown));
    }
    if !flags.contains(PageTableFlags::PRESENT) {
        return Err(FlagsError::NotPresent);
    }
    if flags.contains(PageTableFlags::GLOBAL) && kind == SpaceKind::User {
        return Err(FlagsError::Global);
    }
    let writes = flags.contains(PageTableFlags::WRITABLE);
    let access = match (writes, !flags.contains(PageTableFlags::NO_EXECUTE)) {
        (true, true) => return Err(FlagsError::WriteExecute),
        (true, false) => Access::WRITE,
        (false, true) => Access::EXECUTE,
        (false, false) => Access::READ,
    };
    let user = flags.contains(PageTableFlags::USER_ACCESSIBLE);
    let protection = if user { Protection::user(access) } else { Protection::kernel(access) };
    Ok(protection.cached(if flags.contains(PageTableFlags::NO_CACHE) {
        Cache::Uncached
    } else if flags.contains(PageTableFlags::WRITE_THROUGH) {
        Cache::WriteThrough
    } else {
        Cache::WriteBack
    }))
}

/// Checks whether a page of `flags` has the same permissions under tables permitting everything as
/// under tables of `tables`.
///
/// `Mapper` lets implementations choose whether tables are writable, but not whether user mode or
/// instruction fetches get through them.
pub(super) fn check_tables(flags: PageTableFlags, tables: PageTableFlags) -> Result<(), FlagsError> {
    let user = flags.contains(PageTableFlags::USER_ACCESSIBLE);
    let executable = !flags.contains(PageTableFlags::NO_EXECUTE);
    let closed_to_user = user && !tables.contains(PageTableFlags::USER_ACCESSIBLE);
    let closed_to_fetches = executable && tables.contains(PageTableFlags::NO_EXECUTE);
    if closed_to_user || closed_to_fetches { Err(FlagsError::NarrowTables(tables)) } else { Ok(()) }
}
