//! x86-64 entries, 4 or 5 levels (Intel SDM volume 3, 4.5; AMD APM volume 2, 5.3).
//!
//! The kernel has set EFER.NXE, CR0.WP and CR4.PGE, and left the PAT at its reset value.
//!
//! # Pages that may not be accessed
//!
//! A leaf that permits nothing ([`Access::NONE`]) is not present, so that the kernel does not find the page
//! either. It keeps its other bits, with a mark (bit 1) and with the bits of its address inverted: the
//! address that a processor may use in speculation before it sees that the entry is not present (L1TF,
//! CVE-2018-3620) then lies in the upper part of the physical addresses, where no memory is cached.
//!
//! # Dirty pages that may not be written
//!
//! With shadow stacks (CR4.CET), a present leaf that is dirty and not writable is a shadow-stack page
//! (Intel SDM volume 1, 17.2.2 and volume 3, 4.6.1): its owner's calls and returns write it. So a leaf
//! that loses its permission to be written keeps the mark elsewhere, in a bit that the hardware ignores,
//! and gets it back with the permission. (Linux does the same: `_PAGE_SAVED_DIRTY`.) No processor with
//! shadow stacks marks a leaf dirty that is not writable.

use bitflags::bitflags;
use x86_64::PhysAddr;
use x86_64::structures::paging::PhysFrame;

use super::entry::{Entry, Leaf, Ownership, RawEntry, Reach, RegionId};
use super::level::Level;
use super::protection::{Access, Cache, Privilege, Protection};
use super::{Format, Sizes};

bitflags! {
    /// The bits of an entry beside the frame's address.
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
        /// Ignored by the hardware; ours: the mapping owns its frame.
        const OWNED = 1 << 9;
        /// Likewise: a cursor has claimed the entry.
        const CLAIMED = 1 << 10;
        /// Likewise: the mapping is one of several holders that its frame counts. Never with
        /// [`Bits::OWNED`]; without both, the frame is borrowed.
        const SHARED = 1 << 11;
        /// Likewise: the page was written when it still might be.
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
    /// What each CPU's IA32_PAT (MSR 277H) has to hold for [`Cache::WriteCombining`]: the value
    /// after reset (Intel SDM vol. 3, 13.12) but for types 2 and 6, which entries with PCD alone
    /// name: write combining instead of uncached-unless-the-MTRRs-say-otherwise.
    ///
    /// A kernel writes it on each CPU before that CPU uses such a mapping.
    pub const PAT: u64 = 0x0001_0406_0001_0406;

    const ROOT_LEVEL: Level = match LEVELS {
        4 => Level::FOURTH,
        5 => Level::FIFTH,
        _ => panic!("x86-64 has 4 or 5 levels of page tables"),
    };
}

/// In an entry that is not present: it is a leaf that permits nothing. The place of WRITABLE, which such a
/// leaf is not.
const NO_ACCESS: Bits = Bits::WRITABLE;

/// The entry of a leaf that permits nothing as the leaf would be if it were readable, and the other way
/// round.
#[inline]
const fn toggle_access(raw: u64) -> u64 {
    raw ^ (ADDRESS | Bits::PRESENT.bits() | NO_ACCESS.bits())
}

/// Is `raw` a leaf that permits nothing?
#[inline]
const fn permits_nothing(raw: u64) -> bool {
    raw & (Bits::PRESENT.bits() | NO_ACCESS.bits()) == NO_ACCESS.bits()
}

/// Where an entry that is not present keeps a region's id: above the bits that the hardware writes or
/// reads in one that is.
const REGION_SHIFT: u32 = 11;

/// Set in each entry that is not present and keeps a region's id: as for leaves that permit nothing, no
/// processor takes the rest for the address of memory.
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
    PhysFrame::containing_address(PhysAddr::new_truncate(address))
}

// SAFETY: the encodings are the manuals'; `decode` reads back every bit that `leaf` and
// `table` and `mark` write, and looks at neither ACCESSED nor DIRTY.
unsafe impl<const LEVELS: u8> Format for X64<LEVELS> {
    const ROOT: Level = Self::ROOT_LEVEL;
    const LARGEST_LEAF: Level = Level::GIANT;
    const CLAIM: u64 = Bits::CLAIMED.bits();
    const FRAME: u64 = ADDRESS;

