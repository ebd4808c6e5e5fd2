//! x86-64 entries, 4 or 5 levels (Intel SDM volume 3, 4.5; AMD APM volume 2, 5.3).
//!
//! The kernel has set EFER.NXE, CR0.WP and CR4.PGE, and left the PAT at its reset value.
//!
//! # Pages without access
//!
//! A leaf permitting nothing ([`Access::NONE`]) is not present: the kernel cannot access the page
//! either. The entry keeps its remaining bits, with a mark (bit 1) and with the bits of its address
//! inverted. A processor may use the address speculatively before noticing the entry is not present
//! (L1TF, CVE-2018-3620). The inverted address lies in the upper part of the physical addresses,
//! where no memory is cached.
//!
//! # Dirty pages without write permission
//!
//! With shadow stacks (CR4.CET), a present leaf both dirty and not writable is a shadow-stack page
//! (Intel SDM volume 1, 17.2.2 and volume 3, 4.6.1), written by its owner's calls and returns. A
//! leaf losing write permission therefore keeps its dirty mark elsewhere, in a bit ignored by the
//! hardware, and gets it back with the permission. (Linux does the same: `_PAGE_SAVED_DIRTY`.) No
//! processor with shadow stacks marks an unwritable leaf dirty.

use bitflags::bitflags;
use topomem_percpu::{PhysAddr, PhysFrame};

use super::entry::{Entry, Leaf, Ownership, RawEntry, Reach, RegionId};
use super::level::Level;
use super::protection::{Access, Cache, Privilege, Protection};
use super::{Format, Sizes};

bitflags! {
    /// The bits of an entry besides the frame's address.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    struct Bits: u64 {
        const PRESENT = 1 << 0;
        const WRITABLE = 1 << 1;
        const USER = 1 << 2;
        const WRITE_THROUGH = 1 << 3;
        const CACHE_DISABLE = 1 << 4;
        const ACCESSED = 1 << 5;
        const DIRTY = 1 << 6;
        /// In tables above the lowest: a leaf, not a table.
        const LARGE = 1 << 7;
        const GLOBAL = 1 << 8;
        /// Ignored by the hardware, used by software: the mapping owns its frame.
        const OWNED = 1 << 9;
        /// Used by software: a cursor has claimed the entry.
        const CLAIMED = 1 << 10;
        /// Used by software: the mapping is a holder counted by its frame. Never set together with
        /// [`Bits::OWNED`]; without both, the frame is borrowed.
        const SHARED = 1 << 11;
        /// Used by software: the page was written while writable.
        const SAVED_DIRTY = 1 << 58;
        const NO_EXECUTE = 1 << 63;
    }
}

/// Bits 12 to 51.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// x86-64 with `LEVELS` levels of tables: 4 (48-bit addresses) or 5 (57-bit).
#[derive(Debug, Clone, Copy)]
pub struct X64<const LEVELS: u8 = 4>;

impl<const LEVELS: u8> X64<LEVELS> {
    /// The value of each CPU's IA32_PAT (MSR 277H) required by [`Cache::WriteCombining`].
    ///
    /// The value is the reset value (Intel SDM vol. 3, 13.12) except for types 2 and 6, selected by
    /// entries with PCD alone: write combining instead of uncached-unless-the-MTRRs-say-otherwise.
    /// A kernel writes the value on each CPU before the CPU uses such a mapping.
    pub const PAT: u64 = 0x0001_0406_0001_0406;

    const ROOT_LEVEL: Level = match LEVELS {
        4 => Level::FOURTH,
        5 => Level::FIFTH,
        _ => panic!("x86-64 has 4 or 5 levels of page tables"),
    };
}

/// In an entry not present: a leaf permitting nothing. The bit is WRITABLE's, never set in such a
/// leaf.
const NO_ACCESS: Bits = Bits::WRITABLE;

