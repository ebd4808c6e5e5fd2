//! Runs of order 9: one 2 MiB block, the size of a huge page.
//!
//! The state of a block is complete, so freeing a block is one compare-and-swap, which detects
//! every double free at once; a block held by the CPU is handed out by a store.

use topomem_percpu::{CpuPin, Order, PhysFrame, Platform};

use crate::frames::Frames;
use crate::frames::alloc::frame;
use crate::frames::magazine::Magazine;
use crate::frames::magazine::guard::MagazineGuard;
use crate::frames::region::free::Refused;
use crate::frames::region::marks::Given;
use crate::frames::region::{BLOCK, Region};
use crate::frames::state::Machine;
use crate::frames::types::{FreeError, Zeroing};

impl<P: Platform> Frames<P> {
    /// Takes a block held by this CPU.
    #[inline(never)]
    pub(in crate::frames) fn take_held_block(&self, pin: &CpuPin) -> Option<PhysFrame> {
        let entered = self.rack.get(pin.cpu())?.enter()?;
        let number = entered.take_huge()?.give();
        if entered.is_checked() {
            self.machine()?.mark_given(number, Given::Aligned(Order::HUGE));
        }
        Some(frame(number))
    }

    /// Frees a block, into this CPU's slots or into the buddy.
    pub(in crate::frames) fn free_block(&self, pin: &CpuPin, number: u64) -> Result<(), FreeError> {
        if self.hold_block_back(pin, number) { Ok(()) } else { self.free_block_home(pin, number) }
    }

    /// Keeps a block on this CPU. Returns false, with nothing changed, if the block must not stay
    /// here or cannot be freed.
    #[inline(never)]
    fn hold_block_back(&self, pin: &CpuPin, number: u64) -> bool {
        let Some(machine) = self.machine() else { return false };
        let Some(region) = machine.region_of(number) else { return false };
        let Some(entered) = self.rack.get(pin.cpu()).and_then(Magazine::enter) else { return false };
        if machine.zeroing == Zeroing::OnRequest
            && number.is_multiple_of(BLOCK)
            && self.may_hold_back(machine, &entered, region)
            && !region.retired.touch_block_of(number)
            && region.take_mark_back(number, Given::Aligned(Order::HUGE)).is_ok()
        {
            if let Some(block) = region.cache_block(number) {
                entered.push_huge(block);
                return true;
            }
            machine.mark_given(number, Given::Aligned(Order::HUGE));
        }
        false
    }

    #[inline(never)]
    fn free_block_home(&self, pin: &CpuPin, number: u64) -> Result<(), FreeError> {
        let given = frame(number);
        let machine = self.machine().ok_or(FreeError::OutOfRange(given))?;
        if !number.is_multiple_of(BLOCK) {
            return Err(FreeError::Misaligned { frame: given, order: Order::HUGE });
        }
        let region = machine.region_of(number).ok_or(FreeError::OutOfRange(given))?;
        let refuse = |why: Refused| why.error(Order::HUGE);
        region.take_block_mark_back(number, Order::HUGE).map_err(refuse)?;
        self.clear_freed(machine, region, number, Order::HUGE);
        let entered = self.enter_answering(machine, pin);
        self.free_home(machine, entered.as_ref(), region, BLOCK, || region.free(number, Order::HUGE))
            .map_err(refuse)
    }

    /// Returns true if a freed block may stay with this CPU: it is not remote, and memory is not
    /// scarce.
    fn may_hold_back(&self, machine: &Machine, entered: &MagazineGuard, region: &Region) -> bool {
        let zone = machine.zone_of(region);
        region.node == entered.node
            && entered.has_huge_room()
            && region.cached
            && zone.free() >= zone.watermarks.low as i64
            && !entered.wants_attention()
            && !self.waiters.any()
    }
}