    #[inline]
    fn table(frame: PhysFrame) -> RawEntry {
        // A leaf's own bits decide: the ones above permit everything.
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

    // Always, with both kinds of leaves: what the caller does not use is not decoded.
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
        // Each may leave the other's place.
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
        // No TLB has a leaf that is not present.
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
        // A leaf that permits nothing has another meaning of WRITABLE.
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

    /// Where a page's size changes, but neither its frames nor its attributes, an access uses any
    /// of the cached translations (Intel SDM vol. 3, 4.10.2.3). But fetches that find two sizes
    /// make many Intel processors raise a machine check (CVE-2018-12207).
    fn sizes(leaf: &Leaf) -> Sizes {
        if leaf.protection.access().executes() { Sizes::One } else { Sizes::Any }
    }
}

/// Decodes an entry that is present.
#[inline(always)]
fn present(raw: u64, level: Level) -> Entry {
    if level > Level::PAGE && raw & Bits::LARGE.bits() == 0 {
        return Entry::Table(frame_at(raw & ADDRESS));
    }
    Entry::Leaf(present_leaf(raw, level))
}

/// Decodes a leaf that is present.
#[inline(always)]
fn present_leaf(raw: u64, level: Level) -> Leaf {
    let bits = Bits::from_bits_truncate(raw);
    // Below the frame's address, large leaves have the PAT bit and reserved ones.
    let address = raw & ADDRESS & !(level.pages() * 4096 - 1);
    Leaf {
        frame: frame_at(address),
        protection: protection_of(bits),
        reach: if bits.contains(Bits::GLOBAL) { Reach::Global } else { Reach::Space },
        ownership: ownership_of(bits),
    }
}

/// Decodes an entry that is not present. Apart, so that loops over entries that are keep their registers.
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
mod tests {
    use super::*;

    type Four = X64<4>;

    fn leaf(protection: Protection) -> Leaf {
        Leaf { frame: frame_at(0x4020_0000), protection, reach: Reach::Global, ownership: Ownership::Owned }
    }

    #[test]
    fn what_is_written_is_read_back() {
        // SAFETY: nothing is executed.
        let capability = unsafe { crate::page_table::WriteExecute::new() };
        let all = Access::write_execute(&capability);
        for access in [Access::NONE, Access::READ, Access::WRITE, Access::EXECUTE, all] {
            for protection in [Protection::kernel(access), Protection::user(access)] {
                for cache in [Cache::WriteBack, Cache::WriteThrough, Cache::WriteCombining, Cache::Uncached] {
                    let leaf = leaf(protection.cached(cache));
                    for level in [Level::PAGE, Level::HUGE] {
                        let raw = Four::leaf(&leaf, level);
                        assert_eq!(Four::decode(raw, level), Entry::Leaf(leaf));
                        assert_eq!(raw.0 & Bits::PRESENT.bits() != 0, access.reads());
                        let touched = RawEntry(raw.0 | (Bits::ACCESSED | Bits::DIRTY).bits());
                        assert_eq!(Four::decode(touched, level), Entry::Leaf(leaf));
                        if level == Level::PAGE {
                            assert_eq!(Four::page(touched), Some(leaf));
                        }
                    }
                }
            }
        }
        assert_eq!(Four::decode(Four::table(frame_at(0x5000)), Level::HUGE), Entry::Table(frame_at(0x5000)));
        assert_eq!(Four::decode(RawEntry::EMPTY, Level::PAGE), Entry::Empty);
        assert_eq!((Four::page(RawEntry::EMPTY), Four::page(Four::mark(RegionId::MIN))), (None, None));
    }

    #[test]
    fn the_attribute_table_says_what_the_bits_mean() {
        for (cache, memory_type) in [
            (Cache::WriteBack, 6),
            (Cache::WriteThrough, 4),
            (Cache::WriteCombining, 1),
            (Cache::Uncached, 0),
        ] {
            let raw = Four::leaf(&leaf(Protection::KERNEL_DATA.cached(cache)), Level::PAGE).0;
            // PCD and PWT are entry bits 4 and 3, and bits 1 and 0 of the index.
            assert_eq!(Four::PAT.to_le_bytes()[(raw >> 3 & 3) as usize], memory_type, "{cache:?}");
        }
    }

