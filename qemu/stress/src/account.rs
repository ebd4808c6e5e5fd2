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
    let service = run.rig.service();
    if let Err(error) = service.frames().validate() {
        found(Failure::Inconsistent { part: "frames", error: Text::debug(&error) });
    }
    if let Some(Err(error)) = service.heap().map(|heap| heap.heap().validate()) {
        found(Failure::Inconsistent { part: "heap", error: Text::debug(&error) });
    }
    let Some(before) = *run.baseline.lock() else { return };
    let after = Account::now(run);
    // Where the heap has grown or shrunk, on some node, only the sum tells.
    if before.heap != after.heap && before.total() == after.total() {
        return;
    }
    for node in run.truth.nodes() {
        let (before, after) = (before.free[node.index()], after.free[node.index()]);
        if before != after {
            found(Failure::LostFrames { node, before, after });
        }
    }
}
