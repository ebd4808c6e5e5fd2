//! A region: the memory of one node and zone, as blocks of 2 MiB and chunks of 1 GiB.
//!
//! **Where a frame is free.** Bits are the authority: a frame is free when its bit in its block's
//! line is set, or its block's bit in its chunk's line is (then the block's own line is clear), or
//! the bit in one magazine's entry is. Nothing counts frames per block.
//!
//! **Hints.** A chunk's `partial` line has a block's bit set whenever the block's line has any
//! bit set, except while somebody who is about to set it is between two instructions: who makes
//! a word non-zero then looks at the hint; who finds the line empty clears the hint, then looks
//! at the line. Both sides fence (SeqCst) between write and read, so one sees the other.
//!
//! **Transit.** Whoever takes bits that it may give back, moves a block between line and chunk, or
//! clears a hint, is in transit meanwhile ([`super::transit`]). A search of the region that found
//! nothing is repeated unless nobody was in transit from its start to its end.

use topomem_percpu::sync::atomic::{AtomicU32, Ordering, fence};
use topomem_percpu::{NodeId, Order};

use super::Zone;
use super::block::{Block, BlockEntry, BlockState, Ownership};
use super::entry::Home;
use super::line512::{BITS, Change, Line512};
use super::marks::Marks;
use super::retired::RetiredFrames;
use super::transit::{Transit, Transits, Watch};

/// Frames per block.
pub(crate) const BLOCK: u64 = 512;
/// Blocks per chunk.
pub(crate) const CHUNK: usize = 512;

const _: () = assert!(BITS as u64 == BLOCK && BITS == CHUNK);

/// The blocks of one GiB, by absolute address.
#[derive(Debug)]
pub(crate) struct Chunk {
    /// Blocks that are whole and free.
    pub(crate) whole: Line512,
    /// Blocks whose lines may have bits set: a hint.
    pub(crate) partial: Line512,
}

impl Chunk {
    pub(crate) fn new() -> Chunk {
        Chunk { whole: Line512::new(), partial: Line512::new() }
    }
}

/// A stretch of managed frames: `start` to, not including, `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) start: u64,
    pub(crate) end: u64,
}

impl Span {
    pub(super) fn frames(self) -> u64 {
        self.end - self.start
    }
}

/// A block of a region, counted from the region's first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BlockIndex(pub(crate) usize);

/// Why a search found nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Miss {
    /// There is nothing.
    Nothing,
    /// Something was changing hands all the time.
    InTransit,
}

/// How often a search starts over because something was changing hands.
const SEARCHES: u32 = 64;

/// The memory of one node and zone between two addresses.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Region {
    pub(crate) node: NodeId,
    pub(crate) zone: Zone,
    /// May magazines of the node's CPUs hold its frames? Not the scarce lowest zone's, unless the
    /// node has no other.
    pub(crate) cached: bool,
    /// The frames, gaps between managed spans included.
    pub(crate) span: Span,
    /// The number of the first block: `span.start / 512`.
    pub(super) first_block: u64,
    pub(super) lines: &'static [Line512],
    pub(super) entries: &'static [BlockEntry],
    pub(super) chunks: &'static [Chunk],
    pub(super) marks: Marks,
    /// Its managed spans, sorted.
    pub(super) managed: &'static [Span],
    pub(super) retired: RetiredFrames,
    pub(super) hot: Hot,
}

/// The words of a region that change, on a line of their own.
#[derive(Debug)]
#[repr(align(128))]
pub(super) struct Hot {
    /// Contexts that move frames within the region or bring them home, but for those that count in
    /// a magazine.
    transits: Transits,
    /// Requests that may give back what they claim, because frames of it are to retire. Apart, as
    /// each of them searches the region meanwhile.
    withholding: Transits,
    /// The chunk in which partial blocks were last found.
    pub(super) partial_hint: AtomicU32,
}

