//! Allocation behind a magazine hit: refill, then node by node in the policy's order.

mod bulk;
mod interleave;
pub(super) mod owned;
pub(super) mod placed;
pub(super) mod resize;
mod search;
pub(super) mod wait;
pub(super) mod zeroed;

use topomem_percpu::{CpuId, CpuPin, Order, PhysAddr, PhysFrame, Platform};

use crate::frames::Frames;
use crate::frames::magazine::entry::{Entry, Word};
use crate::frames::magazine::guard::MagazineGuard;
use crate::frames::magazine::{Checked, Magazine};
use crate::frames::node::Node;
use crate::frames::per_cpu::runs::is_of_words;
use crate::frames::region::marks::Given;
use crate::frames::region::transit::Transit;
use crate::frames::region::{BLOCK, BlockIndex, Miss, Region};
use crate::frames::state::Machine;
use crate::frames::types::{AllocError, FrameRequest, Zone};

/// Returns the frame numbered `number`.
pub(super) fn frame(number: u64) -> PhysFrame {
    PhysFrame::containing_address(PhysAddr::new(number << 12))
}

/// Returns the number of a frame.
pub(super) fn number(frame: PhysFrame) -> u64 {
    frame.start_address().as_u64() >> 12
}

/// The shape of a request's memory in a region.
#[derive(Debug, Clone, Copy)]
pub(super) enum Shape {
    /// A naturally aligned run.
    Aligned(Order),
    /// A block, kept by this CPU for later requests.
    Block(CpuId),
    /// Contiguous frames of one block.
    Short { count: u64, align: u64 },
    /// Contiguous blocks; the unused frames of the last block are freed.
    Long { count: u64, align: u64 },
}

impl Shape {
    pub(super) fn frames(self) -> u64 {
        match self {
            Shape::Aligned(order) => order.frames(),
            Shape::Block(_) => BLOCK,
            Shape::Short { count, .. } | Shape::Long { count, .. } => count,
        }
    }

