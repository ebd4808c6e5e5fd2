//! Frees of single frames directly into their bitmap, past the magazine.
//!
//! A frame freed in no order that gathers in words costs one compare-and-swap, and little else: the
//! magazine knows the region of the last such frame, so that the next frame of that region needs no
//! search for it, and no look at what the region's place in the machine decides. Work that is rarely due
//! after a free is a call at the end, so that a free saves no registers for it.

use core::ptr;

use topomem_percpu::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use topomem_percpu::{CpuPin, PhysFrame, Platform};

use super::entry::{Entry, barred, closed};
use super::guard::MagazineGuard;
use super::{Checked, Magazine, UNREPORTED};
use crate::frames::Frames;
use crate::frames::alloc::number;
use crate::frames::free::is_near;
use crate::frames::node::zeroed_pool::ZeroedPool;
use crate::frames::region::Region;
use crate::frames::state::Machine;
use crate::frames::types::FreeError;

/// The region whose frames a CPU frees directly, and its node's pool.
///
/// There is none before the first such free, nor where every free is checked against a mark or
/// clears the frame. The region is of the magazine's node, and magazines may hold its frames.
/// Written and read by the magazine's CPU alone, in one context at a time: Relaxed.
#[derive(Debug)]
pub(super) struct Direct {
    /// The region's first frame.
    start: AtomicU64,
    /// The region's frames; 0 if there is no region.
    frames: AtomicU64,
    region: AtomicPtr<Region>,
    pool: AtomicPtr<ZeroedPool>,
}

macro_rules! nothing {
    () => {
        Direct {
            start: AtomicU64::new(0),
            frames: AtomicU64::new(0),
            region: AtomicPtr::new(ptr::null_mut()),
            pool: AtomicPtr::new(ptr::null_mut()),
        }
    };
}

impl Direct {
    #[cfg(not(loom))]
    pub(super) const fn new() -> Direct {
        nothing!()
    }

    /// Creates a place without a region (loom's atomics have no `const` constructor).
    #[cfg(loom)]
    pub(super) fn new() -> Direct {
        nothing!()
    }

    /// Returns the region and its node's pool, if the region has the frame numbered `number`.
    #[inline(always)]
    fn of(&self, number: u64) -> Option<(&'static Region, &'static ZeroedPool)> {
        let offset = number.wrapping_sub(self.start.load(Ordering::Relaxed));
        if offset >= self.frames.load(Ordering::Relaxed) {
            return None;
        }
        let (region, pool) = (self.region.load(Ordering::Relaxed), self.pool.load(Ordering::Relaxed));
        // SAFETY: there is a region, so `remember` stored the addresses of two `&'static`.
        unsafe {
            core::hint::assert_unchecked(!region.is_null() && !pool.is_null());
            Some((&*region, &*pool))
        }
    }

    /// Remembers a region. Returns false if it is the one remembered.
    fn remember(&self, region: &'static Region, pool: &'static ZeroedPool) -> bool {
        if ptr::eq(self.region.load(Ordering::Relaxed), region) {
            return false;
        }
        self.pool.store(ptr::from_ref(pool).cast_mut(), Ordering::Relaxed);
        self.region.store(ptr::from_ref(region).cast_mut(), Ordering::Relaxed);
        self.start.store(region.span.start, Ordering::Relaxed);
        self.frames.store(region.span.frames(), Ordering::Relaxed);
        true
    }
}

/// Where frames are looked for that bitmaps and magazines do not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Elsewhere {
    /// Nowhere: such a frame is not freed directly if a pool was ever filled, or any frame is
    /// retired. So a free calls nothing.
    Never,
    /// In the pool of zeroed frames, and among retired frames.
    Perhaps,
}

/// The outcome of a direct free.
#[derive(Debug, Clone, Copy)]
enum Freed {
    /// Nothing has changed: the frame is to be freed in another way.
    No,
    Yes,
    /// The frame is free, and the caller still in transit: more is due in the region.
    MoreIsDue(&'static Region),
}

impl Magazine {
    /// Frees a frame of the remembered region directly into its bitmap.
    ///
    /// Changes nothing if the frame is of another region, if the magazine has its word, if another
    /// frame of the word was freed lately, if the frame may be free or retired, or if a drain is
    /// requested. The caller has exclusive use of the magazine.
    ///
    /// Bound: as for [`Region::release_frame`].
    #[inline(always)]
    fn free_directly(&self, number: u64, elsewhere: Elsewhere, is_more_due: impl Fn() -> bool) -> Freed {
        let key = number / 64;
        let Some((region, pool)) = self.direct.of(number) else { return Freed::No };
        let is_elsewhere = match elsewhere {
            Elsewhere::Never => pool.is_used() || region.retired.lists_any(),
            Elsewhere::Perhaps => pool.held(key) != 0 || region.retired.touch_block_of(number),
        };
        if is_elsewhere
            || self.wants_attention()
            || (self.blocks.may_have(number) && (self.near_place(key).has_key(key) || self.held.has(key)))
            || self.freed_before(key)
        {
            return Freed::No;
        }
        let zone = region.zone.index();
        let transit = self.transits[zone].begin_alone();
        let Some(change) = region.release_frame(number) else {
            transit.cancel();
            return Freed::No;
        };
        self.straight.add(1);
        let unreported = &self.unreported[zone];
        unreported.add(1);
        if change.is_to_settle()
            || unreported.get() as i64 >= UNREPORTED
            || region.retired.lists_any()
            || is_more_due()
        {
            core::mem::forget(transit);
            return Freed::MoreIsDue(region);
        }
        Freed::Yes
    }
}

impl<P: Platform> Frames<P> {
    /// Frees one frame that is not of the CPU's current word.
    // Apart from the functions that it ends with, so that no use of a magazine saves registers for
    // another.
    #[inline(never)]
    pub(in crate::frames) fn free_frame(&self, pin: &CpuPin, frame: PhysFrame) -> Result<(), FreeError> {
        let magazine = self.rack.slot(pin.cpu());
        let resting = magazine.resting();
        if ptr::eq(resting, barred()) {
            return self.free_frame_checked(pin, frame, magazine);
        }
        if ptr::eq(resting, closed()) {
            return self.free_frame_slowly(pin, frame);
        }
        self.free_frame_quickly(pin, frame, magazine, resting)
    }

