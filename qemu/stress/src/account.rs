//! Frames before and after: is everything back that was given out?

use topomem::numa::MAX_NODES;
use topomem::percpu::SizeClass;

use crate::Text;
use crate::{Failure, Rig, Run};

/// Where a machine's frames are while nobody works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Account {
    free: [u64; MAX_NODES],
    /// Frames that the heap holds, on whichever node: a kernel's other users keep objects.
    heap: u64,
}

impl Account {
    /// The account now, with all CPUs' caches drained.
    pub(crate) fn take<R: Rig>(run: &Run<R>) -> Account {
        let service = run.rig.service();
        let mut free = [0; MAX_NODES];
        for node in run.truth.nodes() {
            let stats = service.frames().stats(node);
            free[node.index()] = stats.map_or(0, |stats| stats.all_free() + stats.retired());
        }
        let heap = service.heap().map_or(0, |heap| {
            let heap = heap.heap();
            let slabs = SizeClass::all().map(|class| heap.class_stats(class).slab_bytes).sum::<u64>();
            (slabs + heap.large_stats().bytes) / 4096
        });
        Account { free, heap }
    }

    fn total(&self) -> u64 {
        self.free.iter().sum::<u64>() + self.heap
    }
}

/// Everything was given back: is it all there, and do the service's own counts agree?
pub(crate) fn check<R: Rig>(run: &Run<R>) {
    let service = run.rig.service();
    if let Err(error) = service.frames().validate() {
        run.fail(Failure::Inconsistent { part: "frames", error: Text::debug(&error) });
    }
    if let Some(Err(error)) = service.heap().map(|heap| heap.heap().validate()) {
        run.fail(Failure::Inconsistent { part: "heap", error: Text::debug(&error) });
    }
    let Some(before) = *run.baseline.lock() else { return };
    let after = Account::take(run);
    // Where the heap has grown or shrunk, on some node, only the sum tells.
    if before.heap != after.heap && before.total() == after.total() {
        return;
    }
    for node in run.truth.nodes() {
        let (before, after) = (before.free[node.index()], after.free[node.index()]);
        if before != after {
            run.fail(Failure::LostFrames { node, before, after });
        }
    }
}
