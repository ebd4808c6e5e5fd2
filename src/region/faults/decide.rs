//! The decision on a page with a fault, made with its entry claimed.

use super::fault::{FaultAccess, FaultError, Resolved, permits};
use super::large::Wanted;
use super::spare::{Spare, Zeroed};
use crate::Machine;
use crate::address_space::{AddressSpace, size_of_level};
use crate::object::MemoryObject;
use crate::page_table::TableMemory;
use crate::page_table::{Answer, Found, Leaf, Level, Ownership, Reach};
use crate::region::attributes::{Kind, Region};
use crate::region::numa::{Placer, is_hidden};
use crate::service::memory::frame_memory;

/// The reason why a fault cannot be handled yet, or at all.
pub(in crate::region) enum Refusal<P: Machine> {
    Error(FaultError),
    /// This page of the object has to be in memory.
    NeedsPage(MemoryObject<P>, u64),
    /// The frame to share has changed.
    OtherShare,
    /// No neighbours are to be mapped.
    Alone,
    /// A frame of zeros is needed, placed by the region's policy.
    NeedsZeros(Placer),
    /// A frame for a copy is needed, placed by the region's policy.
    NeedsFrame(Placer),
    /// A page of zeros of this level is needed or wanted, placed by the region's policy.
    NeedsLarge(Level, Wanted, Placer),
    /// Remote CPUs may still use the former mapping of the page's 2 MiB.
    Pending,
    /// The page is on its way to another node.
    Moves,
}

/// Returns whether a page in state `found` is on its way to another node.
#[cold]
pub(super) fn moves(found: &Found) -> bool {
    matches!(found, Found::Mapped(leaf, Some(region)) if is_hidden(leaf, Region::of(*region)))
}

impl<P: Machine> AddressSpace<P> {
    /// Decides on the handling of `page`, in state `found` at `level`, with its entry claimed.
    pub(super) fn decide(
        &self,
        spare: &Spare<'_, P>,
        tried: FaultAccess,
        page: u64,
        found: Found,
        level: Level,
    ) -> Result<(Answer, Resolved), Refusal<P>> {
        let leaf_at = |frame, protection, ownership, at| {
            Answer::Map(Leaf { frame, protection, reach: Reach::Space, ownership }, at)
        };
        let leaf = |frame, protection, ownership| leaf_at(frame, protection, ownership, Level::PAGE);
        let service = self.core().service;
        let (region, mapped) = match found {
            Found::Vacant => return Err(Refusal::Error(FaultError::NotMapped)),
            Found::Mapped(leaf, None) => {
                spare.record.set(None);
                let permitted = permits(leaf.protection.access(), tried);
                return if permitted {
                    Ok((Answer::Keep, Resolved::Spurious))
                } else {
                    Err(Refusal::Error(FaultError::Denied))
                };
            }
            Found::Reserved(region) => (Region::of(region), None),
            Found::Mapped(leaf, Some(region)) => (Region::of(region), Some(leaf)),
        };
        spare.record.set(region.record());
        if !permits(region.access(), tried) {
            return Err(Refusal::Error(FaultError::Denied));
        }
        if region.is_guard() {
            return Err(Refusal::Error(FaultError::Guarded));
        }
        if region.kind() == Kind::Object
            && mapped.is_none_or(|leaf| !permits(leaf.protection.access(), tried))
            && let Some(decided) = self.decide_object(spare, tried, page, region, mapped)
        {
            return decided;
        }
        let placer = self.core().placer_of(region, &spare.policy);
        let zeros = || {
            let frame = spare.get(Zeroed::Yes, placer).ok_or(Refusal::NeedsZeros(placer))?;
            Ok((leaf(frame, region.protection(), Ownership::Owned), Resolved::Zeroed))
        };
        if level > Level::PAGE && mapped.is_none() {
            let (at, wanted) = self.level_of_first(region, level);
            if at > Level::PAGE && !spare.large.is_missing() {
                let page = spare.large.get(at, placer).ok_or(Refusal::NeedsLarge(at, wanted, placer))?;
                return Ok((
                    leaf_at(page, region.protection(), Ownership::Owned, at),
                    Resolved::ZeroedLarge(size_of_level(at)),
                ));
            }
        }
        match mapped {
            None if tried == FaultAccess::Write => zeros(),
            None => match service.zero_frame() {
                Some(frame) => {
                    let (of_copies, of_region) = (region.protection_of_copies(), region.protection());
                    let protection = service.fault.protection_of_zeros(of_copies, of_region);
                    Ok((leaf(frame, protection, Ownership::Borrowed), Resolved::ZeroPage))
                }
                None => zeros(),
            },
            Some(mapped) if permits(mapped.protection.access(), tried) => {
                Ok((Answer::Keep, Resolved::Spurious))
            }
            // The entry permits less than the region: it does not own the frame alone.
            Some(mapped) => match mapped.ownership {
                Ownership::Owned => Ok((Answer::Own(region.protection()), Resolved::Reused)),
                // A large page is reused as a whole, or split, and its parts keep their holders. A
                // page made of small pages waits until no CPU reads the small pages.
                Ownership::Shared if level > Level::PAGE && !self.is_quiet_at(spare.pin, page) => {
                    Err(Refusal::Pending)
                }
                Ownership::Shared
                    if service.fault.is_sole_holder(service.frames().is_sole_holder(mapped.frame, level)) =>
                {
                    Ok((Answer::Own(region.protection()), Resolved::Reused))
                }
                Ownership::Borrowed if Some(mapped.frame) == service.zero_frame() => zeros(),
                Ownership::Shared | Ownership::Borrowed => {
                    let frame = spare.get(Zeroed::No, placer).ok_or(Refusal::NeedsFrame(placer))?;
                    let old = mapped.frame + page % level.pages();
                    // SAFETY: the fault owns the new frame, and the claimed entry maps the old
                    // frame.
                    unsafe { frame_memory::copy(service.frames(), old, frame) };
                    Ok((leaf(frame, region.protection(), Ownership::Owned), Resolved::Copied))
                }
            },
        }
    }
}
