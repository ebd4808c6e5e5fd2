//! Zeroing when frames are freed.
//!
//! With [`Zeroing::OnFree`] every free frame is zero, from the start on. Frames are cleared before
//! searches can find them, but after the free was checked: a run that will be refused is not
//! written to, since it may belong to another owner, or not to the allocator.

use topomem_percpu::{Order, Platform};

use crate::frames::Frames;
use crate::frames::ready::Ready;
use crate::frames::region::Region;
use crate::frames::region::bitmap::masks;
use crate::frames::types::{FrameNumber, Zeroing};

impl<P: Platform> Ready<'_, P> {
    /// Zeroes a run to be freed, if the configuration is [`Zeroing::OnFree`].
    #[inline]
    pub(in crate::frames) fn clear_freed(self, region: &Region, first: FrameNumber, order: Order) {
        if self.state.zeroing == Zeroing::OnFree {
            self.frames.clear_sound(region, first, order);
        }
    }

    /// Zeroes a part of a block as [`Ready::clear_freed`] does.
    #[inline]
    pub(super) fn clear_freed_part(self, region: &Region, first: FrameNumber, count: u64) {
        if self.state.zeroing == Zeroing::OnFree {
            self.frames.clear_sound_part(region, first, count);
        }
    }
}

impl<P: Platform> Frames<P> {
    #[inline(never)]
    fn clear_sound(&self, region: &Region, first: FrameNumber, order: Order) {
        if order < Order::HUGE {
            self.clear_sound_part(region, first, order.frames());
        } else if region.check_head(first, order).is_ok() {
            self.zero(first.frame(), order.bytes());
        }
    }

    #[inline(never)]
    fn clear_sound_part(&self, region: &Region, first: FrameNumber, count: u64) {
        if region.looks_allocated(first, count) {
            self.zero(first.frame(), count * 4096);
        }
    }
}

impl Region {
    /// Returns true if the frames of one block may be freed, as far as the block's state and bits
    /// tell.
    fn looks_allocated(&self, first: FrameNumber, count: u64) -> bool {
        let line = self.line(self.block_of(first));
        let mut words = masks(first.bit_in_block(), count as usize);
        self.check_small(first, count).is_ok() && words.all(|(word, mask)| line.load(word) & mask == 0)
    }
}