/// Converts the entry of a leaf without permissions to the readable leaf's, and back.
#[inline]
const fn toggle_access(raw: u64) -> u64 {
    raw ^ (ADDRESS | Bits::PRESENT.bits() | NO_ACCESS.bits())
}

/// Returns whether `raw` is a leaf permitting nothing.
#[inline]
const fn permits_nothing(raw: u64) -> bool {
    raw & (Bits::PRESENT.bits() | NO_ACCESS.bits()) == NO_ACCESS.bits()
}

/// The position of a region's id in an entry not present: above the bits written or read by the
/// hardware in a present entry.
const REGION_SHIFT: u32 = 11;

/// Set in each entry not present with a region's id. As for leaves permitting nothing, no processor
/// then takes the rest for an address of memory.
const BEYOND_MEMORY: u64 = 0x000f_fc00_0000_0000;

#[inline(always)]
fn protection_bits(protection: Protection) -> Bits {
    let mut bits = Bits::empty();
    bits.set(Bits::WRITABLE, protection.access().writes());
    bits.set(Bits::NO_EXECUTE, !protection.access().executes());
    bits.set(Bits::USER, protection.privilege() == Privilege::User);
    match protection.cache() {
        Cache::WriteBack => {}
        Cache::WriteThrough => bits |= Bits::WRITE_THROUGH,
        Cache::WriteCombining => bits |= Bits::CACHE_DISABLE,
        Cache::Uncached => bits |= Bits::WRITE_THROUGH | Bits::CACHE_DISABLE,
    }
    bits
}

#[inline(always)]
fn protection_of(bits: Bits) -> Protection {
    let access = Access::from_bits(bits.contains(Bits::WRITABLE), !bits.contains(Bits::NO_EXECUTE));
    let privilege = if bits.contains(Bits::USER) { Privilege::User } else { Privilege::Kernel };
    let cache = match (bits.contains(Bits::CACHE_DISABLE), bits.contains(Bits::WRITE_THROUGH)) {
        (false, false) => Cache::WriteBack,
        (false, true) => Cache::WriteThrough,
        (true, false) => Cache::WriteCombining,
        (true, true) => Cache::Uncached,
    };
    Protection::of(access, privilege, cache)
}

#[inline]
fn ownership_bits(ownership: Ownership) -> Bits {
    match ownership {
        Ownership::Owned => Bits::OWNED,
        Ownership::Shared => Bits::SHARED,
        Ownership::Borrowed => Bits::empty(),
    }
}

#[inline]
fn ownership_of(bits: Bits) -> Ownership {
    if bits.contains(Bits::OWNED) {
        Ownership::Owned
    } else if bits.contains(Bits::SHARED) {
        Ownership::Shared
    } else {
        Ownership::Borrowed
    }
}

#[inline]
fn frame_at(address: u64) -> PhysFrame {
    PhysFrame::containing_address(PhysAddr::new(address))
}

// SAFETY: the encodings are the manuals'. `decode` reads back every bit written by `leaf`, `table`
// and `mark`, and ignores ACCESSED and DIRTY.
unsafe impl<const LEVELS: u8> Format for X64<LEVELS> {
    const ROOT: Level = Self::ROOT_LEVEL;
    const LARGEST_LEAF: Level = Level::GIANT;
    const CLAIM: u64 = Bits::CLAIMED.bits();
    const FRAME: u64 = ADDRESS;

    #[inline]
    fn table(frame: PhysFrame) -> RawEntry {
        // A leaf's own bits decide: the tables' permit everything.
        let bits = Bits::PRESENT | Bits::WRITABLE | Bits::USER;
        RawEntry(frame.start_address().as_u64() | bits.bits())
    }

    #[inline]
    fn leaf(leaf: &Leaf, level: Level) -> RawEntry {
        let mut bits = Bits::PRESENT | protection_bits(leaf.protection);
        bits.set(Bits::LARGE, level > Level::PAGE);
        bits.set(Bits::GLOBAL, leaf.reach == Reach::Global);
        bits |= ownership_bits(leaf.ownership);
        let raw = leaf.frame.start_address().as_u64() | bits.bits();
        RawEntry(if leaf.protection.access().reads() { raw } else { toggle_access(raw) })
    }

