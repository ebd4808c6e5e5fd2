//! Frees of the frames in a node's pool of zeroed frames.

use core::ptr;

use topomem_percpu::{PhysFrame, Platform};

use crate::frames::Frames;
use crate::frames::node::Node;
use crate::frames::ready::Ready;
use crate::frames::region::Region;
use crate::frames::region::word::Word;

impl<P: Platform> Frames<P> {
    pub(in crate::frames) fn zero(&self, first: PhysFrame, bytes: u64) {
        let address = self.platform.phys_to_virt(first.start_address());
        // SAFETY: the run was just allocated: RAM in the direct map without users.
        unsafe { ptr::write_bytes(address.as_ptr(), 0, bytes as usize) };
    }
}

impl<P: Platform> Ready<'_, P> {
    /// Returns the pool's frames to the bitmaps. Returns the number of frames.
    pub(in crate::frames) fn spill_zeroed(self, node: &Node) -> u64 {
        if node.zeroed.words().next().is_none() {
            return 0;
        }
        let _moving = node.zeroed.moving();
        let mut spilled = 0;
        node.zeroed.empty(|word| {
            spilled += word.frames();
            self.send_home(node, word);
        });
        self.frames.waiters.note();
        spilled
    }

    /// Returns frames of a bitmap word. Zones and nodes may end inside a word, and the frames may be
    /// of several regions: each region gets the region's own frames.
    fn send_home(self, node: &Node, word: Word) {
        let mut left = word;
        while left.mask != 0 {
            let Some(region) = self.state.region_of(left.first()) else { return };
            let part = Word { key: left.key, mask: left.mask & left.key.mask_below(region.span.end) };
            left.mask &= !part.mask;
            self.send_part_home(node, region, part);
        }
    }

    fn send_part_home(self, node: &Node, region: &Region, word: Word) {
        let (block, at) = (region.block_of(word.first()), word.key.index_in_block());
        // Frames already free there, or retired, were freed while in the pool, and are free once now.
        let mut bits = word.mask & !region.retired.complete_in_word(word.key);
        while bits != 0 && region.free_word(block, at, bits).is_err() {
            bits &= !region.line(block).load(at);
        }
        self.state.account_shared(region, bits.count_ones().into());
        node.zeroed.count_doubles((word.mask & !bits).count_ones());
        self.state.sweep(region);
    }
}
