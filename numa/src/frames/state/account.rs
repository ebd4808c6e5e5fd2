//! The counts of free frames, the pooled frames, and the retired frames still in the bitmaps.

use super::AllocatorState;
use crate::frames::magazine::guard::MagazineGuard;
use crate::frames::region::Region;
use crate::frames::region::bitmap::masks;
use crate::frames::region::free::FreeRejection;
use crate::frames::types::{FrameNumber, WordNumber};

impl AllocatorState {
    /// Counts frames gained or lost by a region, in the magazine if the region's zone is of the magazine's node.
    pub(in crate::frames) fn account(&self, guard: &MagazineGuard, region: &Region, frames: i64) {
        if guard.node != region.node {
            self.account_shared(region, frames);
        } else if let Some(sum) = guard.account(region.zone, frames) {
            self.zone_of(region).add(sum);
        }
    }

    pub(in crate::frames) fn account_shared(&self, region: &Region, frames: i64) {
        self.zone_of(region).add(frames);
    }

    /// Takes out pending frames, after frames were freed or blocks moved.
    #[inline]
    pub(in crate::frames) fn sweep(&self, region: &Region) {
        if region.retired.any_pending() {
            self.sweep_pending(region);
        }
    }

    #[cold]
    fn sweep_pending(&self, region: &Region) {
        let taken = region.sweep();
        self.account_shared(region, -(taken as i64));
    }

    /// Refuses frames of a block in the node's pool: pooled frames are free already.
    ///
    /// Cost: [`ZeroedPool::held`](crate::frames::node::zeroed_pool::ZeroedPool::held) for each bitmap word.
    pub(in crate::frames) fn check_not_pooled(
        &self,
        region: &Region,
        first: FrameNumber,
        count: u64,
    ) -> Result<(), FreeRejection> {
        let words = masks(first.bit_in_block(), count as usize);
        let base = first.block().first_word();
        let mut held = words.map(|(word, mask)| (base + word as u64, mask));
        held.try_for_each(|(key, mask)| match self.pooled(region, key) & mask {
            0 => Ok(()),
            twice => Err(FreeRejection::DoubleFree(key.lowest_of(twice))),
        })
    }

    /// Returns the frames of a bitmap word held by the node's pool.
    #[inline]
    pub(in crate::frames) fn pooled(&self, region: &Region, key: WordNumber) -> u64 {
        match self.node(region.node) {
            Some(node) if node.zeroed.is_used() => node.zeroed.held(key),
            _ => 0,
        }
    }
}
