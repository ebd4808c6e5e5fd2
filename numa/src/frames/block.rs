//! The state of one 2 MiB block, in two bytes.

use topomem_percpu::Order;
use topomem_percpu::sync::atomic::{AtomicU16, Ordering};

/// What a block's 512 frames are part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BlockState {
    /// Served by the frames in its bitmap line.
    Bitmap,
    /// All free in the bitmap; somebody is moving it to the buddy.
    Promoting,
    /// Whole and free: a bit in the chunk's line stands for it; its own line is clear.
    Whole,
    /// The first block of an allocated run of this order, 9 to 18.
    Head(Order),
    /// A further block of an allocated run.
    Tail,
    /// The first block of a run that is being freed.
    Freeing,
    /// Whole and free, held back by a CPU for its next request of order 9.
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
/// A CPU refills its magazine from the block: others leave it alone while they can.
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

    /// Do single frames of it come from and go to its bitmap?
    pub(crate) fn has_bitmap(self) -> bool {
        matches!(self.0 & STATE, BITMAP | PROMOTING)
    }

    /// A bitmap block all of whose frames are managed?
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

/// Does a CPU own the block?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ownership {
    Shared,
    Owned,
}

/// The atomic state of a block. Whoever moves it out of a settled state does so by
/// compare-and-swap, and is alone until it stores the next one.
#[derive(Debug)]
pub(crate) struct BlockEntry(AtomicU16);

impl BlockEntry {
    /// A bitmap block whose frames are all taken; `edge` where some are not managed.
    pub(crate) fn new() -> BlockEntry {
        BlockEntry(AtomicU16::new(BITMAP | EDGE))
    }

    /// Acquire pairs with the Release of the stores and swaps below.
    pub(crate) fn load(&self) -> Block {
        Block(self.0.load(Ordering::Acquire))
    }

    /// Notes while building that every frame of the block is managed.
    pub(crate) fn clear_edge(&self) {
        self.0.store(BITMAP, Ordering::Release);
    }

    /// Shared bitmap -> owned bitmap. True for one caller only; never for an edge block.
    pub(crate) fn own(&self) -> bool {
        self.exchange(BITMAP, BITMAP | OWNED)
    }

    /// Owned bitmap -> shared bitmap, by the owner.
    pub(crate) fn disown(&self) {
        self.0.fetch_and(!OWNED, Ordering::AcqRel);
    }

    /// Shared bitmap -> promoting. True for one caller only; never for an edge block.
    pub(crate) fn begin_promotion(&self) -> bool {
        self.exchange(BITMAP, PROMOTING)
    }

    /// Head of `order` -> freeing. True for one caller only: the others free twice.
    pub(crate) fn begin_free(&self, order: Order) -> bool {
        self.exchange(HEAD | u16::from(order.get()) << ORDER_SHIFT, FREEING)
    }

    /// Head of order 9 -> cached. True for one caller only, whose block it then is.
    pub(crate) fn cache(&self) -> bool {
        self.exchange(HEAD | u16::from(Order::HUGE.get()) << ORDER_SHIFT, CACHED)
    }

    /// AcqRel: what the last one in charge stored is seen, and ours by the next.
    fn exchange(&self, from: u16, to: u16) -> bool {
        self.0.compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Whoever is alone in charge of a block that is no edge stores its next state.
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
