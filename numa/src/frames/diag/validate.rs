//! Cross-checking every bit, state, hint and count.

use topomem_percpu::{CpuId, NodeId, PhysFrame, Platform};

use crate::frames::Frames;
use crate::frames::ready::Ready;
use crate::frames::region::block::BlockState;
use crate::frames::region::retired::Retirement;
use crate::frames::region::word::Word;
use crate::frames::region::{BlockIndex, Region, Span};
use crate::frames::types::{BLOCK, Totals, Zone};

/// Two parts of the allocator's state that contradict each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Corruption {
    /// The allocator has no memory yet.
    NotReady,
    /// A frame that is not managed is marked free.
    ReservedFree(PhysFrame),
    /// A block in the buddy, allocated whole, or in between has frames in its bitmap.
    StrayBits(PhysFrame),
    /// A block is in the buddy, but its state says otherwise, or the other way round.
    BuddyMismatch(PhysFrame),
    /// A completely retired frame is free, in its bitmap, the buddy or a magazine; or a pending
    /// frame is free in its bitmap or the buddy.
    RetiredFree(PhysFrame),
    /// A block was left in the middle of a change.
    Unsettled(PhysFrame),
    /// A run of blocks without its first block, or with one out of place.
    BrokenRun(PhysFrame),
    /// A block has free frames, but searches cannot find it.
    MissingHint(PhysFrame),
    /// A block is all free, but not in the buddy.
    NotPromoted(PhysFrame),
    /// A block is owned by no CPU although marked, or by a CPU although not marked.
    OwnerMismatch(PhysFrame),
    /// A frame in a magazine is free in its bitmap or the buddy too, or in another magazine.
    Duplicate {
        /// The frame.
        frame: PhysFrame,
        /// The magazine's CPU.
        cpu: CpuId,
    },
    /// A frame in a pool of zeroed frames is free elsewhere too, or belongs to another node.
    Misplaced(PhysFrame),
    /// A frame in a pool of zeroed frames is not zero: it was written to since.
    NotZero(PhysFrame),
    /// A zone's count of free frames is wrong.
    Count {
        /// The node.
        node: NodeId,
        /// The zone.
        zone: Zone,
        /// The count, including magazines' changes.
        counted: i64,
        /// The free frames in the bitmaps.
        free: u64,
    },
}

impl core::fmt::Display for Corruption {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Debug::fmt(self, f)
    }
}

impl core::error::Error for Corruption {}

impl<P: Platform> Frames<P> {
    /// Cross-checks everything; only without concurrent allocations and frees on any CPU.
    ///
    /// Cost: linear in blocks, quadratic in the words held by magazines.
    ///
    /// # Errors
    ///
    /// Returns the first [`Corruption`] found, and [`Corruption::NotReady`] before
    /// [`Frames::init`].
    ///
    /// ```
    /// # mod machine { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/machine.rs")); }
    /// # machine::run(|frames, pin| {
    /// frames.drain(pin);
    /// let totals = frames.validate()?;
    /// # let _ = totals;
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub fn validate(&self) -> Result<Totals, Corruption> {
        let ready = self.ready().ok_or(Corruption::NotReady)?;
        let mut totals = Totals::default();
        let mut managed = 0;
        for region in ready.state.directory.regions {
            totals.free += self.check_region(region)?;
            totals.retired += self.check_retired(region)?;
            managed += region.managed_frames();
            totals.reserved += region.span.end - region.span.start - region.managed_frames();
        }
        totals.in_magazines = ready.check_magazines()?;
        totals.zeroed = ready.check_pools()?;
        ready.check_counts()?;
        totals.allocated = managed - totals.free - totals.in_magazines - totals.zeroed - totals.retired;
        Ok(totals)
    }

    fn check_region(&self, region: &Region) -> Result<u64, Corruption> {
        let mut free = 0;
        for index in 0..region.blocks() {
            free += self.check_block(region, BlockIndex(index))?;
        }
        let whole: u64 = region.chunks.iter().map(|chunk| u64::from(chunk.whole.count())).sum();
        let states = (0..region.blocks())
            .filter(|&index| region.entry(BlockIndex(index)).load().state() == BlockState::Whole);
        if whole != states.count() as u64 {
            return Err(Corruption::BuddyMismatch(region.span.start.frame()));
        }
        Ok(free)
    }

    fn check_retired(&self, region: &Region) -> Result<u64, Corruption> {
        for (number, retirement) in region.retired.iter() {
            let home = region.is_free(number, region.entry(region.block_of(number)).load());
            let block = number.block();
            let cached = self.magazines.iter().any(|magazine| {
                magazine.holds_of(number, 1).is_some() || magazine.blocks().any(|held| held.block() == block)
            });
            if home || (cached && retirement == Retirement::Complete) {
                return Err(Corruption::RetiredFree(number.frame()));
            }
        }
        Ok(region.retired.complete_count())
    }

