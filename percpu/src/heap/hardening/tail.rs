//! The last words of a block: the seal, and before it the site.
//!
//! Remote CPUs may read them at any time ([`tracking`](super::tracking)), so they are atomics.
//! Relaxed: the seal's checksum covers the site, so two words that do not belong together are no
//! valid seal.

use core::alloc::Layout;
use core::panic::Location;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use super::report::Origin;
use super::seal::{self, Damage};
use super::site::Site;
use super::{Hardening, Measure};
use crate::CpuId;

const WORD: usize = 8;

/// Returns the bytes of the tail.
pub(super) const fn tail(hardening: Hardening) -> usize {
    if hardening.has(Measure::Tracking) {
        2 * WORD
    } else if hardening.has(Measure::RedZones) {
        WORD
    } else {
        0
    }
}

/// The tail of a block.
pub(super) struct Tail<'a> {
    seal: &'a AtomicU64,
    /// An encoded [`Site`]; absent without [`Measure::Tracking`].
    site: Option<&'a AtomicPtr<Location<'static>>>,
}

impl Tail<'_> {
    /// Returns the tail of the block of `bytes` at `start`.
    ///
    /// # Safety
    ///
    /// The block can be read and written as long as the value is used, and has a tail.
    pub(super) unsafe fn of(start: NonNull<u8>, bytes: usize, hardening: Hardening) -> Self {
        // SAFETY: the caller's promise; blocks begin and end at words.
        unsafe {
            let seal = AtomicU64::from_ptr(start.add(bytes - WORD).cast().as_ptr());
            let site = hardening
                .has(Measure::Tracking)
                .then(|| AtomicPtr::from_ptr(start.add(bytes - 2 * WORD).cast().as_ptr()));
            Tail { seal, site }
        }
    }

    pub(super) fn write(&self, start: NonNull<u8>, layout: Layout, cpu: CpuId, site: Option<Site>) {
        if let Some(word) = self.site {
            word.store(Site::encode(site), Ordering::Relaxed);
        }
        self.seal.store(seal::of(self.place(start), layout, cpu), Ordering::Relaxed);
    }

    /// Checks the seal, as [`seal::check`] does.
    pub(super) fn check(&self, start: NonNull<u8>, layout: Layout) -> Result<bool, Damage> {
        seal::check(self.seal.load(Ordering::Relaxed), self.place(start), layout)
    }

    /// Returns the origin and the bytes of the object, if the seal is intact.
    pub(super) fn origin(&self, start: NonNull<u8>) -> Option<(Origin, usize)> {
        let seal = self.seal.load(Ordering::Relaxed);
        let site = self.site.map(|word| word.load(Ordering::Relaxed));
        let cpu = seal::cpu(seal, place(start, site))?;
        // SAFETY: the intact checksum shows that `write` stored this site.
        let site = site.and_then(|word| unsafe { Site::decode(word) });
        Some((Origin { cpu, site }, seal::size(seal)))
    }

    fn place(&self, start: NonNull<u8>) -> usize {
        place(start, self.site.map(|word| word.load(Ordering::Relaxed)))
    }
}

/// Returns the part of the checksum's input beside the seal's facts.
fn place(start: NonNull<u8>, site: Option<*mut Location<'static>>) -> usize {
    start.addr().get() ^ site.map_or(0, |site| site.addr().rotate_left(20))
}
