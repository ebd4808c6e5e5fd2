//! Faults to inject, so that a test can show that it detects them.
//!
//! [`Faults`] has the fault points: each is named after the step that it runs. Without the feature `fault-injection`, a
//! fault point is its step and nothing else.

use topomem_percpu::Order;
#[cfg(feature = "fault-injection")]
use topomem_percpu::sync::atomic::{AtomicU8, Ordering};

use super::region::{BlockIndex, Region};

/// A mechanism to disable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
#[cfg_attr(not(feature = "fault-injection"), allow(unreachable_pub, reason = "public with the feature only"))]
pub enum Fault {
    /// Magazines take frames that stay free in their bitmap, so that other CPUs receive them too.
    MagazineDuplicates = 1,
    /// Frames enter the pools of zeroed frames without being zeroed.
    UnzeroedPools = 2,
}

/// The injected faults.
#[derive(Debug)]
pub(super) struct Faults {
    /// A bit for each fault.
    #[cfg(feature = "fault-injection")]
    injected: AtomicU8,
}

impl Faults {
    #[cfg(not(loom))]
    pub(super) const fn new() -> Faults {
        Faults {
            #[cfg(feature = "fault-injection")]
            injected: AtomicU8::new(0),
        }
    }

    /// Creates the set without faults (loom's atomics have no `const` constructor).
    #[cfg(loom)]
    pub(super) fn new() -> Faults {
        Faults {
            #[cfg(feature = "fault-injection")]
            injected: AtomicU8::new(0),
        }
    }

    #[cfg(feature = "fault-injection")]
    pub(super) fn inject(&self, fault: Fault) {
        // Relaxed: the switch orders nothing.
        self.injected.fetch_or(fault as u8, Ordering::Relaxed);
    }

    #[cfg(feature = "fault-injection")]
    fn is(&self, fault: Fault) -> bool {
        self.injected.load(Ordering::Relaxed) & fault as u8 != 0
    }

    #[cfg(not(feature = "fault-injection"))]
    #[allow(clippy::unused_self, reason = "the same call as with faults")]
    #[inline(always)]
    const fn is(&self, _: Fault) -> bool {
        false
    }

    /// Claims a word of an owned block, as [`Region::claim_word`] does. [`Fault::MagazineDuplicates`]: leaves the frames
    /// free.
    #[inline(always)]
    pub(super) fn claim_word(
        &self,
        region: &Region,
        block: BlockIndex,
        order: Order,
    ) -> Option<(usize, u64)> {
        if self.is(Fault::MagazineDuplicates) {
            let words = region.line(block).snapshot().into_iter().enumerate();
            { words }.find(|&(_, bits)| bits != 0)
        } else {
            region.claim_word(block, order)
        }
    }

    /// Zeroes a frame for the pool. [`Fault::UnzeroedPools`]: does not.
    #[inline(always)]
    pub(super) fn zero_for_pool(&self, zero: impl FnOnce()) {
        if !self.is(Fault::UnzeroedPools) {
            zero();
        }
    }
}
