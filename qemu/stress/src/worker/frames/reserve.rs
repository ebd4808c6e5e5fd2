//! What is done before memory runs out: is a reserve left, and is the heap drained in the background?
//!
//! Judged by one CPU before the operations begin, so nobody else takes or frees frames meanwhile.

use core::alloc::Layout;
use core::sync::atomic::Ordering;

use topomem::frames::{AllocError, FrameRequest, NodeSet, Policy};
use topomem::percpu::SizeClass;
use topomem::{NodeId, Order, PhysAddr, PhysFrame};

use crate::worker::Worker;
use crate::{Failure, Rig};

/// Objects that are left with the heap's magazines and depots.
const OBJECTS: usize = 24;
/// How often the service tasks get time to reclaim them, a millisecond each.
const RESTS: u32 = 2000;
/// The reserve of a node has this many frames at least, and this part of the node at most.
const LEAST: u64 = 8;
const MOST: u64 = 4;

impl<R: Rig> Worker<'_, R> {
    /// Takes all frames that ordinary requests get of each node. Then others must still get some, and the service tasks
    /// must have reclaimed what the heap had cached.
    pub(crate) async fn check_reserve(&mut self) {
        let Some(layout) = self.cache_objects() else { return };
        let mut taken = None;
        let nodes: NodeSet =
            self.run.truth.nodes().filter(|&node| self.run.truth.frame_count(node) > 0).collect();
        for node in nodes.iter() {
            let ordinary = FrameRequest::frame().policy(Policy::Bind(NodeSet::of(node)));
            match self.take_all(&ordinary, &mut taken).1 {
                AllocError::Exhausted { .. } | AllocError::WouldBlock { .. } => {}
                error => self.refused("taking all frames of a node", crate::Text::display(&error)),
            }
        }
        self.await_reclaim(layout).await;
        for node in nodes.iter() {
            self.check_reserve_of(node);
        }
        while let Some(frame) = taken {
            taken = self.next(frame);
            self.give(frame);
        }
    }

    /// The reserve of a node, which an ordinary request has just not been given.
    fn check_reserve_of(&self, node: NodeId) {
        let mut reserve = None;
        let entitled = FrameRequest::frame().policy(Policy::Bind(NodeSet::of(node))).emergency();
        let (frames, _) = self.take_all(&entitled, &mut reserve);
        while let Some(frame) = reserve {
            reserve = self.next(frame);
            self.give(frame);
        }
        if frames < LEAST || frames > self.run.truth.frame_count(node) / MOST {
            self.run.fail(Failure::WrongReserve { cpu: self.cpu, node, frames });
        }
    }

    /// Leaves objects of the largest class with the heap, free. Returns their layout.
    fn cache_objects(&self) -> Option<Layout> {
        let heap = self.run.rig.service().heap()?.heap();
        let layout = Layout::from_size_align(SizeClass::all().last()?.size(), 8).ok()?;
        let mut objects = [None; OBJECTS];
        objects.fill_with(|| heap.try_alloc(layout).ok());
        for object in objects.into_iter().flatten() {
            // SAFETY: it has just come from this heap with this layout.
            if let Err(error) = unsafe { heap.free(object, layout) } {
                self.refused("freeing a heap object", crate::Text::display(&error));
            }
        }
        Some(layout)
    }

    /// Gives the service tasks time until the heap has no slab of the cached objects' class without an object that
    /// somebody holds.
    async fn await_reclaim(&self, layout: Layout) {
        let service = self.run.rig.service();
        let slabs = || {
            let heap = service.heap().map(|heap| heap.heap());
            let stats = heap.zip(SizeClass::of(layout)).map(|(heap, class)| heap.class_stats(class));
            stats.map_or(0, |stats| stats.slabs.saturating_sub(stats.live))
        };
        for _ in 0..RESTS {
            if slabs() == 0 {
                return;
            }
            self.run.rig.rest(1).await;
        }
        self.run.fail(Failure::NotReclaimed { cpu: self.cpu, slabs: slabs() });
    }

    /// Takes frames until there are none, onto the list that begins with `first`. Returns how many, and why no more.
    fn take_all(&self, request: &FrameRequest, first: &mut Option<PhysFrame>) -> (u64, AllocError) {
        let mut count = 0;
        loop {
            match self.run.rig.service().frames().alloc(&self.pin, request) {
                Ok(frame) => {
                    let next = first.map_or(0, |next| next.start_address().as_u64());
                    // Relaxed, as all uses of the list: it is this CPU's.
                    self.word(frame, 0).store(next, Ordering::Relaxed);
                    *first = Some(frame);
                    count += 1;
                }
                Err(error) => return (count, error),
            }
        }
    }

    /// The frame behind `frame` in a list of [`Worker::take_all`].
    fn next(&self, frame: PhysFrame) -> Option<PhysFrame> {
        let next = self.word(frame, 0).load(Ordering::Relaxed);
        (next != 0).then(|| PhysFrame::containing_address(PhysAddr::new(next)))
    }

    fn give(&self, frame: PhysFrame) {
        // SAFETY: `take_all` has allocated it, and nobody else knows it.
        let freed = unsafe { self.run.rig.service().frames().free(&self.pin, frame, Order::FRAME) };
        if let Err(error) = freed {
            self.refused("freeing a frame", crate::Text::display(&error));
        }
    }
}