    /// Frees one frame in paranoid mode. `magazine` is the CPU's.
    #[inline(never)]
    fn free_frame_checked(
        &self,
        pin: &CpuPin,
        frame: PhysFrame,
        magazine: &'static Magazine,
    ) -> Result<(), FreeError> {
        if magazine.give_checked(frame) { Ok(()) } else { self.free_frame_slowly(pin, frame) }
    }

    /// Frees one frame, mostly directly into its bitmap. `magazine` is the CPU's, and rests at
    /// `resting`, an entry of its own.
    #[inline(never)]
    fn free_frame_quickly(
        &self,
        pin: &CpuPin,
        frame: PhysFrame,
        magazine: &'static Magazine,
        resting: &'static Entry,
    ) -> Result<(), FreeError> {
        magazine.begin();
        match magazine.free_directly(number(frame), Elsewhere::Never, || self.waiters.any()) {
            Freed::MoreIsDue(region) => self.finish_free(magazine, resting, region, frame),
            Freed::Yes => {
                magazine.leave(resting);
                Ok(())
            }
            Freed::No => {
                magazine.leave(resting);
                self.free_frame_slowly(pin, frame)
            }
        }
    }

    /// Frees one frame directly, if the remembered region has it. Looks for it elsewhere, too.
    fn free_frame_looking(&self, pin: &CpuPin, frame: PhysFrame) -> Option<Result<(), FreeError>> {
        let magazine = self.rack.slot(pin.cpu());
        let resting = magazine.resting();
        if ptr::eq(resting, barred()) || ptr::eq(resting, closed()) {
            return None;
        }
        magazine.begin();
        match magazine.free_directly(number(frame), Elsewhere::Perhaps, || self.waiters.any()) {
            Freed::MoreIsDue(region) => Some(self.finish_free(magazine, resting, region, frame)),
            freed => {
                magazine.leave(resting);
                matches!(freed, Freed::Yes).then_some(Ok(()))
            }
        }
    }

    /// Does the work that is rarely due after a direct free, and ends the caller's transit and its use of
    /// the magazine.
    #[cold]
    #[inline(never)]
    fn finish_free(
        &self,
        magazine: &'static Magazine,
        resting: &'static Entry,
        region: &'static Region,
        freed: PhysFrame,
    ) -> Result<(), FreeError> {
        let transit = magazine.transits[region.zone.index()].go_on_alone();
        region.settle(region.block_of(number(freed)));
        let machine = self.machine();
        if let Some(sum) = magazine.account(region.zone, 0)
            && let Some(machine) = machine
        {
            machine.zone_of(region).add(sum);
        }
        drop(transit);
        magazine.leave(resting);
        if let Some(machine) = machine {
            self.sweep(machine, region);
        }
        self.waiters.note();
        Ok(())
    }

    /// Frees one frame that [`Frames::free_frame_quickly`] left.
    #[inline(never)]
    fn free_frame_slowly(&self, pin: &CpuPin, given: PhysFrame) -> Result<(), FreeError> {
        let machine = self.machine().ok_or(FreeError::OutOfRange(given))?;
        if let Some(freed) = self.free_frame_looking(pin, given) {
            return freed;
        }
        let region = machine.region_of(number(given)).ok_or(FreeError::OutOfRange(given))?;
        let entered = self.rack.get(pin.cpu()).and_then(Magazine::enter);
        let is_other = entered.is_some_and(|entered| remember(machine, &entered, region));
        if is_other && let Some(freed) = self.free_frame_looking(pin, given) {
            return freed;
        }
        self.free_otherwise(machine, pin, number(given))
    }
}

/// Remembers the region for the CPU's further frees. Returns false if that changes nothing.
fn remember(machine: &Machine, entered: &MagazineGuard, region: &'static Region) -> bool {
    // Without marks to check, freed frames are not cleared either.
    machine.checked == Checked::No
        && is_near(entered, region)
        && machine.node(region.node).is_some_and(|node| entered.direct.remember(region, &node.zeroed))
}