impl Hot {
    pub(super) fn new() -> Hot {
        Hot { transits: Transits::new(), withholding: Transits::new(), partial_hint: AtomicU32::new(0) }
    }
}

impl Region {
    pub(super) fn transit(&self) -> Transit<'_> {
        self.hot.transits.begin()
    }

    /// For a request that may give back what it claims, until it has.
    pub(super) fn withholding(&self) -> Transit<'_> {
        self.hot.withholding.begin()
    }

    /// Adds its counts to a reading.
    pub(super) fn watch(&self, watch: &mut Watch) {
        watch.add(self.hot.transits.load());
        watch.add(self.hot.withholding.load());
    }

    /// Repeats `search` until it finds something, or nothing was in transit throughout.
    ///
    /// Bound: [`SEARCHES`] searches.
    pub(super) fn conclusive<T>(&self, mut search: impl FnMut() -> Option<T>) -> Result<T, Miss> {
        for _ in 0..SEARCHES {
            let before = self.hot.transits.load();
            if let Some(found) = search() {
                return Ok(found);
            }
            // Acquires what the search saw, with whatever ordering: had it seen a claimed word, it
            // sees the claimer's count.
            fence(Ordering::SeqCst);
            if !before.under_way() && self.hot.transits.load() == before {
                return Err(Miss::Nothing);
            }
            topomem_percpu::sync::hint::spin_loop();
        }
        Err(Miss::InTransit)
    }

    pub(crate) fn contains(&self, frame: u64) -> bool {
        self.span.start <= frame && frame < self.span.end
    }

    pub(crate) fn blocks(&self) -> usize {
        self.entries.len()
    }

    /// The block of a frame of this region.
    pub(crate) fn block_of(&self, frame: u64) -> BlockIndex {
        BlockIndex((frame / BLOCK - self.first_block) as usize)
    }

    /// The number of a block's first frame.
    pub(crate) fn first_frame(&self, block: BlockIndex) -> u64 {
        (self.first_block + block.0 as u64) * BLOCK
    }

    pub(crate) fn line(&self, block: BlockIndex) -> &'static Line512 {
        &self.lines[block.0]
    }

    /// Where the frames of a word are otherwise known. The block is no edge block.
    pub(super) fn home_of(&self, block: BlockIndex, word: usize) -> Home {
        let offset = self.first_frame(block) + word as u64 * 64 - self.span.start;
        Home {
            word: self.line(block).word(word),
            state: self.entry(block),
            marks: self.marks.of_word(offset),
        }
    }

    pub(crate) fn entry(&self, block: BlockIndex) -> &'static BlockEntry {
        &self.entries[block.0]
    }

    /// A block's chunk, and its bit there.
    pub(crate) fn chunk_of(&self, block: BlockIndex) -> (&'static Chunk, usize) {
        let absolute = self.first_block as usize + block.0;
        (&self.chunks[absolute / CHUNK - self.first_chunk()], absolute % CHUNK)
    }

    pub(super) fn first_chunk(&self) -> usize {
        self.first_block as usize / CHUNK
    }

    /// The block with bit `bit` in chunk `chunk`; only bits of existing blocks are ever set.
    pub(super) fn block_at(&self, chunk: usize, bit: usize) -> BlockIndex {
        BlockIndex((self.first_chunk() + chunk) * CHUNK + bit - self.first_block as usize)
    }

    /// Are all `count` frames from `first` on managed?
    pub(crate) fn manages(&self, first: u64, count: u64) -> bool {
        let after = self.managed.partition_point(|span| span.start <= first);
        match after.checked_sub(1).and_then(|index| self.managed.get(index)) {
            Some(span) => first + count <= span.end,
            None => false,
        }
    }

    /// How many of its frames are managed.
    pub(crate) fn managed_frames(&self) -> u64 {
        self.managed.iter().map(|span| span.frames()).sum()
    }

    /// Do single frames of the frame's block come from and go to its bitmap?
    pub(super) fn has_bitmap(&self, frame: u64) -> bool {
        self.entry(self.block_of(frame)).load().has_bitmap()
    }

    /// Is a bit set for the frame, in its line or its chunk's?
    pub(crate) fn is_free(&self, frame: u64, block: Block) -> bool {
        let index = self.block_of(frame);
        match block.state() {
            BlockState::Whole => true,
            BlockState::Bitmap | BlockState::Promoting => self.line(index).test((frame % BLOCK) as usize),
            _ => false,
        }
    }

    /// Brings hint and buddy up to date after bits of `block` were set.
    ///
    /// Bound: it repeats only when an attempt to promote was foiled by another CPU's claim.
    #[inline(never)]
    pub(super) fn settle(&self, block: BlockIndex) {
        let line = self.line(block);
        loop {
            // Pairs with the fence in `forget_empty`, `promote` and between those who set the
            // last bits of different words: the last one to write sees all others' writes.
            fence(Ordering::SeqCst);
            if line.is_empty() {
                return;
            }
            let (chunk, bit) = self.chunk_of(block);
            if !chunk.partial.test(bit) {
                chunk.partial.set(bit);
            }
            if !line.is_full() || self.promote(block) {
                return;
            }
        }
    }

    /// Brings hint and buddy up to date after a word of `block` went from `old` to `new`.
    #[inline]
    pub(super) fn settle_change(&self, block: BlockIndex, change: Change) {
        if change.old == 0 || change.new == u64::MAX {
            self.settle(block);
        }
    }

    /// Clears the hint of a block whose line was found empty.
    pub(super) fn forget_empty(&self, block: BlockIndex) {
        let (chunk, bit) = self.chunk_of(block);
        if !chunk.partial.test(bit) {
            return;
        }
        // The line may have bits again, which nobody finds until the hint is back.
        let _transit = self.transit();
        chunk.partial.clear(bit);
        // Pairs with the fence in `settle`.
        fence(Ordering::SeqCst);
        if !self.line(block).is_empty() {
            chunk.partial.set(bit);
        }
    }

    /// After bits of `block` were away for a moment: somebody may have found the line empty
    /// meanwhile, and cleared the hint. The caller is in transit.
    pub(super) fn hint_again(&self, block: BlockIndex) {
        // Pairs with the fence in `forget_empty`.
        fence(Ordering::SeqCst);
        let (chunk, bit) = self.chunk_of(block);
        if !chunk.partial.test(bit) && !self.line(block).is_empty() {
            chunk.partial.set(bit);
        }
    }

    /// Moves a block whose line is full to the buddy. False where a claim came between and was
    /// respected: the caller looks again.
    fn promote(&self, block: BlockIndex) -> bool {
        let (line, entry) = (self.line(block), self.entry(block));
        // Owned: the owner settles when it gives the block up. Promoting: the other promoter
        // either succeeds or settles again.
        if !entry.begin_promotion() {
            return true;
        }
        let transit = self.transit();
        let (chunk, bit) = self.chunk_of(block);
        if line.claim_run(0, BITS).is_err() {
            entry.set(BlockState::Bitmap, Ownership::Shared);
            self.hint_again(block);
            drop(transit);
            return false;
        }
        // Before the block can be claimed from the chunk, and become partial again.
        chunk.partial.clear(bit);
        entry.set(BlockState::Whole, Ownership::Shared);
        chunk.whole.set(bit);
        drop(transit);
        true
    }

    /// Stores the states of an allocated run of whole blocks.
    pub(super) fn mark_run(&self, first: BlockIndex, order: Order) {
        for offset in 1..1 << (order.get() - 9) {
            self.entry(BlockIndex(first.0 + offset)).set(BlockState::Tail, Ownership::Shared);
        }
        self.entry(first).set(BlockState::Head(order), Ownership::Shared);
    }
}
