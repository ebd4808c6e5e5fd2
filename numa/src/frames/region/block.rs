//! The state of one 2 MiB block, in two bytes.

use topomem_percpu::Order;
use topomem_percpu::sync::atomic::{AtomicU16, Ordering};

use crate::frames::types::FrameNumber;

/// The state of a block's 512 frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BlockState {
    /// The free frames are the set bits in the block's bitmap line.
    Bitmap,
    /// All free in the bitmap; a context is moving the block to the buddy.
    Promoting,
    /// Whole and free: a bit in the chunk's line represents the block, and the block's own line is clear.
    Whole,
    /// The first block of an allocated run of this order, 9 to 18.
    Head(Order),
    /// A further block of an allocated run.
    Tail,
    /// The first block of a run being freed.
    Freeing,
    /// Whole and free, kept by a CPU for the CPU's next request of order 9.
    Cached,
}

const STATE: u16 = 0b111;
const BITMAP: u16 = 0;
const PROMOTING: u16 = 1;
const WHOLE: u16 = 2;
const HEAD: u16 = 3;
const TAIL: u16 = 4;
const FREEING: u16 = 5;
const CACHED: u16 = 6;
const ORDER_SHIFT: u32 = 3;
const ORDER: u16 = 0b1_1111 << ORDER_SHIFT;
/// A CPU refills a magazine from the block: other CPUs avoid the block if possible.
const OWNED: u16 = 1 << 8;
/// Some of the block's frames are not managed. Never changes after building.
const EDGE: u16 = 1 << 9;

/// One loaded [`BlockEntry`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Block(u16);

impl Block {
    pub(crate) fn state(self) -> BlockState {
        match self.0 & STATE {
            BITMAP => BlockState::Bitmap,
            PROMOTING => BlockState::Promoting,
            WHOLE => BlockState::Whole,
            HEAD => {
                let order = Order::new(((self.0 & ORDER) >> ORDER_SHIFT) as u8);
                BlockState::Head(order.unwrap_or(Order::GIANT))
            }
            TAIL => BlockState::Tail,
            FREEING => BlockState::Freeing,
            _ => BlockState::Cached,
        }
    }

    /// Returns true if single frames come from and go to the block's bitmap.
    pub(crate) fn has_bitmap(self) -> bool {
        matches!(self.0 & STATE, BITMAP | PROMOTING)
    }

    /// Returns true for a bitmap block with all frames managed.
    #[inline]
    pub(crate) fn is_inner_bitmap(self) -> bool {
        self.0 & (STATE | EDGE) == BITMAP
    }

    pub(crate) fn is_owned(self) -> bool {
        self.0 & OWNED != 0
    }

    pub(crate) fn is_edge(self) -> bool {
        self.0 & EDGE != 0
    }
}

/// Whether a CPU owns the block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ownership {
    Shared,
    Owned,
}

/// The atomic state of a block. A context moves the block out of a settled state by compare-and-swap, and
/// has exclusive control until the context stores the next state.
#[derive(Debug)]
pub(crate) struct BlockEntry(AtomicU16);

impl BlockEntry {
    /// Creates a bitmap block with all frames taken and some frames not managed.
    pub(crate) fn new() -> BlockEntry {
        BlockEntry(AtomicU16::new(BITMAP | EDGE))
    }

    /// Loads the state. Acquire pairs with the Release of the stores and swaps below.
    pub(crate) fn load(&self) -> Block {
        Block(self.0.load(Ordering::Acquire))
    }

    /// Records while building: every frame of the block is managed.
    pub(crate) fn clear_edge(&self) {
        self.0.store(BITMAP, Ordering::Release);
    }

    /// Changes a shared bitmap to an owned bitmap. Returns true for one caller only, and never for
    /// an edge block.
    pub(crate) fn own(&self) -> bool {
        self.exchange(BITMAP, BITMAP | OWNED)
    }

    /// Changes an owned bitmap to a shared bitmap, by the owner.
    pub(crate) fn disown(&self) {
        self.0.fetch_and(!OWNED, Ordering::AcqRel);
    }

    /// Changes a shared bitmap to promoting. Returns true for one caller only, and never for an
    /// edge block.
    pub(crate) fn begin_promotion(&self) -> bool {
        self.exchange(BITMAP, PROMOTING)
    }

    /// Changes a head of `order` to freeing. Returns true for one caller only: all further callers
    /// free twice.
    pub(crate) fn begin_free(&self, order: Order) -> bool {
        self.exchange(HEAD | u16::from(order.get()) << ORDER_SHIFT, FREEING)
    }

    /// Changes a head of order 9 to cached. Returns true for one caller only: the caller then owns the
    /// block.
    pub(crate) fn cache(&self) -> bool {
        self.exchange(HEAD | u16::from(Order::HUGE.get()) << ORDER_SHIFT, CACHED)
    }

    /// Changes a head of order 9 to a shared bitmap. Returns true for one caller only.
    pub(crate) fn open_head(&self) -> bool {
        self.exchange(HEAD | u16::from(Order::HUGE.get()) << ORDER_SHIFT, BITMAP)
    }

    /// Exchanges the state. AcqRel pairs with the AcqRel of the other exchanges and the Release in
    /// `set`: the stores of the last context in control are seen here, and the stores of this context by
    /// the next.
    fn exchange(&self, from: u16, to: u16) -> bool {
        self.0.compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Stores the next state of an inner block. The caller has exclusive control of the
    /// block.
    pub(crate) fn set(&self, state: BlockState, ownership: Ownership) {
        let bits = match state {
            BlockState::Bitmap => BITMAP,
            BlockState::Promoting => PROMOTING,
            BlockState::Whole => WHOLE,
            BlockState::Head(order) => HEAD | u16::from(order.get()) << ORDER_SHIFT,
            BlockState::Tail => TAIL,
            BlockState::Freeing => FREEING,
            BlockState::Cached => CACHED,
        };
        let owned = if ownership == Ownership::Owned { OWNED } else { 0 };
        self.0.store(bits | owned, Ordering::Release);
    }
}

/// A block entering or leaving.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HugeBlock {
    /// The block's first frame.
    pub(crate) first: FrameNumber,
    pub(crate) entry: &'static BlockEntry,
}

impl HugeBlock {
    /// Makes the block an allocated run of order 9. Returns the block's first frame.
    pub(in crate::frames) fn allocate(self) -> FrameNumber {
        self.entry.set(BlockState::Head(Order::HUGE), Ownership::Shared);
        self.first
    }
}
