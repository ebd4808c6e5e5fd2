//! A region: the memory of one node and zone, as blocks of 2 MiB and chunks of 1 GiB.
//!
//! **Free frames.** Bits are the authority: a frame is free if the frame's bit in the block's line is set,
//! or if the block's bit in the chunk's line is set (then the block's own line is clear), or if the
//! frame's bit in a magazine's entry is set. Blocks have no count of frames.
//!
//! **Hints.** A block's bit in the chunk's `partial` line is set if the block's line has any bit
//! set, except while a context about to set the hint is between two instructions. A context making
//! a word non-zero then checks the hint; a context finding the line empty clears the hint,
//! then checks the line. Both sides fence (SeqCst) between write and read: at least one side sees the
//! write of the other side.
//!
//! **Transit.** A context is in transit ([`transit`]) while the context takes bits that the context may
//! release again, moves a block between line and chunk, or clears a hint. A search of the region
//! without a result is repeated unless no context was in transit from the search's start to the end.

mod across;
mod alloc;
mod below;
pub(super) mod bitmap;
pub(super) mod block;
pub(super) mod free;
pub(super) mod marks;
mod retire;
pub(super) mod retired;
pub(super) mod shape;
pub(super) mod transit;
pub(super) mod word;

use core::ops::Add;

use topomem_percpu::sync::atomic::{AtomicU32, Ordering, fence};
use topomem_percpu::{NodeId, Order};

use crate::frames::types::{BLOCK, BlockNumber, FrameNumber, Zone};
use crate::memory::MemoryRange;
use bitmap::{AtomicBitmap512, BITS, Change};
use block::{Block, BlockEntry, BlockState, Ownership};
use marks::Marks;
use retired::RetiredFrames;
use transit::{Transit, Transits, Watch};
use word::Home;

/// Blocks per chunk.
pub(crate) const CHUNK: usize = 512;

const _: () = assert!(BITS as u64 == BLOCK && BITS == CHUNK);

/// The blocks of one GiB, by absolute address.
#[derive(Debug)]
pub(crate) struct Chunk {
    /// Whole and free blocks.
    pub(crate) whole: AtomicBitmap512,
    /// Blocks with bits set in the line: a hint.
    pub(crate) partial: AtomicBitmap512,
}

impl Chunk {
    pub(crate) fn new() -> Chunk {
        Chunk { whole: AtomicBitmap512::new(), partial: AtomicBitmap512::new() }
    }
}

/// A stretch of managed frames, from `start` to `end`, exclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) start: FrameNumber,
    pub(crate) end: FrameNumber,
}

impl Span {
    /// The stretch of no frame.
    pub(super) const EMPTY: Span = Span { start: FrameNumber::ZERO, end: FrameNumber::ZERO };

    /// Returns the frames of a range on frame boundaries.
    pub(super) fn of(range: MemoryRange) -> Span {
        Span { start: FrameNumber::containing(range.start), end: FrameNumber::containing(range.end) }
    }

    pub(super) fn frames(self) -> u64 {
        self.end - self.start
    }

    /// Returns the number of aligned pieces of `frames` frames, a power of two, that have frames of the stretch.
    pub(super) fn pieces_of(self, frames: u64) -> usize {
        (self.end.get().div_ceil(frames) - self.start.get() / frames) as usize
    }

    /// Returns every frame of the stretch.
    pub(super) fn iter(self) -> impl Iterator<Item = FrameNumber> {
        (self.start.get()..self.end.get()).map(FrameNumber::new)
    }
}

/// A block of a region, counted from the region's first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BlockIndex(pub(crate) usize);

impl Add<usize> for BlockIndex {
    type Output = BlockIndex;

    #[inline(always)]
    fn add(self, blocks: usize) -> BlockIndex {
        BlockIndex(self.0 + blocks)
    }
}

/// The reason of a search without a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SearchError {
    /// The region has no such frames.
    Nothing,
    /// Frames were in transit during every search.
    InTransit,
}

