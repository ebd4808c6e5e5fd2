//! Frames: allocate by random orders and policies, stamp, check, free here or elsewhere.

pub(super) mod bad_frames;
#[cfg(feature = "fault-injection")]
pub(super) mod leaks;
pub(super) mod objects;
pub(super) mod placement;
pub(super) mod policies;
pub(super) mod reserve;
pub(super) mod waits;

use core::sync::atomic::{AtomicU64, Ordering};

use topomem::frames::{AllocError, FrameRequest, FreeError, NodeSet, Policy, Zone};
use topomem::{NodeId, Order, PhysFrame, Platform as _};

use super::{HELD, Worker};
use crate::Text;
use crate::oracle::{Conflict, Holder, stamp};
use crate::shared::transfer::{HeldFrames, Transfer};
use crate::{Failure, Rig, Share};

/// What the oracle expects of where a run comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expectation {
    /// Near the CPU.
    Local,
    /// On this node and no other.
    Bound(NodeId),
    /// Anywhere.
    Anywhere,
}

/// Words that a holder stamps in each page: the first and last, and where slots' scratch is.
const STAMPED: [u16; 6] = [0, 8, 2048, 2056, 2112, 4088];
/// Of longer runs only the first and last pages are stamped.
const STAMPED_PAGES: u64 = 8;

