//! Allocation behind the magazine's hit: refill, then node by node in the policy's order.

use topomem_percpu::sync::atomic::{Ordering, fence};
use topomem_percpu::{CpuId, CpuPin, Order, Platform};
use x86_64::PhysAddr;
use x86_64::structures::paging::PhysFrame;

use super::entered::Entered;
use super::entry::{Entry, Word};
use super::machine::{Machine, Plan};
use super::magazine::Magazine;
use super::marks::Given;
use super::node::Node;
use super::region::{BLOCK, BlockIndex, Miss, Region};
use super::{AllocError, FrameRequest, Frames, Zone};

/// The frame numbered `number`.
pub(super) fn frame(number: u64) -> PhysFrame {
    PhysFrame::containing_address(PhysAddr::new_truncate(number << 12))
}

/// The number of a frame.
pub(super) fn number(frame: PhysFrame) -> u64 {
    frame.start_address().as_u64() >> 12
}

/// How often a search of all allowed nodes is made before nothing is said to be there: what went
/// home from a magazine behind the first one's back is seen by the second.
const PASSES: u32 = 2;

/// What a request takes from a region.
#[derive(Debug, Clone, Copy)]
pub(super) enum Shape {
    /// A naturally aligned run.
    Aligned(Order),
    /// A block, for this CPU to go on using.
    Block(CpuId),
    /// Contiguous frames of one block.
    Short { count: u64, align: u64 },
    /// Contiguous blocks, the last frames of the last one given back.
    Long { count: u64, align: u64 },
}

impl Shape {
    fn frames(self) -> u64 {
        match self {
            Shape::Aligned(order) => order.frames(),
            Shape::Block(_) => BLOCK,
            Shape::Short { count, .. } | Shape::Long { count, .. } => count,
        }
    }

    /// A run of `region` below the frame `limit`: its first frame.
    fn take(self, region: &Region, limit: u64) -> Result<u64, Miss> {
        if limit < region.span.end {
            let fits = region.span.start + self.frames() <= limit;
            return if fits { region.alloc_below(self, limit) } else { Err(Miss::Nothing) };
        }
        match self {
            Shape::Aligned(order) => region.alloc(order),
            Shape::Block(cpu) => region.alloc_block(cpu),
            Shape::Short { count, align } => region.alloc_short_run(count as usize, align as usize),
            Shape::Long { count, align } => {
                let blocks = count.div_ceil(BLOCK) as usize;
                let first = region.alloc_long_run(blocks, align.div_ceil(BLOCK) as usize)?;
                region.trim_long_run(first, count);
                Ok(region.first_frame(first))
            }
        }
    }
}

impl<P: Platform> Frames<P> {
    /// One naturally aligned run of frames: its first frame.
    ///
    /// A plain request for one frame is a magazine hit most of the time: no lock, no atomic
    /// read-modify-write. Otherwise nodes are searched in the policy's order, each in its zones
    /// from the highest allowed down; before a node is passed over, this CPU's magazine goes
    /// home, so on one CPU no free frame is ever missed.
    ///
    /// Bound: a hit is constant; a miss is a search linear in the GiBs and partly free blocks of
    /// the allowed nodes, repeated at most 64 times while other CPUs move blocks. Lock-free, and
    /// safe in interrupt and NMI handlers: a nested use takes the shared path.
    ///
    /// # Errors
    /// [`AllocError`]; nothing has changed.
    #[inline]
    pub fn alloc(&self, pin: &CpuPin, request: &FrameRequest) -> Result<PhysFrame, AllocError> {
        let hit = |entry: &Entry, magazine: &Magazine| {
            let taken = entry.take()?;
            magazine.taken.add(1);
            Some(taken)
        };
        if request.order == Order::FRAME
            && request.plain
            && !request.zeroed
            && let Some(taken) = self.rack.with_current(pin, hit)
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
        self.alloc_slowly(pin, *request)
    }