/// The maximum number of searches repeated because frames were in transit.
const SEARCHES: u32 = 64;

/// The memory of one node and zone between two addresses.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Region {
    pub(crate) node: NodeId,
    pub(crate) zone: Zone,
    /// Whether magazines of the node's CPUs may hold frames of the region. False for the scarce lowest zone,
    /// unless the node has no further zone.
    pub(crate) cached: bool,
    /// The frames, gaps between managed spans included.
    pub(crate) span: Span,
    /// The number of the first block.
    pub(super) first_block: BlockNumber,
    pub(super) lines: &'static [AtomicBitmap512],
    pub(super) entries: &'static [BlockEntry],
    pub(super) chunks: &'static [Chunk],
    pub(super) marks: Marks,
    /// The managed spans, sorted.
    pub(super) managed: &'static [Span],
    pub(super) retired: RetiredFrames,
    pub(super) hot: Hot,
}

/// The mutable words of a region, on a separate line.
#[derive(Debug)]
#[repr(align(128))]
pub(super) struct Hot {
    /// Contexts moving frames within the region or freeing frames into the region, except the contexts counted in a
    /// magazine.
    transits: Transits,
    /// Requests that may release claims, because frames of the region are to be retired. Separate,
    /// since each request searches the region meanwhile.
    withholding: Transits,
    /// The chunk of the partial block found last.
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