    fn check_block(&self, region: &Region, index: BlockIndex) -> Result<u64, Corruption> {
        let block = region.entry(index).load();
        let line = region.line(index);
        let first = region.first_frame(index);
        let at = first.frame();
        let free = u64::from(line.count());
        let (chunk, bit) = region.chunk_of(index);
        if (block.state() == BlockState::Whole) != chunk.whole.test(bit) {
            return Err(Corruption::BuddyMismatch(at));
        }
        if block.state() != BlockState::Bitmap && free > 0 {
            return Err(Corruption::StrayBits(at));
        }
        let owned = self.magazines.iter().filter(|magazine| magazine.block() == Some(first)).count();
        // An edge block may begin with another region's frames, but is never owned.
        if owned != usize::from(block.is_owned()) && !block.is_edge() {
            return Err(Corruption::OwnerMismatch(at));
        }
        match block.state() {
            BlockState::Whole => return Ok(BLOCK),
            BlockState::Cached => {
                let holders = self.magazines.iter().flat_map(|magazine| magazine.blocks());
                if holders.filter(|&held| held == first).count() != 1 {
                    return Err(Corruption::OwnerMismatch(at));
                }
            }
            BlockState::Promoting | BlockState::Freeing => return Err(Corruption::Unsettled(at)),
            BlockState::Head(order) => {
                let blocks = 1 << (order.get() - 9);
                let tails = 1..blocks;
                let tail = |offset| {
                    index.0 + offset < region.blocks()
                        && region.entry(index + offset).load().state() == BlockState::Tail
                };
                if !first.is_multiple_of(order.frames()) || !tails.into_iter().all(tail) {
                    return Err(Corruption::BrokenRun(at));
                }
            }
            BlockState::Tail => {
                let before =
                    index.0.checked_sub(1).map(|before| region.entry(BlockIndex(before)).load().state());
                if !matches!(before, Some(BlockState::Tail | BlockState::Head(_))) {
                    return Err(Corruption::BrokenRun(at));
                }
            }
            BlockState::Bitmap => {
                if free > 0 && !chunk.partial.test(bit) {
                    return Err(Corruption::MissingHint(at));
                }
                if free == BLOCK && !block.is_owned() {
                    return Err(Corruption::NotPromoted(at));
                }
                if block.is_edge() {
                    let mut frames = Span { start: first, end: first + BLOCK }.iter();
                    let stray =
                        frames.find(|number| line.test(number.bit_in_block()) && !region.manages(*number, 1));
                    if let Some(number) = stray {
                        return Err(Corruption::ReservedFree(number.frame()));
                    }
                }
            }
        }
        Ok(free)
    }
}

impl<P: Platform> Ready<'_, P> {
    fn check_magazines(self) -> Result<u64, Corruption> {
        let held = || {
            self.frames
                .magazines
                .iter()
                .flat_map(|magazine| magazine.words().map(move |word| (magazine.cpu, word)))
        };
        let mut total = 0;
        for (position, (cpu, word)) in held().enumerate() {
            let duplicate =
                |bits: u64| Corruption::Duplicate { frame: word.key.lowest_of(bits).frame(), cpu };
            let first = word.first();
            let region = self.state.region_of(first).ok_or(duplicate(word.mask))?;
            let index = region.block_of(first);
            if !region.entry(index).load().has_bitmap() {
                return Err(duplicate(word.mask));
            }
            let home = region.line(index).load(word.key.index_in_block()) & word.mask;
            if home != 0 {
                return Err(duplicate(home));
            }
            let same = |(_, other): &(CpuId, Word)| other.key == word.key && other.mask & word.mask != 0;
            if let Some((_, other)) = held().skip(position + 1).find(same) {
                return Err(duplicate(other.mask & word.mask));
            }
            total += word.frames();
        }
        // That each is in one magazine only was checked with its block.
        Ok(total
            + BLOCK
                * self.frames.magazines.iter().map(|magazine| magazine.blocks().count() as u64).sum::<u64>())
    }

    fn check_counts(self) -> Result<(), Corruption> {
        for (index, node_state) in self.state.nodes().enumerate() {
            let node = NodeId::new(index).unwrap_or(NodeId::ZERO);
            for zone in Zone::ALL {
                let here = |region: &&&'static Region| region.node == node && region.zone == zone;
                let mut free = 0;
                for region in self.state.directory.regions.iter().filter(here) {
                    free += self.frames.check_region(region)?;
                }
                let of_node = self.frames.magazines.iter().filter(|magazine| magazine.node == node);
                let unreported: i64 = of_node.map(|magazine| magazine.unreported(zone)).sum();
                let counted = node_state.zones[zone.index()].free() + unreported;
                if counted != free as i64 {
                    return Err(Corruption::Count { node, zone, counted, free });
                }
            }
        }
        Ok(())
    }
}