    /// Takes a run of `region` below the frame `limit`. Returns its first frame.
    pub(super) fn take(self, region: &Region, limit: u64) -> Result<u64, Miss> {
        if limit < region.span.end {
            let fits = region.span.start + self.frames() <= limit;
            return if fits { region.alloc_below(self, limit) } else { Err(Miss::Nothing) };
        }
        match self {
            Shape::Aligned(order) => region.alloc(order),
            Shape::Block(cpu) => region.alloc_block(cpu),
            Shape::Short { count, align } => region.alloc_short_run(count as usize, align as usize),
            Shape::Long { count, align } => region.alloc_long_run(count, align),
        }
    }
}

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
        let hit = |entry: &Entry, magazine: &Magazine| entry.take(&magazine.taken);
        if request.order == Order::FRAME
            && request.plain
            && !request.zeroed
            && let Some(taken) = self.rack.with_current(pin, hit)
        {
            return Ok(taken);
        }
        if request.order == Order::FRAME
            && request.plain
            && !request.zeroed
            && let Some(address) = self.take_checked(pin)
        {
            return Ok(frame(address >> 12));
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
        self.alloc_slowly(pin, *request)
    }

    /// Allocates after a magazine miss. Not inlined, so that hits are inlined; takes the request by
    /// value, so that a hit need not store it in memory.
    #[inline(never)]
    fn alloc_slowly(&self, pin: &CpuPin, request: FrameRequest) -> Result<PhysFrame, AllocError> {
        if request.zeroed {
            self.alloc_zeroed(pin, &request)
        } else if request.order == Order::HUGE && request.plain {
            let machine = self.machine().ok_or(AllocError::NotReady)?;
            let number = self.alloc_shared(machine, pin, &request, Shape::Block(pin.cpu()))?;
            machine.mark_given(number, Given::Aligned(Order::HUGE));
            Ok(frame(number))
        } else {
            self.alloc_missed(pin, &request)
        }
    }

    #[inline(never)]
    pub(super) fn alloc_missed(&self, pin: &CpuPin, request: &FrameRequest) -> Result<PhysFrame, AllocError> {
        let machine = self.machine().ok_or(AllocError::NotReady)?;
        let number = match self.alloc_cached(machine, pin, request) {
            Some(number) => number,
            None => {
                let number = self.alloc_shared(machine, pin, request, Shape::Aligned(request.order))?;
                if request.plain && is_of_words(request.order) {
                    self.hold_rest(machine, pin, number, request.order);
                }
                number
            }
        };
        machine.mark_given(number, Given::Aligned(request.order));
        Ok(frame(number))
    }

    /// Takes a run below order 9 from the CPU's magazine, refilling the magazine if it is empty.
    fn alloc_cached(&self, machine: &Machine, pin: &CpuPin, request: &FrameRequest) -> Option<u64> {
        let order = request.order;
        if !request.plain || order >= Order::HUGE {
            return None;
        }
        if is_of_words(order) && machine.checked == Checked::EveryUse {
            return None;
        }
        let magazine = self.rack.get(pin.cpu())?;
        let Some(entered) = magazine.enter() else {
            magazine.nested.add(1);
            return None;
        };
        if entered.wants_attention() {
            self.empty(machine, &entered);
        }
        let taken = match order {
            Order::FRAME => entered.take_any().map(number),
            _ if is_of_words(order) => entered.take_words(order).map(|address| address >> 12),
            _ => entered.take_run(order).map(|address| address >> 12),
        };
        if taken.is_some() {
            return taken;
        }
        // While a context waits for memory, magazines keep no free frames.
        if self.waiters.any() || is_of_words(order) { None } else { self.refill(machine, &entered, request) }
    }

    /// Fills the magazine with a word of the CPU's own block, and takes a run below order 6 from
    /// it.
    fn refill(&self, machine: &Machine, entered: &MagazineGuard, request: &FrameRequest) -> Option<u64> {
        let order = request.order;
        entered.misses.add(1);
        let node = machine.node(entered.node)?;
        loop {
            let Some((region, block)) = entered.block().and_then(|first| machine.block_at(first)) else {
                self.change_block(machine, entered, node, request)?;
                continue;
            };
            let mut refilled = false;
            if machine.may_refill(entered.node, region.zone) {
                let transit = entered.transit(region);
                let claimed = self.claim_word(region, block, order);
                if claimed.is_none() {
                    transit.cancel();
                } else if let Some((word, mask)) =
                    claimed.filter(|&(word, mask)| !self.leave_home(machine, region, block, word, mask))
                {
                    let key = region.first_frame(block) / 64 + word as u64;
                    let word_of_block = Word { key, mask };
                    let evict = |entry: &Entry| self.flush(machine, entered, entry);
                    entered.hold(word_of_block, region.home_of(block, word), evict);
                    self.account(machine, entered, region, -i64::from(mask.count_ones()));
                    entered.refilled(word_of_block);
                    drop(transit);
                    let taken = match order {
                        Order::FRAME => entered.take().map(number),
                        _ => entered.take_run(order).map(|address| address >> 12),
                    };
                    if taken.is_some() {
                        return taken;
                    }
                    // Another CPU has just taken a part of the run.
                    refilled = true;
                }
            }
            // There is no such run, or its zone is down to the reserve: another block, or another
            // zone.
            if !refilled {
                self.change_block(machine, entered, node, request)?;
            }
        }
    }

    /// Makes the magazine own another block, with a run of the request's order. Returns `None` if
    /// there is none. For a single frame the old block is given up first, as it is empty.
    fn change_block(
        &self,
        machine: &Machine,
        entered: &MagazineGuard,
        node: &Node,
        request: &FrameRequest,
    ) -> Option<()> {
        let old = || entered.block().and_then(|first| machine.block_at(first));
        let give_up = |(region, block)| self.give_block_up(machine, entered, region, block);
        if request.order == Order::FRAME {
            old().into_iter().for_each(give_up);
        }
        // Until the magazine records the block, a request for a whole block finds it nowhere.
        let (first, transit) = own_block(machine, entered, node, request)?;
        old().into_iter().for_each(give_up);
        entered.set_block(Some(first));
        drop(transit);
        Some(())
    }

    #[cfg(not(feature = "fault-injection"))]
    fn claim_word(&self, region: &Region, block: BlockIndex, order: Order) -> Option<(usize, u64)> {
        region.claim_word(block, order)
    }

    #[cfg(feature = "fault-injection")]
    fn claim_word(&self, region: &Region, block: BlockIndex, order: Order) -> Option<(usize, u64)> {
        if self.faults.duplicates() { region.copy_word(block) } else { region.claim_word(block, order) }
    }
}

/// Returns the first frame of a block of the magazine's node for the magazine to own, from the
/// highest zone with such a block. Also returns the transit of the block until the magazine records
/// it.
fn own_block<'e>(
    machine: &Machine,
    entered: &'e MagazineGuard,
    node: &Node,
    request: &FrameRequest,
) -> Option<(u64, Transit<'e>)> {
    for zone in Zone::ALL.into_iter().rev() {
        let state = &node.zones[zone.index()];
        if !state.cached || !machine.may_refill(entered.node, zone) {
            continue;
        }
        for region in state.regions.descending() {
            if let Some((block, transit)) = region.own_block(request.order, || entered.transit(region)) {
                return Some((region.first_frame(block), transit));
            }
        }
    }
    None
}