    /// What is no magazine hit. Not inlined, so that hits are; and with a request of its own, so
    /// that a hit need not have one in memory.
    #[inline(never)]
    fn alloc_slowly(&self, pin: &CpuPin, request: FrameRequest) -> Result<PhysFrame, AllocError> {
        if request.order == Order::FRAME
            && request.plain
            && !request.zeroed
            && let Some(taken) = self.take_checked(pin)
        {
            return Ok(taken);
        }
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
            None => self.alloc_shared(machine, pin, request, Shape::Aligned(request.order))?,
        };
        machine.mark_given(number, Given::Aligned(request.order));
        Ok(frame(number))
    }

    /// A frame from the CPU's magazine, refilled if need be.
    fn alloc_cached(&self, machine: &Machine, pin: &CpuPin, request: &FrameRequest) -> Option<u64> {
        if !request.plain || request.order != Order::FRAME {
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
        if let Some(taken) = entered.take_any() {
            return Some(number(taken));
        }
        // While somebody waits for memory, no magazine holds any back.
        if self.waiters.any() { None } else { self.refill(machine, &entered, request).map(number) }
    }

    /// Fills the magazine with a word of the CPU's own block, and takes a frame from it.
    fn refill(&self, machine: &Machine, entered: &Entered, request: &FrameRequest) -> Option<PhysFrame> {
        entered.misses.add(1);
        let node = machine.node(entered.node)?;
        loop {
            let (region, block) = match entered.block() {
                Some(first) => machine.block_at(first)?,
                None => {
                    let (region, block) = own_block(machine, entered, node, request)?;
                    entered.set_block(Some(region.first_frame(block)));
                    (region, block)
                }
            };
            if machine.may_take(entered.node, region.zone, request, 64) {
                entered.announce(64);
                let claimed = self
                    .claim_word(region, block)
                    .filter(|&(word, mask)| !self.leave_home(machine, region, block, word, mask));
                if let Some((word, mask)) = claimed {
                    let key = region.first_frame(block) / 64 + word as u64;
                    let word_of_block = Word { key, mask };
                    let evicted = entered.hold(word_of_block, region.home_of(block, word));
                    self.account(machine, entered, region, -i64::from(mask.count_ones()));
                    entered.refilled(word_of_block);
                    if let Some(evicted) = evicted {
                        self.flush(machine, entered, evicted);
                    }
                    entered.announce(0);
                    return entered.take();
                }
                entered.announce(0);
            }
            // Empty, or its zone is down to the reserve: another block, or another zone.
            entered.set_block(None);
            region.disown(block);
            self.sweep(machine, region);
        }
    }

    #[cfg(not(feature = "fault-injection"))]
    fn claim_word(&self, region: &Region, block: BlockIndex) -> Option<(usize, u64)> {
        region.claim_word(block)
    }

    #[cfg(feature = "fault-injection")]
    fn claim_word(&self, region: &Region, block: BlockIndex) -> Option<(usize, u64)> {
        if self.faults.duplicates() { region.copy_word(block) } else { region.claim_word(block) }
    }

    /// Searches the allowed nodes by distance, each conclusively.
    pub(super) fn alloc_shared(
        &self,
        machine: &Machine,
        pin: &CpuPin,
        request: &FrameRequest,
        shape: Shape,
    ) -> Result<u64, AllocError> {
        let plan = machine.plan(pin.cpu(), request).map_err(AllocError::InvalidRequest)?;
        let nearest = machine.node(plan.start).map_or(&[][..], Node::nearest);
        let allowed = || nearest.iter().filter(|&&id| plan.allowed.contains(id));
        let mut in_transit = false;
        for _ in 0..PASSES {
            for node in allowed().filter_map(|&id| machine.node(id)) {
                let mut moves = node.zeroed.moves();
                let mut taken = self.take_on(node, machine, request, shape);
                // What this CPU holds back itself must not send it to a farther node, or away.
                if taken.is_err() && self.give_up_cached(machine, pin) {
                    taken = self.take_on(node, machine, request, shape);
                }
                // Nor what the node's pool of zeroed frames does.
                if taken.is_err() && self.spill_zeroed(machine, node) > 0 {
                    moves = node.zeroed.moves();
                    taken = self.take_on(node, machine, request, shape);
                }
                match taken {
                    Ok((number, region)) => {
                        self.account_shared(machine, region, -(shape.frames() as i64));
                        self.count(machine, pin, plan, region);
                        return Ok(number);
                    }
                    Err(Miss::InTransit) => in_transit = true,
                    Err(Miss::Nothing) => in_transit |= !node.zeroed.has_nothing_since(moves),
                }
            }
            if self.ask_others(machine, pin, plan, request.limit) || in_transit {
                return Err(AllocError::WouldBlock { node: plan.start, order: request.order });
            }
        }
        Err(AllocError::Exhausted { node: plan.start, zone: request.zone, order: request.order })
    }

    /// Asks other CPUs for the frames of allowed nodes below the frame `limit` that they hold; true
    /// where some do.
    fn ask_others(&self, machine: &Machine, pin: &CpuPin, plan: Plan, limit: u64) -> bool {
        // The frames that a CPU took just now were announced before they left the bitmap.
        fence(Ordering::SeqCst);
        let allowed = |frame: u64| {
            frame < limit && machine.region_of(frame).is_some_and(|region| plan.allowed.contains(region.node))
        };
        let mut some = false;
        for other in self.rack.iter().filter(|other| other.cpu != pin.cpu()) {
            let holds = other.words().any(|word| allowed(word.first()))
                || other.blocks().any(allowed)
                || other.block().is_some_and(allowed)
                || (other.arriving.get() > 0 && plan.allowed.contains(other.node));
            if holds {
                other.request_drain();
                some = true;
            }
        }
        some
    }

    /// A run on one node, from the highest allowed zone that has one.
    fn take_on(
        &self,
        node: &Node,
        machine: &Machine,
        request: &FrameRequest,
        shape: Shape,
    ) -> Result<(u64, &'static Region), Miss> {
        let mut missed = Miss::Nothing;
        for zone in Zone::ALL.into_iter().rev().filter(|&zone| zone <= request.zone) {
            let state = &node.zones[zone.index()];
            if !machine.may_take(node.id, zone, request, shape.frames()) {
                continue;
            }
            for region in state.regions.descending().filter_map(|index| machine.directory.regions.get(index))
            {
                match self.take_from(machine, region, request, shape) {
                    Ok(number) => return Ok((number, region)),
                    Err(Miss::InTransit) => missed = Miss::InTransit,
                    Err(Miss::Nothing) => {}
                }
            }
        }
        Err(missed)
    }

    /// A run from a region, without frames that have retired.
    pub(super) fn take_from(
        &self,
        machine: &Machine,
        region: &Region,
        request: &FrameRequest,
        shape: Shape,
    ) -> Result<u64, Miss> {
        loop {
            let taken = shape.take(region, request.limit);
            // At least one frame less to retire each time.
            if !region.retired.any_pending() || self.stays_taken(machine, region, taken, shape.frames()) {
                return taken;
            }
        }
    }

    pub(super) fn count(&self, machine: &Machine, pin: &CpuPin, plan: Plan, region: &Region) {
        if region.node == plan.start {
            machine.node(region.node).into_iter().for_each(|node| node.counters.count_local());
        } else {
            machine.node(region.node).into_iter().for_each(|node| node.counters.count_remote());
            machine.node(plan.start).into_iter().for_each(|node| node.counters.count_foreign());
        }
        // A nested context's count may get lost; it is a statistic.
        if let Some(magazine) = self.rack.get(pin.cpu()) {
            if region.node == magazine.node { magazine.local.add(1) } else { magazine.remote.add(1) }
        }
    }
}

/// A block of the magazine's node for it to own, from the highest zone that has one.
fn own_block(
    machine: &Machine,
    entered: &Entered,
    node: &Node,
    request: &FrameRequest,
) -> Option<(&'static Region, BlockIndex)> {
    for zone in Zone::ALL.into_iter().rev() {
        let state = &node.zones[zone.index()];
        if !state.cached || !machine.may_take(entered.node, zone, request, 64) {
            continue;
        }
        for region in state.regions.descending().filter_map(|index| machine.directory.regions.get(index)) {
            if let Some(block) = region.own_block() {
                return Some((region, block));
            }
        }
    }
    None
}