    #[inline]
    fn mark(region: RegionId) -> RawEntry {
        RawEntry(BEYOND_MEMORY | u64::from(region.get()) << REGION_SHIFT)
    }

    #[inline(always)]
    fn region_in_mark(raw: RawEntry) -> Option<RegionId> {
        if raw.0 & (Bits::PRESENT | NO_ACCESS).bits() != 0 {
            return None;
        }
        RegionId::new(((raw.0 & !BEYOND_MEMORY) >> REGION_SHIFT) as u32)
    }

    #[inline(always)]
    fn is_present(raw: RawEntry) -> bool {
        raw.0 & Bits::PRESENT.bits() != 0
    }

    #[inline(always)]
    fn decode(raw: RawEntry, level: Level) -> Entry {
        if Self::is_present(raw) { present(raw.0, level) } else { absent(raw.0, level) }
    }

    // Always inlined, with both kinds of leaves: unused parts are not decoded.
    #[inline(always)]
    fn page(raw: RawEntry) -> Option<Leaf> {
        if raw.0 & (Bits::PRESENT | NO_ACCESS).bits() == 0 {
            return None;
        }
        let hidden = !Self::is_present(raw);
        let leaf = present_leaf(if hidden { toggle_access(raw.0) } else { raw.0 }, Level::PAGE);
        let access = if hidden { Access::NONE } else { leaf.protection.access() };
        Some(Leaf { protection: leaf.protection.with_access(access), ..leaf })
    }

    #[inline]
    fn reprotect(raw: RawEntry, _level: Level, protection: Protection) -> RawEntry {
        let hidden = permits_nothing(raw.0);
        let raw = if hidden { RawEntry(toggle_access(raw.0)) } else { raw };
        let own = Bits::WRITABLE | Bits::NO_EXECUTE | Bits::USER | Bits::WRITE_THROUGH | Bits::CACHE_DISABLE;
        let bits = raw.0 & !own.bits() | protection_bits(protection).bits();
        // Each may take the other's place.
        let dirty = (Bits::DIRTY | Bits::SAVED_DIRTY).bits();
        let mark = match (bits & dirty != 0, protection.access().writes()) {
            (false, _) => 0,
            (true, true) => Bits::DIRTY.bits(),
            (true, false) => Bits::SAVED_DIRTY.bits(),
        };
        let raw = bits & !dirty | mark;
        RawEntry(if protection.access().reads() { raw } else { toggle_access(raw) })
    }

    #[inline(always)]
    fn narrows(old: RawEntry, new: RawEntry) -> bool {
        // No TLB holds a leaf not present.
        if !Self::is_present(old) {
            return false;
        }
        let (lost, gained) = (old.0 & !new.0, new.0 & !old.0);
        let permissions = Bits::PRESENT | Bits::WRITABLE;
        let others = Bits::USER | Bits::WRITE_THROUGH | Bits::CACHE_DISABLE;
        lost & permissions.bits() | gained & Bits::NO_EXECUTE.bits() | (lost | gained) & others.bits() != 0
    }

    fn with_ownership(raw: RawEntry, ownership: Ownership) -> RawEntry {
        let own = (Bits::OWNED | Bits::SHARED).bits();
        RawEntry(raw.0 & !own | ownership_bits(ownership).bits())
    }

    #[inline(always)]
    fn shared(raw: RawEntry) -> RawEntry {
        let bits = raw.0 & !Bits::OWNED.bits() | Bits::SHARED.bits();
        // In a leaf permitting nothing, WRITABLE has another meaning.
        if bits & (Bits::PRESENT | Bits::WRITABLE).bits() != (Bits::PRESENT | Bits::WRITABLE).bits() {
            return RawEntry(bits);
        }
        let dirty = bits & Bits::DIRTY.bits();
        let saved =
            dirty << (Bits::SAVED_DIRTY.bits().trailing_zeros() - Bits::DIRTY.bits().trailing_zeros());
        RawEntry(bits & !(Bits::WRITABLE | Bits::DIRTY).bits() | saved)
    }

