//! The seal of a block: a word with the layout of the live object and the allocating CPU.
//!
//! A part of the word is a checksum over the rest and the block's address. So an overwritten seal,
//! or a seal left by another object, differs from a valid seal with another layout.

use core::alloc::Layout;

use crate::{CpuId, MAX_CPUS};

const CHECK_BITS: u32 = 16;
const CPU_BITS: u32 = 12;
const ALIGN_BITS: u32 = 6;
const SIZE_BITS: u32 = 64 - CHECK_BITS - CPU_BITS - ALIGN_BITS;

const _: () = assert!(MAX_CPUS <= 1 << CPU_BITS);

/// The damage found around an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Damage {
    /// The object was allocated with another layout.
    OtherLayout { size: usize, align: usize },
    /// Bytes outside the object were written to. The first such byte is `offset` bytes behind the
    /// object's first byte, or before it.
    Overwritten { offset: isize },
}

/// Returns the seal of an object with `layout` allocated by `cpu`. `place` distinguishes blocks and
/// call sites.
pub(super) fn of(place: usize, layout: Layout, cpu: CpuId) -> u64 {
    let size = layout.size() as u64 & ((1 << SIZE_BITS) - 1);
    let align = u64::from(layout.align().trailing_zeros());
    let facts = (size << ALIGN_BITS | align) << CPU_BITS | cpu.index() as u64;
    // The checksum is the first part that an overflow reaches, so one byte is enough to be noticed.
    facts << CHECK_BITS | checksum(facts, place)
}

/// Compares the seal `word` of the block with `place` with `layout`. Returns true if the seal is
/// intact.
///
/// # Errors
///
/// Returns [`Damage::OtherLayout`] if the seal is intact and has another layout.
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

/// Returns the allocating CPU, if the seal `word` is intact.
pub(super) fn cpu(word: u64, place: usize) -> Option<CpuId> {
    let facts = word >> CHECK_BITS;
    if word & ((1 << CHECK_BITS) - 1) != checksum(facts, place) {
        return None;
    }
    CpuId::new(facts as usize & ((1 << CPU_BITS) - 1))
}

/// Returns the bytes of the object, if the seal `word` is intact.
pub(super) const fn size(word: u64) -> usize {
    (word >> CHECK_BITS >> CPU_BITS >> ALIGN_BITS) as usize
}

/// Returns a checksum with each bit depending on each bit of the facts and of the address (the
/// finaliser of MurmurHash3, Appleby 2011).
fn checksum(facts: u64, place: usize) -> u64 {
    let mut hash = facts ^ (place as u64).rotate_left(32);
    hash = (hash ^ hash >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ hash >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    (hash ^ hash >> 33) & ((1 << CHECK_BITS) - 1)
}
