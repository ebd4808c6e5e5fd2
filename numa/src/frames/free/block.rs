//! Runs of order 9: one 2 MiB block, the size of a huge page.
//!
//! The state of a block is complete, so freeing a block is one compare-and-swap, which detects
//! every double free at once; a block held by the CPU is handed out by a store.

use topomem_percpu::{CpuPin, Order, Platform};

use crate::frames::Frames;
use crate::frames::magazine::Magazine;
use crate::frames::magazine::guard::MagazineGuard;
use crate::frames::ready::Ready;
use crate::frames::region::Region;
use crate::frames::region::free::FreeRejection;
use crate::frames::region::marks::AllocKind;
use crate::frames::types::{BLOCK, FrameNumber, FreeError, Zeroing};

impl<P: Platform> Frames<P> {
    /// Frees a block, into this CPU's slots or into the buddy.
    pub(in crate::frames) fn free_block(&self, pin: &CpuPin, number: FrameNumber) -> Result<(), FreeError> {
        if self.hold_block_back(pin, number) { Ok(()) } else { self.free_block_home(pin, number) }
    }

    /// Keeps a block on this CPU. Returns false, with nothing changed, if the block must not stay
    /// here or cannot be freed.
    #[inline(never)]
    fn hold_block_back(&self, pin: &CpuPin, number: FrameNumber) -> bool {
        let Some(ready) = self.ready() else { return false };
        let Some(region) = ready.state.region_of(number) else { return false };
        let Some(guard) = self.magazines.get(pin.cpu()).and_then(Magazine::enter) else { return false };
        if ready.state.zeroing == Zeroing::OnRequest
            && number.is_multiple_of(BLOCK)
            && ready.may_hold_back(&guard, region)
            && !region.retired.touch_block_of(number)
            && region.verify_free(number, AllocKind::Aligned(Order::HUGE)).is_ok()
        {
            if let Some(block) = region.cache_block(number) {
                guard.push_huge(block);
                return true;
            }
            ready.state.record_alloc(number, AllocKind::Aligned(Order::HUGE));
        }
        false
    }

    #[inline(never)]
    fn free_block_home(&self, pin: &CpuPin, number: FrameNumber) -> Result<(), FreeError> {
        let given = number.frame();
        let ready = self.ready().ok_or(FreeError::OutOfRange(given))?;
        if !number.is_multiple_of(BLOCK) {
            return Err(FreeError::Misaligned { frame: given, order: Order::HUGE });
        }
        let region = ready.state.region_of(number).ok_or(FreeError::OutOfRange(given))?;
        let refuse = |why: FreeRejection| why.error(Order::HUGE);
        region.verify_free_of_blocks(number, Order::HUGE).map_err(refuse)?;
        ready.clear_freed(region, number, Order::HUGE);
        let guard = ready.enter_magazine(pin);
        ready.free_home(guard.as_ref(), region, BLOCK, || region.free(number, Order::HUGE)).map_err(refuse)
    }
}

impl<P: Platform> Ready<'_, P> {
    /// Returns true if a freed block may stay with this CPU: it is not remote, and memory is not
    /// scarce.
    fn may_hold_back(self, guard: &MagazineGuard, region: &Region) -> bool {
        let zone = self.state.zone_of(region);
        region.node == guard.node
            && guard.has_huge_room()
            && region.cached
            && zone.free() >= zone.watermarks.low as i64
            && !guard.wants_attention()
            && !self.frames.waiters.any()
    }
}
