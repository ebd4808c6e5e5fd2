//! Runs of order 9: one 2 MiB block, the size that huge pages are made of.
//!
//! Its state says everything about a block, so giving one back is one compare-and-swap, which
//! finds every double free at once; a block that the CPU holds back is handed out by a store.

use topomem_percpu::{CpuPin, Order, Platform};
use x86_64::structures::paging::PhysFrame;

use super::alloc::{Shape, frame};
use super::entered::Entered;
use super::machine::Machine;
use super::region::{BLOCK, Region};
use super::{AllocError, FrameRequest, Frames, FreeError};

impl<P: Platform> Frames<P> {
    /// A block: of this CPU where it holds one back, else from the buddy.
    #[inline(never)]
    pub(super) fn alloc_block(&self, pin: &CpuPin, request: &FrameRequest) -> Result<PhysFrame, AllocError> {
        if let Some(magazine) = self.rack.get(pin.cpu())
            && let Some(entered) = magazine.enter()
            && let Some(block) = entered.pop_huge()
        {
            entered.huge_taken.add(1);
            return Ok(frame(block.give()));
        }
        let machine = self.machine().ok_or(AllocError::NotReady)?;
        self.alloc_shared(machine, pin, request, Shape::Aligned(Order::HUGE)).map(frame)
    }

    /// Takes a block back, for this CPU to hold back or into the buddy.
    #[inline(never)]
    pub(super) fn free_block(&self, pin: &CpuPin, number: u64) -> Result<(), FreeError> {
        let given = frame(number);
        let machine = self.machine().ok_or(FreeError::OutOfRange(given))?;
        if !number.is_multiple_of(BLOCK) {
            return Err(FreeError::Misaligned { frame: given, order: Order::HUGE });
        }
        let region = machine.region_of(number).ok_or(FreeError::OutOfRange(given))?;
        self.clear_freed(machine, region, number, Order::HUGE);
        if let Some(magazine) = self.rack.get(pin.cpu())
            && let Some(entered) = magazine.enter()
            && self.may_hold_back(machine, &entered, region)
            && !region.retired.touch_block_of(number)
        {
            let block = region.cache_block(number).map_err(|why| why.error(Order::HUGE))?;
            entered.push_huge(block);
            return Ok(());
        }
        region.free(number, Order::HUGE).map_err(|why| why.error(Order::HUGE))?;
        self.account_shared(machine, region, BLOCK as i64);
        self.sweep(machine, region);
        self.waiters.wake_first();
        Ok(())
    }

    /// May a freed block stay with this CPU? Not a remote one, nor while memory is scarce.
    fn may_hold_back(&self, machine: &Machine, entered: &Entered, region: &Region) -> bool {
        let zone = machine.zone_of(region);
        region.node == entered.node
            && entered.has_huge_room()
            && region.cached
            && zone.free() >= zone.watermarks.low as i64
            && !entered.wants_attention()
            && !self.waiters.any()
    }
}