    #[test]
    fn reprotect_keeps_frame_and_dirty_mark() {
        for level in [Level::PAGE, Level::HUGE] {
            let dirty = RawEntry(Four::leaf(&leaf(Protection::KERNEL_DATA), level).0 | Bits::DIRTY.bits());
            let changed = Four::reprotect(dirty, level, Protection::KERNEL_READ_ONLY);
            assert_eq!(changed.0 & Bits::DIRTY.bits(), 0, "a shadow stack");
            assert_eq!(Four::decode(changed, level), Entry::Leaf(leaf(Protection::KERNEL_READ_ONLY)));
            assert_eq!(Four::reprotect(changed, level, Protection::KERNEL_DATA), dirty);
            let clean = Four::leaf(&leaf(Protection::KERNEL_READ_ONLY), level);
            let writable = Four::reprotect(clean, level, Protection::KERNEL_DATA);
            assert_eq!(writable.0 & (Bits::DIRTY | Bits::SAVED_DIRTY).bits(), 0);
        }
    }

    #[test]
    fn a_leaf_is_narrower_if_it_forbids_something_or_means_another_access() {
        // SAFETY: nothing is executed.
        let capability = unsafe { crate::page_table::WriteExecute::new() };
        let all = Access::write_execute(&capability);
        let accesses = [Access::NONE, Access::READ, Access::WRITE, Access::EXECUTE, all];
        let protections = accesses.into_iter().flat_map(|access| {
            [Protection::kernel(access), Protection::user(access)].into_iter().flat_map(|protection| {
                [Cache::WriteBack, Cache::WriteThrough, Cache::WriteCombining, Cache::Uncached]
                    .map(|cache| protection.cached(cache))
            })
        });
        let marks = Bits::ACCESSED | Bits::DIRTY;
        for level in [Level::PAGE, Level::HUGE] {
            for before in protections.clone() {
                for after in protections.clone() {
                    let old = Four::leaf(&leaf(before), level);
                    let old = if before.access().reads() { RawEntry(old.0 | marks.bits()) } else { old };
                    let same_use = before.with_access(after.access()) == after;
                    let expected =
                        before.access().reads() && (!same_use || !after.access().includes(before.access()));
                    let new = Four::reprotect(old, level, after);
                    assert_eq!(Four::narrows(old, new), expected, "{before:?} {after:?}");
                }
            }
        }
    }

    #[test]
    fn ownership_is_read_back_and_changed_alone() {
        for level in [Level::PAGE, Level::HUGE] {
            for ownership in [Ownership::Owned, Ownership::Shared, Ownership::Borrowed] {
                let leaf = Leaf { ownership, ..leaf(Protection::USER_DATA) };
                let raw = Four::leaf(&leaf, level);
                assert_eq!(Four::decode(raw, level), Entry::Leaf(leaf));
                let dirty = RawEntry(raw.0 | (Bits::ACCESSED | Bits::DIRTY).bits());
                for other in [Ownership::Owned, Ownership::Shared, Ownership::Borrowed] {
                    let changed = Four::with_ownership(dirty, other);
                    assert_eq!(Four::decode(changed, level), Entry::Leaf(Leaf { ownership: other, ..leaf }));
                    assert_eq!(Four::with_ownership(changed, ownership), dirty);
                }
            }
        }
    }

    #[test]
    fn a_shared_leaf_permits_no_write_and_keeps_its_marks() {
        let marks = Bits::ACCESSED | Bits::DIRTY | Bits::SAVED_DIRTY;
        for access in [Access::NONE, Access::READ, Access::WRITE, Access::EXECUTE] {
            for level in [Level::PAGE, Level::HUGE] {
                let before = leaf(Protection::user(access));
                let clean = Four::leaf(&before, level);
                let expected = without_write(before);
                assert_eq!(Four::decode(Four::shared(clean), level), Entry::Leaf(expected));
                assert_eq!(Four::shared(clean).0 & marks.bits(), 0);
                assert_eq!(Four::is_shared(Four::shared(clean)), access.reads());
                assert!(!Four::is_shared(clean));
                let dirty = Four::reprotect(
                    RawEntry(Four::leaf(&leaf(Protection::USER_DATA), level).0 | marks.bits()),
                    level,
                    Protection::user(access),
                );
                let shared = Four::shared(dirty);
                assert_eq!(Four::decode(shared, level), Entry::Leaf(expected));
                assert_eq!(shared.0 & Bits::DIRTY.bits(), 0, "a shadow stack");
                let both = [dirty, shared]
                    .map(|raw| Four::reprotect(raw, level, Protection::USER_DATA).0 & marks.bits());
                assert_eq!(both[0], both[1], "a mark is lost");
                assert_eq!(Four::unnoted(shared), Four::shared(clean));
            }
        }
    }

    fn without_write(leaf: Leaf) -> Leaf {
        let access = leaf.protection.access();
        let access = if access.writes() { Access::READ } else { access };
        Leaf { protection: leaf.protection.with_access(access), ownership: Ownership::Shared, ..leaf }
    }