    #[inline(always)]
    fn is_shared(raw: RawEntry) -> bool {
        let bits = Bits::PRESENT | Bits::SHARED;
        raw.0 & (bits | Bits::WRITABLE).bits() == bits.bits()
    }

    #[inline(always)]
    fn unnoted(raw: RawEntry) -> RawEntry {
        RawEntry(raw.0 & !(Bits::ACCESSED | Bits::DIRTY | Bits::SAVED_DIRTY).bits())
    }

    fn split(raw: RawEntry, level: Level, index: usize) -> RawEntry {
        let Some(below) = level.below() else {
            return raw;
        };
        if permits_nothing(raw.0) {
            let readable = Self::split(RawEntry(toggle_access(raw.0)), level, index);
            return RawEntry(toggle_access(readable.0));
        }
        // Bit 7 is the PAT bit in the lowest table, and "leaf" above it.
        let bits = if below == Level::PAGE { raw.0 & !Bits::LARGE.bits() } else { raw.0 };
        RawEntry(bits + index as u64 * below.pages() * 4096)
    }

    fn merge_marks(raw: RawEntry, other: RawEntry) -> RawEntry {
        RawEntry(raw.0 | other.0 & (Bits::ACCESSED | Bits::DIRTY | Bits::SAVED_DIRTY).bits())
    }

    fn mark_ahead(raw: RawEntry) -> RawEntry {
        let writable = raw.0 & Bits::WRITABLE.bits() != 0;
        let marks = if writable { Bits::ACCESSED | Bits::DIRTY } else { Bits::ACCESSED };
        RawEntry(raw.0 | marks.bits())
    }

    /// Returns the number of sizes a TLB may hold at once.
    ///
    /// If only a page's size changes, an access uses any of the cached translations (Intel SDM vol.
    /// 3, 4.10.2.3). Instruction fetches finding two sizes, however, make many Intel processors
    /// raise a machine check (CVE-2018-12207).
    fn sizes(leaf: &Leaf) -> Sizes {
        if leaf.protection.access().executes() { Sizes::One } else { Sizes::Any }
    }
}

/// Decodes a present entry.
#[inline(always)]
fn present(raw: u64, level: Level) -> Entry {
    if level > Level::PAGE && raw & Bits::LARGE.bits() == 0 {
        return Entry::Table(frame_at(raw & ADDRESS));
    }
    Entry::Leaf(present_leaf(raw, level))
}

/// Decodes a present leaf.
#[inline(always)]
fn present_leaf(raw: u64, level: Level) -> Leaf {
    let bits = Bits::from_bits_truncate(raw);
    // Below the frame's address, large leaves have the PAT bit and reserved bits.
    let address = raw & ADDRESS & !(level.pages() * 4096 - 1);
    Leaf {
        frame: frame_at(address),
        protection: protection_of(bits),
        reach: if bits.contains(Bits::GLOBAL) { Reach::Global } else { Reach::Space },
        ownership: ownership_of(bits),
    }
}

/// Decodes an entry not present. Not inlined, so loops over present entries keep their registers.
#[inline(never)]
fn absent(raw: u64, level: Level) -> Entry {
    if raw & NO_ACCESS.bits() != 0 {
        return match present(toggle_access(raw), level) {
            Entry::Leaf(leaf) => {
                Entry::Leaf(Leaf { protection: leaf.protection.with_access(Access::NONE), ..leaf })
            }
            other => other,
        };
    }
    X64::<4>::region_in_mark(RawEntry(raw)).map_or(Entry::Empty, Entry::Mark)
}

#[cfg(test)]
#[path = "x64_tests.rs"]
mod tests;
