//! Retired frames, withheld from claims.

use topomem_percpu::Platform;

use crate::frames::ready::Ready;
use crate::frames::region::{BlockIndex, Region, SearchError};
use crate::frames::types::FrameNumber;

impl<P: Platform> Ready<'_, P> {
    /// Releases a claimed run with pending frames, except the pending frames. Returns true if the run was released.
    #[cold]
    pub(in crate::frames) fn withhold_retired(
        self,
        region: &Region,
        taken: Result<FrameNumber, SearchError>,
        count: u64,
    ) -> bool {
        let kept = taken.map_or(0, |first| region.withhold(first, count));
        if kept == 0 {
            return false;
        }
        self.state.account_shared(region, -(kept as i64));
        self.frames.waiters.note();
        true
    }

    /// Releases a word claimed by a magazine if the word's block has retired frames. Returns true if the word was
    /// released. A magazine with the word would take a retired frame again without a check.
    #[inline]
    pub(in crate::frames) fn withhold_retired_word(
        self,
        region: &Region,
        block: BlockIndex,
        word: usize,
        bits: u64,
    ) -> bool {
        if !region.retired.touch_block_of(region.first_frame(block)) {
            return false;
        }
        let kept = region.return_word(block, word, bits);
        self.state.account_shared(region, -(kept as i64));
        self.frames.waiters.note();
        true
    }
}
