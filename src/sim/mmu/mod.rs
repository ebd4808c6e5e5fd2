//! Translates addresses by the page tables in RAM, as an x86-64 processor with four levels does.
//!
//! A hit in the CPU's own [`Tlb`] is used even where the tables say otherwise by now: that is the
//! point. A miss walks the bytes of the tables.
//!
//! # Accessed and dirty bits
//!
//! A walk marks each entry that it uses as accessed, and the page's entry as dirty if the access
//! writes (Intel SDM volume 3, 4.8). Each mark is one locked read-modify-write that changes the entry
//! only if the entry is still what the walk has read; else the walk reads it again. So software that
//! replaces an entry atomically either gets the mark with the old entry, or the walk finds the new
//! entry.
//!
//! A translation that was cached by a read is not known to be dirty. The first write through it walks
//! again, from the nearest cached way, and uses what that walk finds. So such a write may mark an entry
//! of a table that was unlinked, if the CPU has not dropped its way there, and it faults if the entry
//! permits no write any more. Reads never do that: they use a stale translation until it is flushed.

pub(super) mod broadcast;
pub(super) mod memory;
pub(super) mod tlb;

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

use topomem_percpu::PhysAddr;

use super::arena::Arena;
use tlb::{Branch, Level, Rights, Tlb, Translation};

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const GLOBAL: u64 = 1 << 8;
const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// What an access does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reads data.
    Read,
    /// Writes data.
    Write,
    /// Fetches an instruction.
    Execute,
}

/// Who accesses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Privilege {
    /// The kernel, with CR0.WP set: it may not write through read-only pages either, and with
    /// SMEP: it may not execute user pages.
    Kernel,
    /// A user program.
    User,
}

/// Why an access did not go through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// An entry on the way is not present; `level` 1 is the table of 4 KiB pages.
    NotPresent {
        /// The accessed address.
        address: u64,
        /// Whose entry it was.
        level: u8,
    },
    /// The page is there, but does not allow the access.
    Denied {
        /// The accessed address.
        address: u64,
        /// What was tried.
        access: Access,
    },
    /// The address is not the sign extension of its low 48 bits.
    NotCanonical(u64),
    /// The address is not a multiple of eight; the sim accesses whole words.
    Misaligned(u64),
    /// The way leads out of RAM: a table or page that no RAM answers for.
    BusError {
        /// The accessed address.
        address: u64,
        /// Where the tables led.
        physical: PhysAddr,
    },
    /// The CPU has loaded no root.
    NoRoot(u64),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::NotPresent { address, level } => write!(f, "{address:#x} is not present at level {level}"),
            Fault::Denied { address, access } => write!(f, "{address:#x} does not allow {access:?}"),
            Fault::NotCanonical(address) => write!(f, "{address:#x} is not canonical"),
            Fault::Misaligned(address) => write!(f, "{address:#x} is not a multiple of 8"),
            Fault::BusError { address, physical } => {
                write!(f, "{address:#x} leads to {physical:?}, where there is no RAM")
            }
            Fault::NoRoot(address) => write!(f, "{address:#x} accessed without page tables"),
        }
    }
}

impl core::error::Error for Fault {}

/// The RAM address behind `address`, by the CPU's caches or else by the tables under `root`.
pub(super) fn translate(
    arena: &Arena,
    tlb: &mut Tlb,
    root: Option<PhysAddr>,
    address: u64,
    access: Access,
    privilege: Privilege,
) -> Result<PhysAddr, Fault> {
    if (address as i64) << 16 >> 16 != address as i64 {
        return Err(Fault::NotCanonical(address));
    }
    let cached = tlb.lookup(address);
    if let Some(cached) = cached
        && !allows(cached.rights, access, privilege)
    {
        tlb.fault(address);
        return Err(Fault::Denied { address, access });
    }
    let is_usable = |cached: &Translation| access != Access::Write || cached.dirty;
    let translation = match cached.filter(is_usable) {
        Some(cached) => cached,
        None => {
            let root = root.ok_or(Fault::NoRoot(address))?;
            let walked = walk(arena, tlb, root, address, access, privilege);
            let walked = walked.inspect_err(|_| tlb.fault(address))?;
            tlb.insert(address, walked);
            walked
        }
    };
    Ok(translation.base + (address & ((1 << translation.level.shift()) - 1)))
}

