//! Zeroed frames: from the node's pool, filled in the background, or cleared on demand.

use core::ptr;

use topomem_percpu::{CpuPin, NodeId, Order, PhysFrame, Platform};

use super::{Shape, frame};
use crate::frames::Frames;
use crate::frames::magazine::entry::Word;
use crate::frames::node::Node;
use crate::frames::node::zeroed_pool::{Place, Pushed};
use crate::frames::region::bitmap::{WORDS, masks, ones};
use crate::frames::region::free::Refused;
use crate::frames::region::marks::Given;
use crate::frames::region::{BLOCK, Region};
use crate::frames::state::{Machine, Plan};
use crate::frames::types::{AllocError, FrameRequest, Policy, Zeroing, Zone};

impl<P: Platform> Frames<P> {
    /// Serves a plain request for one zeroed frame: from the pool of the CPU's node, or from the
    /// magazine.
    ///
    /// Bound: a compare-and-swap while the pool's last used slot has more frames. Counts in the
    /// CPU's own lines.
    #[inline(never)]
    pub(super) fn alloc_zeroed_frame(&self, pin: &CpuPin) -> Result<PhysFrame, AllocError> {
        let machine = self.machine().ok_or(AllocError::NotReady)?;
        let (cpu, pooled) = (pin.cpu(), machine.zeroing != Zeroing::OnFree);
        let request = FrameRequest::frame();
        // An interrupted use of the magazine may be moving the magazine's words.
        let magazine = self.rack.get(cpu).filter(|magazine| pooled && !magazine.is_busy());
        let own = magazine.filter(|magazine| magazine.node == machine.cpu_nodes.of(cpu).home);
        let Some((magazine, node)) = own.and_then(|own| Some((own, machine.node(own.node)?))) else {
            return self.alloc_zeroed(pin, &request);
        };
        let pool = &node.zeroed;
        if let Some((number, _)) = self.next_zeroed(
            machine,
            node,
            || pool.pop(&magazine.zeroed_place),
            |number| magazine.holds(number),
        ) {
            magazine.zeroed_hits.add(1);
            machine.mark_given(number, Given::Aligned(Order::FRAME));
            return Ok(frame(number));
        }
        magazine.zeroed_misses.add(1);
        let taken = self.alloc(pin, &request)?;
        self.zero(taken, Order::FRAME.bytes());
        Ok(taken)
    }

    /// Takes frames from the pool of `node` by `pop` until one is found that is neither pending
    /// retirement nor freed twice, as shown by the CPU's magazine.
    #[inline]
    fn next_zeroed(
        &self,
        machine: &Machine,
        node: &Node,
        pop: impl Fn() -> Option<u64>,
        is_cached: impl Fn(u64) -> bool,
    ) -> Option<(u64, &'static Region)> {
        loop {
            let number = pop()?;
            // Freed although already free: the magazine has the frame, and the pool does not hand the frame out.
            if is_cached(number) {
                node.zeroed.count_doubles(1);
                continue;
            }
            let region = machine.region_of(number)?;
            // No zone counts the pool's frames, and no zone loses the frame.
            let retires = region.retired.any_pending()
                && region.retired.complete_held(number / 64, 1 << (number % 64)) != 0;
            if !retires {
                return Some((number, region));
            }
        }
    }

    /// Serves a request for zeroed frames.
    ///
    /// A single frame comes from the pool of the serving node, if the pool has any and every frame of
    /// the node is in an allowed zone. All further frames are cleared here.
    pub(super) fn alloc_zeroed(&self, pin: &CpuPin, request: &FrameRequest) -> Result<PhysFrame, AllocError> {
        let machine = self.machine().ok_or(AllocError::NotReady)?;
        let mut request = FrameRequest { zeroed: false, ..*request };
        if machine.zeroing == Zeroing::OnFree {
            return self.alloc(pin, &request);
        }
        if request.order == Order::FRAME {
            let plan = machine.plan(pin.cpu(), &request, &self.rack).map_err(AllocError::InvalidRequest)?;
            if let Some(number) = self.pop_zeroed(machine, pin, plan, &request) {
                return Ok(frame(number));
            }
            // The node in turn stays the same.
            if let Policy::Interleave(_) | Policy::WeightedInterleave(_) = request.policy {
                request.policy = Policy::Preferred(plan.start);
            }
        }
        let taken = self.alloc(pin, &request)?;
        self.zero(taken, request.order.bytes());
        Ok(taken)
    }

