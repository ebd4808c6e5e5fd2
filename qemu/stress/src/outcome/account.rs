//! Frames before and after: is everything back that was given out?

use topomem::percpu::SizeClass;
use topomem::{CpuPin, Machine, MemoryService, NodeId};

use crate::Text;
use crate::{Failure, Rig, Run};

/// How many nodes are counted apart: as many as QEMU gives a machine. Nodes that far apart are counted together.
pub const COUNTED_NODES: usize = 128;

/// Where a machine's frames are while nobody works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Account {
    free: [u64; COUNTED_NODES],
    /// Frames that the heap holds, on whichever node: for objects, and for its record of runs.
    heap: u64,
    /// Objects in the heap that somebody holds.
    objects: u64,
}

/// How often to look again, and how long to wait between, in milliseconds: a service task may be
/// moving a frame, on a CPU that the host keeps waiting.
const LOOKS: usize = 50;
const REST: u32 = 5;

impl Account {
    /// The account, with all CPUs' caches drained: once it stays the same for a moment.
    pub(crate) async fn take<R: Rig>(run: &Run<R>) -> Account {
        let mut account = Account::now(run);
        for _ in 0..LOOKS {
            run.rig.rest(REST).await;
            let before = core::mem::replace(&mut account, Account::now(run));
            if before == account {
                break;
            }
        }
        account
    }

    fn now<R: Rig>(run: &Run<R>) -> Account {
        Account::of(run.rig.service(), run.truth.nodes())
    }

    /// The account of `nodes` now. It is exact once [`drain`] has been called on each CPU, and nothing has
    /// retired.
    pub fn of<M: Machine>(service: &MemoryService<M>, nodes: impl Iterator<Item = NodeId>) -> Account {
        let mut free = [0; COUNTED_NODES];
        for node in nodes {
            let stats = service.frames().stats(node);
            free[node.index() % COUNTED_NODES] += stats.map_or(0, |stats| stats.all_free() + stats.retired());
        }
        let (mut bytes, mut objects) = (0, 0);
        if let Some(heap) = service.heap().map(|heap| heap.heap()) {
            let large = heap.large_stats();
            (bytes, objects) = (large.bytes + large.cached_bytes + heap.record_bytes(), large.live);
            for stats in SizeClass::all().map(|class| heap.class_stats(class)) {
                bytes += stats.slab_bytes;
                objects += stats.live;
            }
        }
        Account { free, heap: bytes / 4096, objects }
    }

    /// Calls `found` for each thing that is missing `after`.
    pub fn differences(
        &self,
        after: &Account,
        nodes: impl Iterator<Item = NodeId>,
        mut found: impl FnMut(Failure),
    ) {
        if self.objects != after.objects {
            found(Failure::LostObjects { before: self.objects, after: after.objects });
        }
        // Where the heap has grown or shrunk, on some node, only the sum tells.
        if self.heap != after.heap && self.total() == after.total() {
            return;
        }
        for node in nodes {
            let (before, after) =
                (self.free[node.index() % COUNTED_NODES], after.free[node.index() % COUNTED_NODES]);
            if before != after {
                found(Failure::LostFrames { node, before, after });
            }
        }
    }

    fn total(&self) -> u64 {
        self.free.iter().sum::<u64>() + self.heap
    }
}

/// Everything was given back: is it all there, and do the service's own counts agree? What is wrong
/// must stay so.
pub(crate) async fn check<R: Rig>(run: &Run<R>) {
    for _ in 0..LOOKS {
        let mut right = true;
        differences(run, |_| right = false);
        if right {
            return;
        }
        run.rig.rest(REST).await;
    }
    differences(run, |failure| run.fail(failure));
}

fn differences<R: Rig>(run: &Run<R>, mut found: impl FnMut(Failure)) {
    inconsistencies(run.rig.service(), &mut found);
    let Some(before) = *run.baseline.lock() else { return };
    before.differences(&Account::now(run), run.truth.nodes(), found);
}

/// Calls `found` for each way in which the service's own counts disagree. Each CPU has called [`drain`].
pub fn inconsistencies<M: Machine>(service: &MemoryService<M>, mut found: impl FnMut(Failure)) {
    if let Err(error) = service.frames().validate() {
        found(Failure::Inconsistent { part: "frames", error: Text::debug(&error) });
    }
    if let Some(heap) = service.heap().map(|heap| heap.heap()) {
        if let Err(error) = heap.validate() {
            found(Failure::Inconsistent { part: "heap", error: Text::debug(&error) });
        }
        // A drained heap has given back every slab without an object that somebody holds.
        for stats in SizeClass::all().map(|class| heap.class_stats(class)) {
            if stats.slabs > stats.live {
                let object_size = stats.object_size as u32;
                found(Failure::IdleSlabs { object_size, slabs: stats.slabs, live: stats.live });
            }
        }
    }
}

/// Returns what the pinned CPU caches of frames and objects.
pub fn drain<M: Machine>(service: &MemoryService<M>, pin: &CpuPin) {
    if let Some(heap) = service.heap() {
        heap.heap().drain(pin);
    }
    service.frames().drain(pin);
}
