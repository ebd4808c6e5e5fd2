//! A page that several CPUs map, read and write through a shared address space, and what a reader
//! may see there.
//!
//! # The protocol
//!
//! A slot has a **state word**: a `version` (the oldest tag that anybody may still read), a
//! `sequence` that grows with every change, and a [`Phase`]. One CPU at a time changes a slot (it
//! took the slot's lock; others pass by). It stores [`Phase::Changing`] *before* it touches the
//! page tables, and the outcome *after* the shootdown has completed; a page's tag is written
//! before the page is mapped. So, for a reader that loads the word `before`, accesses the page,
//! and then loads the word `after`:
//!
//! - **A tag below `before.version` is stale.** The version grew only after every translation to
//!   that older page was reported gone, and the reader saw it grown before it accessed.
//! - **A tag above `after.version + 1` or of another slot, poison, or anything else, is stale**
//!   too: the page is no longer, or not yet, this slot's. Poison is written only after completion,
//!   so there is no moment at which it may be read.
//! - **A fault is a missing mapping** only if the word did not change and its phase says mapped:
//!   whoever unmaps stores `Changing` first, so a fault that an unmapping caused comes with a
//!   changed word.
//! - **A write that succeeds is stale** only if the word did not change and its phase says
//!   read-only or vacant: whoever makes the page writable stores `Changing` first.
//!
//! The sequence makes "did not change" safe against a slot that went away and came back. An
//! access racing with a change is thus judged by what is certain: no false alarm, and a stale
//! entry that stays in a TLB is seen at the next access.
//!
//! The ordering rests on the hardware keeping a CPU's loads in order, and its stores (x86 does;
//! on others the rig's accesses must be acquire and release).

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::Tag;

/// What can be said of a slot's mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Unmapped, and no CPU has a translation any more.
    Vacant,
    /// Mapped writable.
    Writable,
    /// Mapped read-only, and no CPU has a writable translation any more.
    ReadOnly,
    /// Its changer is at it: any translation between the old and the new is possible.
    Changing,
    /// Unmapped, but nobody has waited for the shootdown: the old translation may be around.
    Detached,
    /// Mapped anew over a [`Phase::Detached`] one: either translation may be around.
    Remapped,
}

impl Phase {
    const ALL: [Phase; 6] =
        [Phase::Vacant, Phase::Writable, Phase::ReadOnly, Phase::Changing, Phase::Detached, Phase::Remapped];

    const fn is_mapped(self) -> bool {
        matches!(self, Phase::Writable | Phase::ReadOnly | Phase::Remapped)
    }
}

/// A slot's state word, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotState {
    /// The oldest tag that may still be read.
    pub version: u32,
    sequence: u32,
    /// The mapping.
    pub phase: Phase,
}

impl SlotState {
    const SEQUENCE_BITS: u32 = 29;

    const fn encode(self) -> u64 {
        (self.version as u64) << 32 | (self.sequence as u64) << 3 | self.phase as u64
    }

    fn decode(word: u64) -> SlotState {
        SlotState {
            version: (word >> 32) as u32,
            sequence: word as u32 >> 3,
            phase: Phase::ALL.get((word & 7) as usize).copied().unwrap_or(Phase::Changing),
        }
    }
}

/// What an access came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing wrong.
    Fine,
    /// It went through a translation that was gone; the oldest allowed tag.
    Stale {
        /// The lowest word that was possible.
        expected: u64,
    },
    /// The write went through to a page that is read-only, or not mapped.
    StaleWrite,
    /// It faulted on a page that was mapped.
    Missing,
}

/// A shared page's state word and lock.
#[derive(Debug)]
pub struct Slot {
    number: u16,
    state: AtomicU64,
    changing: AtomicBool,
}

impl Slot {
    /// Slot `number`, vacant.
    #[must_use]
    pub fn new(number: u16) -> Slot {
        let state = SlotState { version: 1, sequence: 0, phase: Phase::Vacant };
        Slot { number, state: AtomicU64::new(state.encode()), changing: AtomicBool::new(false) }
    }

    /// The tag of its page of `version`.
    #[must_use]
    pub const fn tag(&self, version: u32) -> Tag {
        Tag { slot: self.number, version }
    }

    /// Takes the lock, if nobody has it.
    pub fn try_lock(&self) -> Option<SlotChange<'_>> {
        // Acquire pairs with the Release in `drop`: what the last changer noted is seen.
        if self.changing.swap(true, Ordering::Acquire) { None } else { Some(SlotChange { slot: self }) }
    }

    /// The right that another CPU has given up by [`SlotChange::hand_over`] for this one.
    pub fn take_over(&self) -> SlotChange<'_> {
        SlotChange { slot: self }
    }

    /// The state now: before and after an access.
    pub fn state(&self) -> SlotState {
        // SeqCst on both sides: the word of `before` is read before the access and that of
        // `after` behind it, and the changer's first store comes before its page-table stores.
        SlotState::decode(self.state.load(Ordering::SeqCst))
    }

    /// Judges a read that gave `outcome`, between the loads of `before` and [`Slot::state`] now.
    pub fn judge_read(&self, before: SlotState, outcome: Option<u64>) -> Verdict {
        let after = self.state();
        let Some(word) = outcome else {
            let missing = after == before && before.phase.is_mapped();
            return if missing { Verdict::Missing } else { Verdict::Fine };
        };
        let expected = self.tag(before.version).encode();
        match Tag::decode(word) {
            Some(tag) if tag.slot == self.number && tag.version >= before.version => {
                // A page is mapped with the tag one above the version at the earliest while the
                // word still says so.
                let newest = after.version.saturating_add(1);
                if tag.version <= newest { Verdict::Fine } else { Verdict::Stale { expected } }
            }
            _ => Verdict::Stale { expected },
        }
    }

    /// Judges a write, between the loads of `before` and [`Slot::state`] now.
    pub fn judge_write(&self, before: SlotState, outcome: Option<()>) -> Verdict {
        let unchanged = self.state() == before;
        match (outcome, before.phase) {
            (Some(()), Phase::ReadOnly | Phase::Vacant) if unchanged => Verdict::StaleWrite,
            (None, Phase::Writable | Phase::Remapped) if unchanged => Verdict::Missing,
            _ => Verdict::Fine,
        }
    }
}

/// The right to change a slot, until dropped.
#[derive(Debug)]
pub struct SlotChange<'a> {
    slot: &'a Slot,
}

impl SlotChange<'_> {
    /// The state, which nobody else changes now.
    #[must_use]
    pub fn state(&self) -> SlotState {
        self.slot.state()
    }

    /// The slot.
    #[must_use]
    pub const fn slot(&self) -> &Slot {
        self.slot
    }

    /// Gives the right to the CPU that calls [`Slot::take_over`], which both have agreed on.
    pub fn hand_over(self) {
        core::mem::forget(self);
    }

    /// To be called before the page tables change.
    pub fn begin(&self) {
        self.publish(self.state().version, Phase::Changing);
    }

    /// To be called when `phase` is certain and no tag below `version` can be read any more.
    pub fn publish(&self, version: u32, phase: Phase) {
        let sequence = (self.state().sequence + 1) & ((1 << SlotState::SEQUENCE_BITS) - 1);
        let next = SlotState { version, sequence, phase };
        self.slot.state.store(next.encode(), Ordering::SeqCst);
    }
}

impl Drop for SlotChange<'_> {
    fn drop(&mut self) {
        self.slot.changing.store(false, Ordering::Release);
    }
}

#[cfg(test)]
#[path = "slot_tests.rs"]
mod tests;
