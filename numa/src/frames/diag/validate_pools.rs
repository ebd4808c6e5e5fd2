//! Cross-checking the pools of zeroed frames.

use topomem_percpu::Platform;

use super::validate::Corruption;
use crate::frames::Frames;
use crate::frames::node::Node;
use crate::frames::ready::Ready;
use crate::frames::region::word::Word;
use crate::frames::types::FrameNumber;

impl<P: Platform> Frames<P> {
    fn is_zero(&self, number: FrameNumber) -> bool {
        let first = self.platform.phys_to_virt(number.frame().start_address()).cast::<[u64; 512]>();
        // SAFETY: a pool's frame is RAM in the direct map, was written when it was zeroed, and has
        // no users: validation runs alone.
        unsafe { first.as_ref() == &[0; 512] }
    }
}

impl<P: Platform> Ready<'_, P> {
    /// Checks every pool. Returns the number of their frames.
    pub(super) fn check_pools(self) -> Result<u64, Corruption> {
        self.state.nodes().map(|node| self.check_pool(node)).sum()
    }

    fn check_pool(self, node: &Node) -> Result<u64, Corruption> {
        let mut total = 0;
        for (position, word) in node.zeroed.words().enumerate() {
            let numbers =
                (0..64).filter(|bit| word.mask & 1 << bit != 0).map(|bit| word.key.first_frame() + bit);
            for number in numbers {
                let region = self.state.region_of(number).filter(|region| region.node == node.id);
                let region = region.ok_or(Corruption::Misplaced(number.frame()))?;
                let block = region.block_of(number);
                let bit = number.mask_in_word();
                let same = |other: Word| other.key == word.key && other.mask & bit != 0;
                if !region.entry(block).load().has_bitmap()
                    || region.line(block).load(word.key.index_in_block()) & bit != 0
                    || self.frames.magazines.iter().any(|magazine| magazine.holds_of(number, 1).is_some())
                    || node.zeroed.words().skip(position + 1).any(same)
                {
                    return Err(Corruption::Misplaced(number.frame()));
                }
                if !self.frames.is_zero(number) {
                    return Err(Corruption::NotZero(number.frame()));
                }
                total += 1;
            }
        }
        Ok(total)
    }
}
