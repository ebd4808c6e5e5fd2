//! Refills of the CPU's magazine from its own block.

use topomem_percpu::{CpuPin, Order, Platform};

use crate::frames::magazine::Checked;
use crate::frames::magazine::entry::Entry;
use crate::frames::magazine::guard::MagazineGuard;
use crate::frames::magazine::held_words::is_of_words;
use crate::frames::node::Node;
use crate::frames::ready::Ready;
use crate::frames::region::transit::Transit;
use crate::frames::region::word::Word;
use crate::frames::state::AllocatorState;
use crate::frames::types::{FrameNumber, FrameRequest, Zone};

impl<P: Platform> Ready<'_, P> {
    /// Takes a run below order 9 from the CPU's magazine, refilling the magazine if it is empty.
    pub(in crate::frames) fn alloc_from_magazine(
        self,
        pin: &CpuPin,
        request: &FrameRequest,
    ) -> Option<FrameNumber> {
        let order = request.order;
        if !request.plain || order >= Order::HUGE {
            return None;
        }
        if is_of_words(order) && self.state.checked == Checked::EveryUse {
            return None;
        }
        let magazine = self.frames.magazines.get(pin.cpu())?;
        let Some(guard) = magazine.enter() else {
            magazine.count_nested();
            return None;
        };
        if guard.wants_attention() {
            self.flush_all(&guard);
        }
        let taken = match order {
            Order::FRAME => guard.take_any(),
            _ if is_of_words(order) => guard.take_words(order),
            _ => guard.take_run(order),
        };
        if let Some(taken) = taken {
            return Some(FrameNumber::of(taken));
        }
        // While a context waits for memory, magazines keep no free frames.
        if self.frames.waiters.any() || is_of_words(order) {
            None
        } else {
            self.refill_from_own_block(&guard, request)
        }
    }

    /// Fills the magazine with a word of the CPU's own block, and takes a run below order 6 from
    /// it.
    fn refill_from_own_block(self, guard: &MagazineGuard, request: &FrameRequest) -> Option<FrameNumber> {
        let order = request.order;
        guard.count_miss();
        let node = self.state.node(guard.node)?;
        loop {
            let Some((region, block)) = guard.block().and_then(|first| self.state.block_at(first)) else {
                self.change_own_block(guard, node, request)?;
                continue;
            };
            let mut refilled = false;
            if self.state.may_refill(guard.node, region.zone) {
                let transit = guard.transit(region);
                let claimed = self.frames.faults.claim_word(region, block, order);
                if claimed.is_none() {
                    transit.cancel();
                } else if let Some((word, mask)) =
                    claimed.filter(|&(word, mask)| !self.withhold_retired_word(region, block, word, mask))
                {
                    let key = region.number_of(block).first_word() + word as u64;
                    let word_of_block = Word { key, mask };
                    let evict = |entry: &Entry| self.flush(guard, entry);
                    guard.hold(word_of_block, region.home_of(block, word), evict);
                    self.state.account(guard, region, -i64::from(mask.count_ones()));
                    guard.refilled(word_of_block);
                    drop(transit);
                    let taken = match order {
                        Order::FRAME => guard.take(),
                        _ => guard.take_run(order),
                    };
                    if let Some(taken) = taken {
                        return Some(FrameNumber::of(taken));
                    }
                    // Another CPU has just taken a part of the run.
                    refilled = true;
                }
            }
            // The block has no run of the order, or the block's zone is down to the reserve.
            if !refilled {
                self.change_own_block(guard, node, request)?;
            }
        }
    }

    /// Makes the magazine own another block, with a run of the request's order. Returns `None` if
    /// there is none. For a single frame the old block is given up first, as it is empty.
    fn change_own_block(self, guard: &MagazineGuard, node: &Node, request: &FrameRequest) -> Option<()> {
        let old = || guard.block().and_then(|first| self.state.block_at(first));
        let give_up = |(region, block)| self.disown_block(guard, region, block);
        if request.order == Order::FRAME {
            old().into_iter().for_each(give_up);
        }
        // Until the magazine records the block, a request for a whole block finds it nowhere.
        let (first, transit) = own_block(self.state, guard, node, request)?;
        old().into_iter().for_each(give_up);
        guard.set_block(Some(first));
        drop(transit);
        Some(())
    }
}

/// Returns the first frame of a block of the magazine's node for the magazine to own, from the
/// highest zone with such a block. Also returns the transit of the block until the magazine records
/// it.
fn own_block<'e>(
    state: &AllocatorState,
    guard: &'e MagazineGuard,
    node: &Node,
    request: &FrameRequest,
) -> Option<(FrameNumber, Transit<'e>)> {
    for zone in Zone::ALL.into_iter().rev() {
        let node_zone = &node.zones[zone.index()];
        if !node_zone.cached || !state.may_refill(guard.node, zone) {
            continue;
        }
        for region in node_zone.regions.descending() {
            if let Some((block, transit)) = region.own_block(request.order, || guard.transit(region)) {
                return Some((region.first_frame(block), transit));
            }
        }
    }
    None
}
