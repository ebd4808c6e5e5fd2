//! The fault points: the steps of virtual memory that an injected fault leaves out, reorders or replaces.
//!
//! Each function is named after the step that it runs, and takes the step as a closure, or the step's inputs. Without
//! the feature `fault-injection`, [`FaultCell::is`] is constant, and a function is its step and nothing else.

use topomem_numa::frames::FrameRequest;

use super::{Fault, FaultCell};
use crate::Machine;

/// The changes whose announcement to TLBs a fault may leave out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Announced {
    /// A page fault replaces a shared page by a copy.
    Copy,
    /// A fork makes shared pages read-only.
    Fork,
    /// Discarded pages are freed.
    Discard,
    /// Permissions are removed.
    Protect,
}

impl FaultCell {
    /// Returns whether TLBs are told of a change: always. The fault named after the change: never.
    #[inline(always)]
    pub(crate) fn announces(&self, change: Announced) -> bool {
        !self.is(match change {
            Announced::Copy => Fault::CowWithoutFlush,
            Announced::Fork => Fault::ForkWithoutFlush,
            Announced::Discard => Fault::DontNeedWithoutFlush,
            Announced::Protect => Fault::MprotectWithoutFlush,
        })
    }

    /// Returns whether TLBs are told of pages hidden for a move to another node: always.
    /// [`Fault::MigrateWithoutFlush`]: never.
    #[inline(always)]
    pub(crate) fn announces_hidden(&self) -> bool {
        !self.is(Fault::MigrateWithoutFlush)
    }

    /// Claims the generation of a move while the caller holds the entries. [`Fault::MremapFlushLate`]: claims none;
    /// [`FaultCell::claim_unlocked`] does.
    #[inline(always)]
    pub(crate) fn claim_locked<R>(&self, claim: impl FnOnce() -> R) -> Option<R> {
        (!self.is(Fault::MremapFlushLate)).then(claim)
    }

    /// Returns the generation of a move, as claimed. [`Fault::MremapFlushLate`]: claims the generation now.
    #[inline(always)]
    pub(crate) fn claim_unlocked<R>(
        &self,
        claimed: Option<R>,
        platform: &impl Machine,
        claim: impl FnOnce() -> R,
    ) -> R {
        claimed.unwrap_or_else(|| {
            FaultCell::gap(platform);
            claim()
        })
    }

    /// Returns the request of memory that programs will see: with zeros in it. [`Fault::UnzeroedMemory`]: with the
    /// former contents.
    #[inline(always)]
    pub(crate) fn blank(&self, request: FrameRequest) -> FrameRequest {
        if self.is(Fault::UnzeroedMemory) { request } else { request.zeroed() }
    }

    /// Returns the protection of a mapping of the frame of zeros. [`Fault::ZeroPageWritable`]: that of the region.
    #[inline(always)]
    pub(crate) fn protection_of_zeros<R>(&self, of_copies: R, of_region: R) -> R {
        if self.is(Fault::ZeroPageWritable) { of_region } else { of_copies }
    }

    /// Returns whether no other space has the frame of a shared page: `is_sole` tells. [`Fault::ReuseWithSharer`]: says
    /// so of every frame.
    #[inline(always)]
    pub(crate) fn is_sole_holder(&self, is_sole: bool) -> bool {
        is_sole || self.is(Fault::ReuseWithSharer)
    }

    /// Returns whether a first touch may be handled by itself: always. [`Fault::FaultAfterUnmap`] and
    /// [`Fault::ZeroPageWritable`]: never, since their points are not on that way.
    #[inline(always)]
    pub(crate) fn may_touch_first(&self) -> bool {
        !self.is(Fault::FaultAfterUnmap) && !self.is(Fault::ZeroPageWritable)
    }

    /// Looks at a page's region under the claim of the page's entry only: returns `None`. [`Fault::FaultAfterUnmap`]:
    /// looks some time before.
    #[inline(always)]
    pub(crate) fn look_before_claim<R>(
        &self,
        platform: &impl Machine,
        look: impl FnOnce() -> Option<R>,
    ) -> Option<R> {
        if !self.is(Fault::FaultAfterUnmap) {
            return None;
        }
        let found = look()?;
        FaultCell::gap(platform);
        Some(found)
    }

    /// Removes write permission from the mappings of a page about to be written back. [`Fault::LostDirtyBit`]: does not.
    #[inline(always)]
    pub(crate) fn write_protect<E>(&self, protect: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        if self.is(Fault::LostDirtyBit) { Ok(()) } else { protect() }
    }

    /// Keeps the addresses of unmapped ranges until every CPU has acknowledged. [`Fault::RangesReusedEarly`]: releases
    /// the addresses now.
    #[inline(always)]
    pub(crate) fn keep_addresses(&self, release: impl FnOnce()) {
        if self.is(Fault::RangesReusedEarly) {
            release();
        }
    }
}