    /// Counts a request in transit, until the request has released or kept the claim.
    pub(super) fn withholding(&self) -> Transit<'_> {
        self.hot.withholding.begin()
    }

    /// Adds the region's counts to a reading.
    pub(super) fn watch(&self, watch: &mut Watch) {
        watch.add(self.hot.transits.load());
        watch.add(self.hot.withholding.load());
    }

    /// Repeats `search` until `search` finds frames, or until no frames were in transit throughout.
    ///
    /// Bound: [`SEARCHES`] searches.
    pub(super) fn conclusive<T>(&self, mut search: impl FnMut() -> Option<T>) -> Result<T, SearchError> {
        for _ in 0..SEARCHES {
            let before = self.hot.transits.load();
            if let Some(found) = search() {
                return Ok(found);
            }
            // Acquires the values seen by the search, read with any ordering: if the search saw a
            // claimed word, the searcher sees the claimer's count.
            fence(Ordering::SeqCst);
            if !before.under_way() && self.hot.transits.load() == before {
                return Err(SearchError::Nothing);
            }
            topomem_percpu::sync::hint::spin_loop();
        }
        Err(SearchError::InTransit)
    }

    pub(crate) fn blocks(&self) -> usize {
        self.entries.len()
    }

    /// Returns the block of a frame of the region.
    pub(crate) fn block_of(&self, frame: FrameNumber) -> BlockIndex {
        BlockIndex((frame.block() - self.first_block) as usize)
    }

    /// Returns the number of a block's first frame.
    pub(crate) fn first_frame(&self, block: BlockIndex) -> FrameNumber {
        self.number_of(block).first_frame()
    }

    /// Returns a block's number.
    pub(crate) fn number_of(&self, block: BlockIndex) -> BlockNumber {
        self.first_block + block.0 as u64
    }

    pub(crate) fn line(&self, block: BlockIndex) -> &'static AtomicBitmap512 {
        &self.lines[block.0]
    }

    /// Returns the permanent places of a word's frames. The block is no edge block.
    pub(super) fn home_of(&self, block: BlockIndex, word: usize) -> Home {
        let first = (self.number_of(block).first_word() + word as u64).first_frame();
        Home {
            word: self.line(block).word(word),
            state: self.entry(block),
            marks: self.marks.of_word(first - self.span.start),
        }
    }

    pub(crate) fn entry(&self, block: BlockIndex) -> &'static BlockEntry {
        &self.entries[block.0]
    }

    /// Returns a block's chunk, and the block's bit in the chunk.
    pub(crate) fn chunk_of(&self, block: BlockIndex) -> (&'static Chunk, usize) {
        let absolute = self.number_of(block).get() as usize;
        (&self.chunks[absolute / CHUNK - self.first_chunk()], absolute % CHUNK)
    }

    pub(super) fn first_chunk(&self) -> usize {
        self.first_block.get() as usize / CHUNK
    }

    /// Returns the block with bit `bit` in chunk `chunk`; only bits of existing blocks are ever
    /// set.
    pub(super) fn block_at(&self, chunk: usize, bit: usize) -> BlockIndex {
        BlockIndex((self.first_chunk() + chunk) * CHUNK + bit - self.first_block.get() as usize)
    }

    /// Returns true if all `count` frames from `first` on are managed.
    pub(crate) fn manages(&self, first: FrameNumber, count: u64) -> bool {
        let after = self.managed.partition_point(|span| span.start <= first);
        match after.checked_sub(1).and_then(|index| self.managed.get(index)) {
            Some(span) => first + count <= span.end,
            None => false,
        }
    }

    /// Returns the number of managed frames.
    pub(crate) fn managed_frames(&self) -> u64 {
        self.managed.iter().map(|span| span.frames()).sum()
    }

    /// Returns true if single frames of the frame's block come from and go to the block's bitmap.
    pub(super) fn has_bitmap(&self, frame: FrameNumber) -> bool {
        self.entry(self.block_of(frame)).load().has_bitmap()
    }

    /// Returns true if a bit is set for the frame, in the block's line or in the chunk's line.
    pub(crate) fn is_free(&self, frame: FrameNumber, block: Block) -> bool {
        let index = self.block_of(frame);
        match block.state() {
            BlockState::Whole => true,
            BlockState::Bitmap | BlockState::Promoting => self.line(index).test(frame.bit_in_block()),
            _ => false,
        }
    }

    /// Updates hint and buddy after bits of `block` were set.
    ///
    /// Bound: repeated only if an attempt to promote failed because of another CPU's claim.
    #[inline(never)]
    pub(super) fn update_hints(&self, block: BlockIndex) {
        let line = self.line(block);
        loop {
            // Pairs with the fence in `clear_hint_if_empty`, in `promote` and between contexts that set
            // the last bits of different words: the last writer sees all earlier writes.
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

    /// Updates hint and buddy after a word of `block` went from `old` to `new`.
    #[inline]
    pub(super) fn update_hints_after(&self, block: BlockIndex, change: Change) {
        if change.changes_hints() {
            self.update_hints(block);
        }
    }

    /// Clears the hint of a block with an empty line.
    pub(super) fn clear_hint_if_empty(&self, block: BlockIndex) {
        let (chunk, bit) = self.chunk_of(block);
        if !chunk.partial.test(bit) {
            return;
        }
        // The line may have bits again, and no search finds the bits until the hint is back.
        let _transit = self.transit();
        chunk.partial.clear(bit);
        // Pairs with the fence in `update_hints`.
        fence(Ordering::SeqCst);
        if !self.line(block).is_empty() {
            chunk.partial.set(bit);
        }
    }

    /// Restores the hint after bits of `block` were away for a moment: a search may have found the
    /// line empty meanwhile, and cleared the hint. The caller is in transit.
    pub(super) fn hint_again(&self, block: BlockIndex) {
        // Pairs with the fence in `clear_hint_if_empty`.
        fence(Ordering::SeqCst);
        let (chunk, bit) = self.chunk_of(block);
        if !chunk.partial.test(bit) && !self.line(block).is_empty() {
            chunk.partial.set(bit);
        }
    }

    /// Moves a block with a full line to the buddy. Returns false if a concurrent claim prevented
    /// that: the caller checks again.
    fn promote(&self, block: BlockIndex) -> bool {
        let (line, entry) = (self.line(block), self.entry(block));
        // Owned: the owner settles when it disowns the block. Promoting: the other promoter either
        // succeeds or settles again.
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
            self.entry(first + offset).set(BlockState::Tail, Ownership::Shared);
        }
        self.entry(first).set(BlockState::Head(order), Ownership::Shared);
    }
}
