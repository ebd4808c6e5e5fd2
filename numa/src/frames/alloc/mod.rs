//! Allocation, from rung to rung.
//!
//! 1. A frame or run of the CPU's magazine: the hit, in [`Frames::alloc`] and `per_cpu::runs`.
//! 2. A word of the CPU's own block: `Ready::alloc_from_magazine`, in `per_cpu::refill`.
//! 3. The nodes in the policy's order: `Ready::alloc_from_nodes`, in [`search`].
//! 4. The zones and regions of a node: `Ready::alloc_from_node`, `Ready::alloc_from_region`.
//! 5. The words and blocks of a region: `region::alloc`.

mod bulk;
mod interleave;
pub(super) mod owned;
pub(super) mod placed;
pub(super) mod resize;
mod search;
mod split;
pub(super) mod wait;
mod zeroed;

use topomem_percpu::{CpuPin, Order, PhysFrame, Platform};

use crate::frames::Frames;
use crate::frames::magazine::Magazine;
use crate::frames::magazine::entry::Entry;
use crate::frames::magazine::held_words::is_of_words;
use crate::frames::region::marks::AllocKind;
use crate::frames::region::shape::Shape;
use crate::frames::types::{AllocError, Caller, FrameRequest};

impl<P: Platform> Frames<P> {
    /// Allocates one naturally aligned run of frames. Returns its first frame.
    ///
    /// A plain request below order 9 is mostly a magazine hit: no lock, no atomic
    /// read-modify-write, no line written by other CPUs. Otherwise nodes are searched in the
    /// policy's order, each in its zones from the highest allowed down. Before a node is passed
    /// over, this CPU's magazine is flushed.
    ///
    /// Bound: a hit is constant. A miss is a search linear in the GiBs and partly free blocks of
    /// the allowed nodes, repeated at most 64 times while other CPUs move blocks, and 8 times if
    /// nothing was found. Lock-free, and safe in interrupt and NMI handlers: a nested use takes the
    /// shared path, and never waits for the context that it interrupted
    /// ([`Obstacle::Interrupted`](crate::frames::Obstacle::Interrupted)). Calls no wakers.
    ///
    /// # Errors
    ///
    /// After an error nothing has changed.
    ///
    /// - [`AllocError::NotReady`] if [`Frames::init`] has not run.
    /// - [`AllocError::InvalidRequest`] if the request names no node of this machine.
    /// - [`AllocError::Exhausted`] if at some instant of the call no allowed frames were free,
    ///   wherever free frames are kept.
    /// - [`AllocError::WouldBlock`] if allowed frames may be free, but cannot be taken now.
    ///
    /// ```
    /// # mod machine { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/machine.rs")); }
    /// # machine::run(|frames, pin| {
    /// use topomem_numa::Order;
    /// use topomem_numa::frames::FrameRequest;
    ///
    /// let run = frames.alloc(pin, &FrameRequest::order(Order::new(3).unwrap()))?;
    /// assert_eq!(run.start_address().as_u64() % (8 * 4096), 0);
    /// // SAFETY: the run was just allocated, and is not used.
    /// unsafe { frames.free(pin, run, Order::new(3).unwrap())? };
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    #[inline]
    pub fn alloc(&self, pin: &CpuPin, request: &FrameRequest) -> Result<PhysFrame, AllocError> {
        let hit = |entry: &Entry, magazine: &Magazine| magazine.take_from(entry);
        if request.order == Order::FRAME
            && request.plain
            && !request.zeroed
            && let Some(taken) = self.magazines.with_near(pin, hit).flatten()
        {
            return Ok(taken);
        }
        if request.order == Order::FRAME
            && request.plain
            && !request.zeroed
            && let Some(taken) = self.take_otherwise(pin)
        {
            return Ok(taken);
        }
        if request.order > Order::FRAME
            && request.order < Order::HUGE
            && request.plain
            && !request.zeroed
            && let Some(taken) = self.take_run(pin, request.order)
        {
            return Ok(taken);
        }
        if request.order == Order::HUGE
            && request.plain
            && !request.zeroed
            && let Some(held) = self.take_held_block(pin)
        {
            return Ok(held);
        }
        if request.order == Order::FRAME && request.plain && request.zeroed {
            return self.alloc_zeroed_frame(pin);
        }
        if request.plain && !request.zeroed && request.caller == Caller::Single {
            return self.alloc_plain(pin, request.order);
        }
        self.alloc_slow_path(pin, request)
    }

    /// Allocates a plain run of `order` after a magazine miss. Not inlined, so that hits are inlined; does not take the
    /// request, so that a hit need not store it in memory.
    #[inline(never)]
    fn alloc_plain(&self, pin: &CpuPin, order: Order) -> Result<PhysFrame, AllocError> {
        self.alloc_slow_path(pin, &FrameRequest::order(order))
    }

    /// Allocates after a magazine miss.
    #[inline(never)]
    fn alloc_slow_path(&self, pin: &CpuPin, request: &FrameRequest) -> Result<PhysFrame, AllocError> {
        if request.zeroed {
            self.alloc_zeroed(pin, request)
        } else if request.order == Order::HUGE && request.plain {
            let ready = self.ready().ok_or(AllocError::NotReady)?;
            let number = ready.alloc_from_nodes(pin, request, Shape::Block(pin.cpu()))?;
            ready.state.record_alloc(number, AllocKind::Aligned(Order::HUGE));
            Ok(number.frame())
        } else {
            self.alloc_after_miss(pin, request)
        }
    }

    #[inline(never)]
    pub(super) fn alloc_after_miss(
        &self,
        pin: &CpuPin,
        request: &FrameRequest,
    ) -> Result<PhysFrame, AllocError> {
        let ready = self.ready().ok_or(AllocError::NotReady)?;
        let number = match ready.alloc_from_magazine(pin, request) {
            Some(number) => number,
            None => {
                let number = ready.alloc_from_nodes(pin, request, Shape::Aligned(request.order))?;
                if request.plain && is_of_words(request.order) {
                    ready.keep_rest_of_block(pin, number, request.order);
                }
                number
            }
        };
        ready.state.record_alloc(number, AllocKind::Aligned(request.order));
        Ok(number.frame())
    }
}