    #[test]
    fn split_covers_the_same_frames() {
        let huge = leaf(Protection::USER_CODE);
        let raw = Four::leaf(&huge, Level::HUGE);
        let hidden = Four::reprotect(raw, Level::HUGE, huge.protection.with_access(Access::NONE));
        for index in [0, 1, 511] {
            let expected = Leaf { frame: huge.frame + index as u64, ..huge };
            let part = Four::split(raw, Level::HUGE, index);
            assert_eq!(Four::decode(part, Level::PAGE), Entry::Leaf(expected));
            let hidden = Four::split(hidden, Level::HUGE, index);
            assert_eq!(Four::reprotect(hidden, Level::PAGE, huge.protection), part);
        }
    }

    #[test]
    fn what_is_not_present_shows_no_address_of_memory() {
        for protection in [Protection::USER_DATA, Protection::USER_CODE, Protection::USER_READ_ONLY] {
            for level in [Level::PAGE, Level::HUGE, Level::GIANT] {
                let leaf = Leaf { frame: frame_at(0x12_4000_0000), ..leaf(protection) };
                let dirty = RawEntry(Four::leaf(&leaf, level).0 | (Bits::ACCESSED | Bits::DIRTY).bits());
                let none = protection.with_access(Access::NONE);
                let hidden = Four::reprotect(dirty, level, none);
                assert!(hidden.0 & ADDRESS >= 1 << 51, "an address of memory: {hidden:?}");
                assert_eq!(hidden.0 & Bits::PRESENT.bits(), 0);
                assert_eq!(Four::decode(hidden, level), Entry::Leaf(Leaf { protection: none, ..leaf }));
                assert_eq!(Four::reprotect(hidden, level, none), hidden);
                let back = Four::reprotect(hidden, level, protection);
                assert_eq!(Four::decode(back, level), Entry::Leaf(leaf));
                assert_ne!(back.0 & (Bits::DIRTY | Bits::SAVED_DIRTY).bits(), 0, "the mark is lost");
            }
        }
        for bits in [1, 0x1234_5678, (1 << RegionId::BITS) - 1] {
            let region = RegionId::new(bits).unwrap();
            let raw = Four::mark(region);
            assert!(raw.0 & ADDRESS >= BEYOND_MEMORY && raw.0 & Bits::PRESENT.bits() == 0);
            for raw in [raw, RawEntry(raw.0 | Four::CLAIM)] {
                for level in [Level::PAGE, Level::HUGE, Level::FOURTH] {
                    assert_eq!(Four::decode(raw, level), Entry::Mark(region));
                }
            }
        }
        assert_eq!(Four::decode(RawEntry(Four::CLAIM), Level::HUGE), Entry::Empty);
    }

    #[test]
    fn marks_are_merged_and_made_ahead() {
        let clean = Four::leaf(&leaf(Protection::KERNEL_READ_ONLY), Level::PAGE);
        let marked = |raw: RawEntry| Bits::from_bits_truncate(raw.0) & (Bits::ACCESSED | Bits::DIRTY);
        let dirty = RawEntry(clean.0 | Bits::DIRTY.bits());
        assert_eq!(marked(Four::merge_marks(clean, dirty)), Bits::DIRTY);
        assert_eq!(marked(Four::merge_marks(dirty, clean)), Bits::DIRTY);
        assert_eq!(marked(Four::mark_ahead(clean)), Bits::ACCESSED);
        let writable = Four::leaf(&leaf(Protection::KERNEL_DATA), Level::HUGE);
        let ahead = Four::mark_ahead(writable);
        assert_eq!(marked(ahead), Bits::ACCESSED | Bits::DIRTY);
        assert_eq!(Four::decode(ahead, Level::HUGE), Four::decode(writable, Level::HUGE));
    }

    #[test]
    fn write_and_execute_exclude_each_other_in_every_preset() {
        for preset in [
            Protection::KERNEL_CODE,
            Protection::KERNEL_DATA,
            Protection::KERNEL_READ_ONLY,
            Protection::USER_CODE,
            Protection::USER_DATA,
            Protection::USER_READ_ONLY,
            Protection::DEVICE,
            Protection::FRAME_BUFFER,
        ] {
            let raw = Four::leaf(&leaf(preset), Level::PAGE);
            let bits = Bits::from_bits_truncate(raw.0);
            assert!(!bits.contains(Bits::WRITABLE) || bits.contains(Bits::NO_EXECUTE), "{preset:?}");
        }
    }
}
