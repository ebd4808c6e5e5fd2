//! The pools of zeroed frames, filled in the background.

use topomem_percpu::{CpuPin, NodeId, Order, Platform};

use crate::frames::Frames;
use crate::frames::node::Node;
use crate::frames::node::zeroed_pool::Pushed;
use crate::frames::ready::Ready;
use crate::frames::region::Region;
use crate::frames::region::shape::Shape;
use crate::frames::types::{FrameNumber, FrameRequest, Zone};

impl<P: Platform> Frames<P> {
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
        let Some(ready) = self.ready() else { return 0 };
        let Some(node) = ready.state.node(ready.state.node_of_cpu(pin.cpu())) else { return 0 };
        let room = node.zeroed.target.saturating_sub(node.zeroed.count());
        let wanted = room.min(budget as u64);
        (0..wanted).take_while(|_| ready.add_zeroed(node)).count()
    }

    /// Returns the frames of a node's pool to the bitmaps, for every request. Returns the number of
    /// frames. Allocations short of memory drain the pool by themselves.
    ///
    /// Bound: a check of each slot of the pool, and a compare-and-swap for up to 16 frames.
    pub fn drain_zeroed(&self, node: NodeId) -> u64 {
        let Some(ready) = self.ready() else { return 0 };
        ready.state.node(node).map_or(0, |node| ready.spill_zeroed(node))
    }
}

impl<P: Platform> Ready<'_, P> {
    /// Moves a frame into the pool. Returns false if the move is impossible or unwise.
    fn add_zeroed(self, node: &Node) -> bool {
        if self.frames.waiters.any() {
            return false;
        }
        let moving = node.zeroed.moving();
        let Some((number, region)) = self.spare_frame(node) else { return false };
        self.state.account_shared(region, -1);
        self.frames.faults.zero_for_pool(|| self.frames.zero(number.frame(), Order::FRAME.bytes()));
        let pushed = node.zeroed.push(number);
        match pushed {
            Pushed::Kept => {}
            // The frame was free twice, and is free once now.
            Pushed::Twice => node.zeroed.count_doubles(1),
            Pushed::Full => {
                // The frame cannot be free already: the context has just taken the frame.
                let freed = region.free(number, Order::FRAME);
                debug_assert!(freed.is_ok(), "{freed:?}");
                self.state.account_shared(region, 1);
                self.state.sweep(region);
            }
        }
        drop(moving);
        // A waiter since then has missed the frame in transit.
        self.frames.waiters.note();
        pushed == Pushed::Kept
    }

    /// Allocates a frame for the pool, from a zone that magazines may hold and that has plenty of free frames. Returns
    /// the frame and its region.
    fn spare_frame(self, node: &Node) -> Option<(FrameNumber, &'static Region)> {
        let mut spare = Zone::ALL.into_iter().rev().filter_map(|zone| {
            let node_zone = &node.zones[zone.index()];
            let least = node_zone.watermarks.low.max(4 * node.zeroed.target);
            (node_zone.cached && self.state.free_now(node, zone) > least as i64).then_some(node_zone)
        });
        let (request, shape) = (FrameRequest::frame(), Shape::Aligned(Order::FRAME));
        spare.find_map(|zone| {
            let mut regions = zone.regions.descending();
            regions.find_map(|region| Some((self.alloc_from_region(region, &request, shape).ok()?, region)))
        })
    }
}