    /// Takes a zeroed frame of the nearest allowed node with memory from its pool.
    fn pop_zeroed(&self, machine: &Machine, pin: &CpuPin, plan: Plan, request: &FrameRequest) -> Option<u64> {
        if request.limit != u64::MAX {
            return None;
        }
        let nearest = machine.node(plan.origin)?.nearest().iter();
        let mut allowed = nearest.filter(|&&id| plan.allowed.contains(id)).filter_map(|&id| machine.node(id));
        let has = |node: &Node, zone: Zone| node.zones[zone.index()].managed > 0;
        let node = allowed.find(|node| Zone::ALL.iter().any(|&zone| has(node, zone)))?;
        if Zone::ALL.iter().any(|&zone| zone > request.zone && has(node, zone)) {
            return None;
        }
        let place = Place::new(pin.cpu().index());
        let is_cached =
            |number| self.rack.get(pin.cpu()).is_some_and(|magazine| magazine.holds_of(number, 1).is_some());
        let Some((number, region)) = self.next_zeroed(machine, node, || node.zeroed.pop(&place), is_cached)
        else {
            node.zeroed.count_miss();
            return None;
        };
        self.count(machine, pin, plan, region);
        machine.mark_given(number, Given::Aligned(Order::FRAME));
        Some(number)
    }

    pub(in crate::frames) fn zero(&self, first: PhysFrame, bytes: u64) {
        let address = self.platform.phys_to_virt(first.start_address());
        // SAFETY: the run was just allocated: RAM in the direct map without users.
        unsafe { ptr::write_bytes(address.as_ptr(), 0, bytes as usize) };
    }

    /// Zeroes up to `budget` free frames of the pinned CPU's node ahead of need. Returns the number of
    /// frames. [`FrameRequest::zeroed`] takes zeroed frames first; the frames stay free for every use.
    ///
    /// For service tasks and idle loops. Stops if the pool is full
    /// ([`FramesConfig::zeroed`](crate::frames::FramesConfig::zeroed)), if the zones cached by magazines
    /// are down to their low watermark or to four pools' worth of free frames, and while a future
    /// waits for memory.
    ///
    /// Cost: for each frame the zeroing and three atomic read-modify-writes; a check of each slot
    /// of the pool (64 by default) if the pool is full. Lock-free. Calls on all CPUs at once are
    /// allowed, and may overfill the pool, at most fourfold.
    ///
    /// ```
    /// # mod machine { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/machine.rs")); }
    /// # machine::run(|frames, pin| {
    /// let added = frames.refill_zeroed(pin, 16); // from an idle loop
    /// assert!(added <= 16);
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub fn refill_zeroed(&self, pin: &CpuPin, budget: usize) -> usize {
        let Some(machine) = self.machine() else { return 0 };
        let Some(node) = machine.node(machine.node_of_cpu(pin.cpu())) else { return 0 };
        let room = node.zeroed.target.saturating_sub(node.zeroed.count());
        let wanted = room.min(budget as u64);
        (0..wanted).take_while(|_| self.add_zeroed(machine, node)).count()
    }

    /// Moves a frame into the pool. Returns false if the move is impossible or unwise.
    fn add_zeroed(&self, machine: &Machine, node: &Node) -> bool {
        if self.waiters.any() {
            return false;
        }
        let moving = node.zeroed.moving();
        let Some((number, region)) = self.spare_frame(machine, node) else { return false };
        self.account_shared(machine, region, -1);
        self.zero_for_pool(frame(number));
        let pushed = node.zeroed.push(number);
        match pushed {
            Pushed::Kept => {}
            // The frame was free twice, and is free once now.
            Pushed::Twice => node.zeroed.count_doubles(1),
            Pushed::Full => {
                // The frame cannot be free already: the context has just taken the frame.
                let freed = region.free(number, Order::FRAME);
                debug_assert!(freed.is_ok(), "{freed:?}");
                self.account_shared(machine, region, 1);
                self.sweep(machine, region);
            }
        }
        drop(moving);
        // A waiter since then has missed the frame in transit.
        self.waiters.note();
        pushed == Pushed::Kept
    }

    #[cfg(not(feature = "fault-injection"))]
    fn zero_for_pool(&self, first: PhysFrame) {
        self.zero(first, Order::FRAME.bytes());
    }