impl<R: Rig> Worker<'_, R> {
    pub(super) fn frames_step(&mut self) {
        let full = self.frames.len() == HELD || self.holding >= self.budget;
        let frees_one_in = match self.run.options.scenario.share {
            Share::Half => 2,
            Share::Excess => 5,
        };
        if full || (!self.frames.is_empty() && self.random.one_in(frees_one_in)) {
            let index = self.random.index(self.frames.len());
            let held = self.frames.swap_remove(index);
            self.holding -= held.order.frames();
            self.part_with(held);
        } else if self.random.one_in(12) {
            self.allocate_bulk();
        } else {
            self.allocate_one();
        }
    }

    /// Takes more single frames than a magazine holds, all at once, and gives them back: frames
    /// that are handed out twice show here, before page tables are among them.
    pub(crate) fn prelude(&mut self) {
        const MANY: usize = 160;
        while self.frames.len() < MANY && self.holding < self.budget {
            let request = FrameRequest::frame();
            let Ok(frame) = self.run.rig.service().frames().alloc(&self.pin, &request) else { break };
            match self.take_in(frame, Order::FRAME) {
                Some(held) => self.keep(held),
                None => return,
            }
        }
        self.give_up_frames();
        self.zeroed_prelude();
        self.check_policies();
    }

    /// Has stamped frames zeroed ahead and looks at them, before page tables are among them.
    fn zeroed_prelude(&mut self) {
        const SOME: usize = 32;
        let frames = self.run.rig.service().frames();
        // Of this CPU's stamped frames, not those that were zeroed before the operations began.
        frames.drain(&self.pin);
        frames.drain_zeroed(self.run.truth.node_of_cpu(self.cpu));
        frames.refill_zeroed(&self.pin, SOME);
        while self.frames.len() < SOME && self.holding < self.budget {
            let Ok(frame) = frames.alloc(&self.pin, &FrameRequest::frame().zeroed()) else { break };
            let Some(held) = self.take_in(frame, Order::FRAME) else { return };
            self.check_zeroed(held);
            self.keep(held);
        }
        self.give_up_frames();
    }

    pub(super) fn give_up_frames(&mut self) {
        while let Some(held) = self.frames.pop() {
            self.holding -= held.order.frames();
            self.free_frames(held);
        }
    }

    fn allocate_one(&mut self) {
        let order = self.random_order();
        let zeroed = order <= ZEROED_UP_TO && self.random.one_in(8);
        let (mut request, expectation) = self.random_placement(order);
        if zeroed {
            request = request.zeroed();
        }
        let pin = &self.pin;
        match self.run.rig.service().frames().alloc(pin, &request) {
            Ok(frame) => {
                let Some(held) = self.take_in(frame, order) else { return };
                if zeroed {
                    self.check_zeroed(held);
                }
                self.check_expectation(held, expectation);
                self.keep(held);
            }
            Err(error) => self.frames_exhausted(error, expectation, order),
        }
    }

    fn allocate_bulk(&mut self) {
        const BULK: usize = 16;
        if self.frames.len() + BULK > HELD || self.holding + BULK as u64 > self.budget {
            return;
        }
        let mut frames = [PhysFrame::containing_address(topomem::PhysAddr::ZERO); BULK];
        let service = self.run.rig.service();
        match service.frames().alloc_bulk(&self.pin, &FrameRequest::frame(), &mut frames) {
            Ok(()) => {
                for frame in frames {
                    if let Some(held) = self.take_in(frame, Order::FRAME) {
                        self.keep(held);
                    }
                }
            }
            Err(error) => self.frames_exhausted(error, Expectation::Anywhere, Order::HUGE),
        }
    }

    /// Mostly single frames, some runs, few huge ones; under pressure, often the largest that
    /// there still is.
    fn random_order(&mut self) -> Order {
        if self.run.options.scenario.share == Share::Excess && self.random.one_in(2) {
            return self.filling;
        }
        let largest = match self.random.below(100) {
            0..70 => 0,
            70..90 => 4,
            90..98 => 8,
            _ => 10,
        };
        let room = self.budget.saturating_sub(self.holding).max(1);
        let order = Order::new(self.random.below(largest + 1) as u8).unwrap_or(Order::FRAME);
        if order.frames() <= room { order } else { Order::FRAME }
    }

    fn random_placement(&mut self, order: Order) -> (FrameRequest, Expectation) {
        let request = FrameRequest::order(order);
        let nodes = self.run.truth.nodes().count();
        let node = NodeId::new(self.random.index(nodes)).unwrap_or(NodeId::ZERO);
        let all: NodeSet = self.run.truth.nodes().collect();
        match self.random.below(20) {
            0..12 => (request, Expectation::Local),
            12..14 => (request.policy(Policy::Bind(NodeSet::of(node))), Expectation::Bound(node)),
            14..16 => (request.policy(Policy::Preferred(node)), Expectation::Anywhere),
            16..18 => (request.policy(Policy::Interleave(all)), Expectation::Anywhere),
            18 => (request.policy(Policy::WeightedInterleave(all)), Expectation::Anywhere),
            _ => (request.zone(Zone::Dma32), Expectation::Anywhere),
        }
    }

    /// Claims and stamps a run that the allocator has just handed out.
    pub(super) fn take_in(&mut self, frame: PhysFrame, order: Order) -> Option<HeldFrames> {
        let holder = self.next_holder(order);
        match self.run.ownership.claim(frame, order, holder) {
            Ok(()) => {}
            Err(Conflict::Held { frame, by }) => {
                self.run.fail(Failure::FrameTwice { frame, first: by, second: holder });
                return None;
            }
            Err(Conflict::NoSuchFrame(frame) | Conflict::NotHeld { frame, .. }) => {
                self.run.fail(Failure::NoSuchFrame { frame, holder });
                return None;
            }
        }
        self.run.counters(self.cpu).allocations.fetch_add(1, Ordering::Relaxed);
        Some(HeldFrames { frame, order, holder })
    }

    pub(super) fn keep(&mut self, held: HeldFrames) {
        self.stamp_all(held);
        self.holding += held.order.frames();
        self.frames.push(held);
    }

    fn part_with(&mut self, held: HeldFrames) {
        let rest = if self.random.one_in(3) {
            self.send(Transfer::Frames(held))
        } else {
            Err(Transfer::Frames(held))
        };
        if let Err(Transfer::Frames(held)) = rest {
            self.free_frames(held);
        }
    }

    /// Checks the stamps of a run and gives it back to the allocator.
    pub(super) fn free_frames(&mut self, held: HeldFrames) {
        self.check_stamps(held);
        self.free_unchecked(held);
    }

    /// Gives a run back to the allocator.
    pub(super) fn free_unchecked(&mut self, held: HeldFrames) {
        let bad = self.retire_one_of(held);
        if !self.release(held.frame, held.order, held.holder) {
            return;
        }
        // SAFETY: the run was handed to the scenario, whose account says that `held` is its only
        // holder, and nothing maps it.
        let freed = unsafe { self.run.rig.service().frames().free(&self.pin, held.frame, held.order) };
        match freed {
            Ok(()) => bad.into_iter().for_each(|bad| self.keep_retired(bad)),
            Err(FreeError::DoubleFree(frame)) => {
                self.run.fail(Failure::FreeWhileHeld { frame, holder: held.holder });
            }
            Err(error) => self.refused("freeing a run of frames", Text::display(&error)),
        }
    }

    /// Takes a run off the account; false where somebody else is on it.
    pub(super) fn release(&self, frame: PhysFrame, order: Order, holder: Holder) -> bool {
        match self.run.ownership.release(frame, order, holder) {
            Ok(()) => true,
            Err(Conflict::NotHeld { frame, by: Some(second) } | Conflict::Held { frame, by: second }) => {
                self.run.fail(Failure::FrameTwice { frame, first: holder, second });
                false
            }
            Err(Conflict::NotHeld { frame, by: None } | Conflict::NoSuchFrame(frame)) => {
                self.run.fail(Failure::NoSuchFrame { frame, holder });
                false
            }
        }
    }

    fn stamp_all(&self, held: HeldFrames) {
        for frame in stamped_pages(held) {
            for offset in STAMPED {
                // Relaxed: handing the run over orders the words (mailboxes, the allocator).
                self.word(frame, offset).store(stamp(frame, held.holder, offset), Ordering::Relaxed);
            }
        }
    }

    fn check_stamps(&self, held: HeldFrames) {
        for frame in stamped_pages(held) {
            for offset in STAMPED {
                let expected = stamp(frame, held.holder, offset);
                let found = self.word(frame, offset).load(Ordering::Relaxed);
                if found != expected {
                    let holder = held.holder;
                    self.run.fail(Failure::FrameChanged { frame, holder, offset, expected, found });
                    return;
                }
            }
        }
    }

    fn check_zeroed(&self, held: HeldFrames) {
        for page in 0..held.order.frames() {
            let frame = held.frame + page;
            for offset in (0..4096).step_by(8) {
                let found = self.word(frame, offset).load(Ordering::Relaxed);
                if found != 0 {
                    self.run.fail(Failure::NotZeroed { frame, holder: held.holder, offset, found });
                    return;
                }
            }
        }
    }

    /// The word at `offset` of a frame that the scenario holds, through the direct map.
    pub(super) fn word(&self, frame: PhysFrame, offset: u16) -> &AtomicU64 {
        let platform = self.run.rig.service().platform();
        let address = frame.start_address() + u64::from(offset & !7);
        // SAFETY: the frame was handed to the scenario, so its direct map is valid RAM, aligned
        // since the offset is a multiple of 8, and the scenario accesses it as atomics only.
        unsafe { platform.phys_to_virt(address).cast::<AtomicU64>().as_ref() }
    }

    fn check_expectation(&mut self, held: HeldFrames, expectation: Expectation) {
        match expectation {
            Expectation::Local if held.order == Order::FRAME => self.check_local(held),
            Expectation::Bound(node) => self.check_bound(held, node),
            Expectation::Local | Expectation::Anywhere => {}
        }
    }

    /// Frees half of what this CPU holds, so that the run goes on.
    pub(super) fn make_room(&mut self) {
        self.filling = Order::HUGE;
        for _ in 0..self.frames.len() / 2 {
            if let Some(held) = self.frames.pop() {
                self.holding -= held.order.frames();
                self.free_frames(held);
            }
        }
    }

    fn frames_exhausted(&mut self, error: AllocError, expectation: Expectation, order: Order) {
        match error {
            AllocError::Exhausted { .. } | AllocError::WouldBlock { .. } => {
                if expectation == Expectation::Local && order == Order::FRAME {
                    self.check_exhausted();
                }
                match self.run.options.scenario.share {
                    Share::Half => self.make_room(),
                    // Smaller runs still fill what has no room for this one.
                    Share::Excess => {
                        let smaller = order.min(self.filling).get().saturating_sub(1);
                        self.filling = Order::new(smaller).unwrap_or(Order::FRAME);
                    }
                }
            }
            AllocError::NotReady | AllocError::InvalidRequest(_) => {
                self.refused("allocating a run of frames", Text::display(&error));
            }
        }
    }
}

/// Zeroing is checked word by word: up to 16 KiB.
const ZEROED_UP_TO: Order = match Order::new(2) {
    Some(order) => order,
    None => Order::FRAME,
};

fn stamped_pages(held: HeldFrames) -> impl Iterator<Item = PhysFrame> {
    let pages = held.order.frames();
    let tail = pages.saturating_sub(1).max(STAMPED_PAGES);
    (0..pages.min(STAMPED_PAGES)).chain(tail..pages).map(move |page| held.frame + page)
}