fn allows(rights: Rights, access: Access, privilege: Privilege) -> bool {
    let by_access = match access {
        Access::Read => true,
        Access::Write => rights.writable,
        Access::Execute => rights.executable,
    };
    let by_privilege = match privilege {
        Privilege::User => rights.user,
        Privilege::Kernel => !(rights.user && access == Access::Execute),
    };
    by_access && by_privilege
}

/// Finds the translation of `address` in the tables, and marks what it uses of them.
fn walk(
    arena: &Arena,
    tlb: &mut Tlb,
    root: PhysAddr,
    address: u64,
    access: Access,
    privilege: Privilege,
) -> Result<Translation, Fault> {
    let start = (Level::ROOT, Branch { table: root, rights: Rights::ALL });
    let (mut level, mut branch) = tlb.nearest_branch(address).unwrap_or(start);
    loop {
        let slot = branch.table + level.index(address) * 8;
        let word = arena.word(slot).ok_or(Fault::BusError { address, physical: slot })?;
        // Acquire: x86 does not reorder loads. Pairs with the Release of who links a table.
        let mut entry = word.load(Ordering::Acquire);
        let (rights, is_leaf) = loop {
            if entry & PRESENT == 0 {
                return Err(Fault::NotPresent { address, level: level.get() });
            }
            let rights = Rights {
                writable: branch.rights.writable && entry & WRITABLE != 0,
                user: branch.rights.user && entry & USER != 0,
                executable: branch.rights.executable && entry & NO_EXECUTE == 0,
            };
            let is_leaf = level == Level::LAST || (entry & LARGE != 0 && level != Level::ROOT);
            if is_leaf && !allows(rights, access, privilege) {
                return Err(Fault::Denied { address, access });
            }
            let writes = is_leaf && access == Access::Write;
            let marks = if writes { ACCESSED | DIRTY } else { ACCESSED };
            match mark(word, entry, marks) {
                Ok(()) => break (rights, is_leaf),
                Err(now) => entry = now,
            }
        };
        match level.below() {
            Some(below) if !is_leaf => {
                branch = Branch { table: PhysAddr::new(entry & ADDRESS), rights };
                level = below;
                tlb.insert_branch(level, address, branch);
            }
            _ => {
                // Bit 12 of a large leaf is its PAT bit; the page's own offset bits are no address.
                let base = PhysAddr::new(entry & ADDRESS & !((1 << level.shift()) - 1));
                let dirty = access == Access::Write || entry & DIRTY != 0;
                return Ok(Translation { base, level, rights, dirty, global: entry & GLOBAL != 0 });
            }
        }
    }
}

/// Sets `marks` in the entry `word` if it still says `entry`; else returns what it says now.
fn mark(word: &AtomicU64, entry: u64, marks: u64) -> Result<(), u64> {
    if entry & marks == marks {
        return Ok(());
    }
    // Release and Acquire as for any locked operation of the processor.
    word.compare_exchange(entry, entry | marks, Ordering::AcqRel, Ordering::Acquire).map(drop)
}

/// Follows every entry of the tables that the CPU has cached the way to, and of those under
/// `root`, as if all addresses were about to be used; and caches the ways.
pub(super) fn walk_ahead(arena: &Arena, tlb: &mut Tlb, root: Option<PhysAddr>) {
    let mut tables = tlb.branches();
    tables.extend(root.map(|table| (Level::ROOT, 0, Branch { table, rights: Rights::ALL })));
    while let Some((level, start, branch)) = tables.pop() {
        for index in 0..512 {
            let Some(word) = arena.word(branch.table + index * 8) else { break };
            let entry = word.load(Ordering::Acquire);
            let marked = entry & PRESENT != 0 && mark(word, entry, ACCESSED).is_ok();
            let Some(below) = level.below().filter(|_| marked && entry & LARGE == 0) else { continue };
            let first = start + (index << level.shift());
            let next = Branch { table: PhysAddr::new(entry & ADDRESS), rights: branch.rights };
            if tlb.insert_branch(below, first, next) {
                tables.push((below, first, next));
            }
        }
    }
}

#[cfg(test)]
mod tests;