    #[cfg(feature = "fault-injection")]
    fn zero_for_pool(&self, first: PhysFrame) {
        if !self.faults.skips_zeroing() {
            self.zero(first, Order::FRAME.bytes());
        }
    }

    /// Returns the frames of a node's pool to the bitmaps, for every request. Returns the number of
    /// frames. Allocations short of memory drain the pool by themselves.
    ///
    /// Bound: a check of each slot of the pool, and a compare-and-swap for up to 16 frames.
    pub fn drain_zeroed(&self, node: NodeId) -> u64 {
        let Some(machine) = self.machine() else { return 0 };
        machine.node(node).map_or(0, |node| self.spill_zeroed(machine, node))
    }

    /// Returns the pool's frames to the bitmaps. Returns the number of frames.
    pub(in crate::frames) fn spill_zeroed(&self, machine: &Machine, node: &Node) -> u64 {
        if node.zeroed.words().next().is_none() {
            return 0;
        }
        let _moving = node.zeroed.moving();
        let mut spilled = 0;
        node.zeroed.empty(|word| {
            spilled += word.frames();
            self.send_home(machine, node, word);
        });
        self.waiters.note();
        spilled
    }

    /// Returns frames of a bitmap word. Zones and nodes may end inside a word, and the frames may be
    /// of several regions: each region gets the region's own frames.
    fn send_home(&self, machine: &Machine, node: &Node, word: Word) {
        let mut left = word;
        while left.mask != 0 {
            let Some(region) = machine.region_of(left.first()) else { return };
            let below_end = region.span.end.saturating_sub(left.key * 64).min(64);
            let part = Word { key: left.key, mask: left.mask & ones(below_end as u32) };
            left.mask &= !part.mask;
            self.send_part_home(machine, node, region, part);
        }
    }

    fn send_part_home(&self, machine: &Machine, node: &Node, region: &Region, word: Word) {
        let (block, at) = (region.block_of(word.first()), word.key as usize % WORDS);
        // Frames already free there, or retired, were freed while in the pool, and are free once now.
        let mut bits = word.mask & !region.retired.complete_in_word(word.key);
        while bits != 0 && region.free_word(block, at, bits).is_err() {
            bits &= !region.line(block).load(at);
        }
        self.account_shared(machine, region, bits.count_ones().into());
        node.zeroed.count_doubles((word.mask & !bits).count_ones());
        self.sweep(machine, region);
    }

    /// A frame of a zone cached by magazines, too, with plenty of frames.
    fn spare_frame(&self, machine: &Machine, node: &Node) -> Option<(u64, &'static Region)> {
        let mut spare = Zone::ALL.into_iter().rev().filter_map(|zone| {
            let state = &node.zones[zone.index()];
            let least = state.watermarks.low.max(4 * node.zeroed.target);
            (state.cached && machine.free_now(node, zone) > least as i64).then_some(state)
        });
        let (request, shape) = (FrameRequest::frame(), Shape::Aligned(Order::FRAME));
        spare.find_map(|zone| {
            let mut regions = zone.regions.descending();
            regions.find_map(|region| Some((self.take_from(machine, region, &request, shape).ok()?, region)))
        })
    }

    /// Refuses frames of a block in the node's pool: such frames are free already.
    ///
    /// Cost: [`ZeroedPool::held`](crate::frames::node::zeroed_pool::ZeroedPool::held) for each bitmap word.
    pub(in crate::frames) fn check_not_pooled(
        &self,
        machine: &Machine,
        region: &Region,
        first: u64,
        count: u64,
    ) -> Result<(), Refused> {
        let words = masks((first % BLOCK) as usize, count as usize);
        let base = first / BLOCK * WORDS as u64;
        let mut held = words.map(|(word, mask)| (base + word as u64, mask));
        held.try_for_each(|(key, mask)| match pooled(machine, region, key) & mask {
            0 => Ok(()),
            twice => Err(Refused::DoubleFree(key * 64 + u64::from(twice.trailing_zeros()))),
        })
    }
}

/// Returns the frames of a bitmap word held by the node's pool.
#[inline]
pub(in crate::frames) fn pooled(machine: &Machine, region: &Region, key: u64) -> u64 {
    match machine.node(region.node) {
        Some(node) if node.zeroed.is_used() => node.zeroed.held(key),
        _ => 0,
    }
}
