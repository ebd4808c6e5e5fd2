//! The seal of a block: a word that names the layout for which the block is out, and the CPU that
//! allocated it.
//!
//! A part of the word is a checksum over the rest and the block's address. So a seal that was written
//! over, or that was left by another object, is told from one that names another layout.

use core::alloc::Layout;

use crate::{CpuId, MAX_CPUS};

const CHECK_BITS: u32 = 16;
const CPU_BITS: u32 = 12;
const ALIGN_BITS: u32 = 6;
const SIZE_BITS: u32 = 64 - CHECK_BITS - CPU_BITS - ALIGN_BITS;

const _: () = assert!(MAX_CPUS <= 1 << CPU_BITS);

/// What is wrong around an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Damage {
    /// The object was allocated with another layout.
    OtherLayout { size: usize, align: usize },
    /// Bytes were written to that are not the object's. The first of them is `offset` bytes behind the
    /// object's first one, or before it.
    Overwritten { offset: isize },
}

/// The seal of an object with `layout` that `cpu` allocates; `place` tells blocks and call sites
/// apart.
pub(super) fn of(place: usize, layout: Layout, cpu: CpuId) -> u64 {
    let size = layout.size() as u64 & ((1 << SIZE_BITS) - 1);
    let align = u64::from(layout.align().trailing_zeros());
    let facts = (size << ALIGN_BITS | align) << CPU_BITS | cpu.index() as u64;
    // The checksum is what an overflow reaches first: then one byte is enough to be noticed.
    facts << CHECK_BITS | checksum(facts, place)
}

/// Compares the seal `word` of the block with `place` with `layout`. Says whether it is intact.
///
/// # Errors
///
/// [`Damage::OtherLayout`] if it is intact, and names another layout.
pub(super) fn check(word: u64, place: usize, layout: Layout) -> Result<bool, Damage> {
    if cpu(word, place).is_none() {
        return Ok(false);
    }
    let facts = word >> CHECK_BITS;
    let layout_facts = of(place, layout, CpuId::BOOT) >> CHECK_BITS >> CPU_BITS;
    if facts >> CPU_BITS == layout_facts {
        return Ok(true);
    }
    let size = size(word);
    let align = 1 << (facts >> CPU_BITS & ((1 << ALIGN_BITS) - 1));
    Err(Damage::OtherLayout { size, align })
}

/// The CPU that allocated the object, if the seal `word` is intact.
pub(super) fn cpu(word: u64, place: usize) -> Option<CpuId> {
    let facts = word >> CHECK_BITS;
    if word & ((1 << CHECK_BITS) - 1) != checksum(facts, place) {
        return None;
    }
    CpuId::new(facts as usize & ((1 << CPU_BITS) - 1))
}

/// Bytes of the object, if the seal `word` is intact.
pub(super) const fn size(word: u64) -> usize {
    (word >> CHECK_BITS >> CPU_BITS >> ALIGN_BITS) as usize
}

/// A checksum in which each bit depends on each bit of the facts and of the address (the finaliser of
/// MurmurHash3, Appleby 2011).
fn checksum(facts: u64, place: usize) -> u64 {
    let mut hash = facts ^ (place as u64).rotate_left(32);
    hash = (hash ^ hash >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ hash >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    (hash ^ hash >> 33) & ((1 << CHECK_BITS) - 1)
}
